"""Penalties on the kernels of a model during training."""

from kprune.lazy import public_dir as _public_dir
from kprune.regularizers.attaching import attach as attach
from kprune.regularizers.attaching import detach as detach
from kprune.regularizers.hierarchical import (
    HierarchicalGroupSparsity as HierarchicalGroupSparsity,
)
from kprune.regularizers.orthonormal import Orthonormal as Orthonormal
from kprune.regularizers.penalties import names as names
from kprune.regularizers.penalties import register as register

__dir__ = _public_dir(__name__)
