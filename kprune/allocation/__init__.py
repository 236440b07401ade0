"""Allocations: how many channels each group keeps, and which.

`"global"`, `"uniform"`, `"similarity"`, `"greedy_loss"`, `"rounds"`, a dictionary
`{group name: share to remove}`, or any function `f(scores) -> priorities`.
"""

from kprune.allocation.api import allocate as allocate
from kprune.allocation.api import get as get
from kprune.allocation.api import names as names
from kprune.allocation.api import request as request
from kprune.allocation.api import solve as solve
from kprune.allocation.api import targets as targets
from kprune.allocation.base import Allocation as Allocation
from kprune.allocation.base import LimitedAllocation as LimitedAllocation
from kprune.allocation.base import RankedAllocation as RankedAllocation
from kprune.allocation.base import Request as Request
from kprune.allocation.base import register as register
from kprune.allocation.greedy_loss import GreedyLoss as GreedyLoss
from kprune.allocation.ladders import Ladder as Ladder
from kprune.allocation.manual import Manual as Manual
from kprune.allocation.ranking import Global as Global
from kprune.allocation.ranking import SimilarityThreshold as SimilarityThreshold
from kprune.allocation.ranking import Uniform as Uniform
from kprune.allocation.rounds import Rounds as Rounds
