"""Callbacks that prune, attenuate, duplicate or regularise filters during `fit`."""

from kprune.callbacks.base import PruningCallback as PruningCallback
from kprune.lazy import part_attributes as _attributes

__getattr__, __dir__ = _attributes(__name__, __path__)
