"""Allocations: which channels each group keeps.

An allocation is given as a name such as `"global"` (see `names`), an object, a
dictionary `{group name: share to remove}`, or any function
`f(scores) -> priorities`. Each is a file of its name, here or in the folder
`allocation` of a higher package.
"""

from kprune.allocation._api import allocate as allocate
from kprune.allocation._api import get as get
from kprune.allocation._api import names as names
from kprune.allocation._api import request as request
from kprune.allocation._api import solve as solve
from kprune.allocation._api import targets as targets
from kprune.allocation._ladders import Ladder as Ladder
from kprune.allocation._manual import Manual as Manual
from kprune.allocation.base import Allocation as Allocation
from kprune.allocation.base import LimitedAllocation as LimitedAllocation
from kprune.allocation.base import RankedAllocation as RankedAllocation
from kprune.allocation.base import Request as Request
from kprune.allocation.base import register as register
from kprune.lazy import part_attributes as _attributes

__getattr__, __dir__ = _attributes(__name__)
