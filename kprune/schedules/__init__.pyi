# Written by `make format`.

from kprune.schedules.asymptotic import Asymptotic as Asymptotic
from kprune.schedules.base import Schedule as Schedule
from kprune.schedules.base import get as get
from kprune.schedules.base import names as names
from kprune.schedules.base import register as register
from kprune.schedules.constant import Constant as Constant
from kprune.schedules.increments import Increments as Increments
from kprune.schedules.linear import Linear as Linear
from kprune.schedules.one_shot import OneShot as OneShot
from kprune.schedules.polynomial import Polynomial as Polynomial
