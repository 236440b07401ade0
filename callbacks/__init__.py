"""What acts during `fit`."""

from kprune.callbacks.base import PruningCallback as PruningCallback
from kprune.lazy import part_attributes

__getattr__, __dir__ = part_attributes(__name__, __path__)
