"""Attenuation-factor schedules.

A factor is given as a name such as `"linear"` (see `names`), an object, a number
from 0 to 1, or any function `f(progress) -> factor`. Each is a file of its name.
"""

from kprune.factors.base import Factor as Factor
from kprune.factors.base import Function as Function
from kprune.factors.base import get as get
from kprune.factors.base import names as names
from kprune.factors.base import register as register
from kprune.lazy import part_attributes as _attributes

__getattr__, __dir__ = _attributes(__name__)
