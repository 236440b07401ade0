"""kprune: smaller and faster Keras models by removing whole filters."""

from kprune.graph import trace as trace
from kprune.graph import register_rule as register_rule
from kprune.masking import FilterMask as FilterMask
from kprune.masking import masks as masks
from kprune.masking import set_masks as set_masks
from kprune.masking import wrap as wrap
from kprune.rebuild.api import rebuild as rebuild
