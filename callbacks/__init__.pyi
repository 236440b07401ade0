# Written by `make format`.

from kprune.callbacks.attenuate import AttenuateCallback as AttenuateCallback
from kprune.callbacks.base import PruningCallback as PruningCallback
from kprune.callbacks.binarize import BinarizeCallback as BinarizeCallback
from kprune.callbacks.cluster import ClusterCallback as ClusterCallback
from kprune.callbacks.duplicate import DuplicateCallback as DuplicateCallback
from kprune.callbacks.duplicate import Merge as Merge
from kprune.callbacks.dynamic import DynamicGateCallback as DynamicGateCallback
from kprune.callbacks.gate import GateCallback as GateCallback
from kprune.callbacks.prune import PruneCallback as PruneCallback
from kprune.callbacks.regularize import RegularizeCallback as RegularizeCallback
from kprune.callbacks.soft import SoftPruneCallback as SoftPruneCallback
