# Written by `make format`.

from ..callbacks.attenuate import AttenuateCallback as AttenuateCallback
from ..callbacks.base import PruningCallback as PruningCallback
from ..callbacks.binarize import BinarizeCallback as BinarizeCallback
from ..callbacks.cluster import ClusterCallback as ClusterCallback
from ..callbacks.duplicate import DuplicateCallback as DuplicateCallback
from ..callbacks.duplicate import Merge as Merge
from ..callbacks.dynamic import DynamicGateCallback as DynamicGateCallback
from ..callbacks.gate import GateCallback as GateCallback
from ..callbacks.prune import PruneCallback as PruneCallback
from ..callbacks.regularize import RegularizeCallback as RegularizeCallback
from ..callbacks.soft import SoftPruneCallback as SoftPruneCallback
