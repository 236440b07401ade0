# Written by `make format`.

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
from kprune.allocation.global_ import Global as Global
from kprune.allocation.greedy_loss import GreedyLoss as GreedyLoss
from kprune.allocation.rounds import Rounds as Rounds
from kprune.allocation.similarity import SimilarityThreshold as SimilarityThreshold
from kprune.allocation.uniform import Uniform as Uniform
from kprune.allocation.utilisation import Utilisation as Utilisation
from kprune.duplication.allocation.fur import FUR as FUR
from kprune.duplication.allocation.importance import Importance as Importance
from kprune.duplication.allocation.tolerance import Tolerance as Tolerance
from kprune.latency.allocation.latency import Latency as Latency
from kprune.latency.allocation.ram import Ram as Ram
from kprune.recovery.allocation.output_error import OutputError as OutputError
