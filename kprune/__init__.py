"""kprune: smaller and faster Keras models by removing whole filters."""

from __future__ import annotations

import sys

from kprune import lazy as _lazy
from kprune.__about__ import __version__ as __version__

sys.modules[__name__].__class__ = _lazy.Package
_lazy.register_saved()
