# Written by `make format`.

from kprune.factors.base import Factor as Factor
from kprune.factors.base import Function as Function
from kprune.factors.base import get as get
from kprune.factors.base import names as names
from kprune.factors.base import register as register
from kprune.factors.constant import Constant as Constant
from kprune.factors.cosine import Cosine as Cosine
from kprune.factors.exponential import Exponential as Exponential
from kprune.factors.linear import Linear as Linear
