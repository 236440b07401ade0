"""Sessions, which own a masked model and its samples."""

from kprune.session.dynamic import dynamic_cost as dynamic_cost
from kprune.session.session import Session as Session
