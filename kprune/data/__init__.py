"""Data sets for demonstrations, examples and benchmarks."""

from kprune.data.cifar10 import load_cifar10 as load_cifar10
from kprune.data.cifar10 import normalize_cifar10 as normalize_cifar10
from kprune.data.digits import load_digits as load_digits
from kprune.data.pipeline import batches as batches
from kprune.data.pipeline import flip_and_crop as flip_and_crop
from kprune.data.splits import Splits as Splits
from kprune.lazy import public_dir as _public_dir

__all__ = [
    "Splits",
    "batches",
    "flip_and_crop",
    "load_cifar10",
    "load_digits",
    "normalize_cifar10",
]

__dir__ = _public_dir(__name__)
