"""Conversion of a masked model to a compact one."""

from kprune.rebuild.api import rebuild as rebuild
