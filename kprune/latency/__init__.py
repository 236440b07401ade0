"""Latency, measured operator by operator, and pruning for it."""

from kprune.latency.allocation import Latency as Latency
from kprune.latency.model import LatencyModel as LatencyModel
from kprune.latency.model import predict as predict
from kprune.latency.profiling import profile as profile
from kprune.latency.table import LatencyTable as LatencyTable
from kprune.latency.table import load as load
