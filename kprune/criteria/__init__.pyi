# Written by `make format`.

from kprune.criteria._similarities import twins as twins
from kprune.criteria.activation import Activation as Activation
from kprune.criteria.apoz import APoZ as APoZ
from kprune.criteria.base import Criterion as Criterion
from kprune.criteria.base import GroupCriterion as GroupCriterion
from kprune.criteria.base import filters as filters
from kprune.criteria.base import get as get
from kprune.criteria.base import names as names
from kprune.criteria.base import register as register
from kprune.criteria.base import score_groups as score_groups
from kprune.criteria.bn_scale import BNScale as BNScale
from kprune.criteria.folded import Folded as Folded
from kprune.criteria.fpgm import FPGM as FPGM
from kprune.criteria.l1 import L1 as L1
from kprune.criteria.l2 import L2 as L2
from kprune.criteria.loss_increase import LossIncrease as LossIncrease
from kprune.criteria.msvfp import Switch as Switch
from kprune.criteria.random import Random as Random
from kprune.criteria.similarity import Similarity as Similarity
from kprune.criteria.taylor import Taylor as Taylor
from kprune.recovery.criteria.reconstruction import Reconstruction as Reconstruction
