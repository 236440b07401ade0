"""Criteria: how much each channel matters; larger = keep.

`"l1"`, `"l2"`, `"bn_scale"`, `"fpgm"`, `"taylor"`, `"activation"`, `"apoz"`,
`"random"`, `"similarity"`, `"msvfp"`, `"loss_increase"`, or any function
`f(group) -> scores (group.size,)`.
"""

from kprune.criteria.activation import Activation as Activation
from kprune.criteria.activation import APoZ as APoZ
from kprune.criteria.base import Criterion as Criterion
from kprune.criteria.base import GroupCriterion as GroupCriterion
from kprune.criteria.base import filters as filters
from kprune.criteria.base import get as get
from kprune.criteria.base import names as names
from kprune.criteria.base import register as register
from kprune.criteria.base import score_groups as score_groups
from kprune.criteria.batchnorm import BNScale as BNScale
from kprune.criteria.folded import Folded as Folded
from kprune.criteria.gradient import Taylor as Taylor
from kprune.criteria.loss_increase import LossIncrease as LossIncrease
from kprune.criteria.magnitude import L1 as L1
from kprune.criteria.magnitude import L2 as L2
from kprune.criteria.random import Random as Random
from kprune.criteria.similarity import FPGM as FPGM
from kprune.criteria.similarity import Similarity as Similarity
from kprune.criteria.similarity import twins as twins
from kprune.criteria.switch import Switch as Switch
