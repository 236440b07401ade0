"""MACs, parameters and bytes, of models and of candidate allocations."""

from kprune.cost.api import Cost as Cost
from kprune.cost.api import LayerCost as LayerCost
from kprune.cost.api import cost as cost
from kprune.cost.model import CostModel as CostModel
