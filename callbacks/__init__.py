"""What acts during `fit`."""

from kprune.callbacks.base import PruningCallback as PruningCallback
from kprune.callbacks.prune import PruneCallback as PruneCallback
