"""Runtimes whose operators can be timed, such as `"litert"`. See `names`."""

from kprune.latency.runtimes.base import Runtime as Runtime
from kprune.latency.runtimes.base import get as get
from kprune.latency.runtimes.base import names as names
from kprune.latency.runtimes.base import register as register
from kprune.lazy import part_attributes as _attributes

__getattr__, __dir__ = _attributes(__name__)
