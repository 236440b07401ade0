"""Schedules: when to prune.

A schedule is given as a name such as `"linear"` (see `names`), an object, or any
function `f(epoch)` that returns a share of the target. Each is a file of its name.
"""

from kprune.lazy import part_attributes as _attributes
from kprune.schedules.base import Schedule as Schedule
from kprune.schedules.base import get as get
from kprune.schedules.base import names as names
from kprune.schedules.base import register as register

__getattr__, __dir__ = _attributes(__name__)
