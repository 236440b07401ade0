"""All that `import kprune` offers; `kprune.lazy` imports it when it is needed."""

from kprune import allocation as allocation
from kprune import binary as binary
from kprune import callbacks as callbacks
from kprune import criteria as criteria
from kprune import data as data
from kprune import duplication as duplication
from kprune import factors as factors
from kprune import latency as latency
from kprune import recipes as recipes
from kprune import recovery as recovery
from kprune import regularizers as regularizers
from kprune import schedules as schedules
from kprune.cost.api import Cost as Cost
from kprune.cost.api import cost as cost
from kprune.duplication.api import duplicate as duplicate
from kprune.export import VerificationError as VerificationError
from kprune.export import benchmark as benchmark
from kprune.export import compare as compare
from kprune.export import export as export
from kprune.graph import ChannelGraph as ChannelGraph
from kprune.graph import register_rule as register_rule
from kprune.graph import trace as trace
from kprune.loading import load as load
from kprune.masking import FilterMask as FilterMask
from kprune.masking import masks as masks
from kprune.masking import set_masks as set_masks
from kprune.masking import wrap as wrap
from kprune.pruning import prune as prune
from kprune.rebuild.api import rebuild as rebuild
from kprune.recipes.base import recipe as recipe
from kprune.runs.replay import replay as replay
from kprune.runs.run import Run as Run
from kprune.schedules import Linear as Linear
from kprune.schedules import OneShot as OneShot
from kprune.schedules import Polynomial as Polynomial
from kprune.sensitivity import Sensitivity as Sensitivity
from kprune.sensitivity import sensitivity as sensitivity
from kprune.session import Session as Session
from kprune.session import dynamic_cost as dynamic_cost
from kprune.sweep import best_model as best_model
from kprune.sweep import sweep as sweep

__version__: str
