"""From the masked model to the compact one."""

from kprune.rebuild.api import rebuild as rebuild
