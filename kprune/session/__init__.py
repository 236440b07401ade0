"""A masked model and its samples, and all that can be asked of them."""

from kprune.session.dynamic import dynamic_cost as dynamic_cost
from kprune.session.session import Session as Session
