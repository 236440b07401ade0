"""Factors: by how much attenuation scales weak filters, period by period.

`"constant"`, `"linear"`, `"exponential"`, `"cosine"`, a number from 0 to 1, or any
function `f(progress) -> factor`.
"""

from kprune.factors.base import Factor as Factor
from kprune.factors.base import Function as Function
from kprune.factors.base import get as get
from kprune.factors.base import names as names
from kprune.factors.base import register as register
from kprune.lazy import part_attributes

__getattr__, __dir__ = part_attributes(__name__)
