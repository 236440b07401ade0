"""Measure latency operator by operator, and prune for it."""

from kprune.latency.allocation.latency import Latency as Latency
from kprune.latency.files import write_files as write_files
from kprune.latency.logs import read_logs as read_logs
from kprune.latency.model import LatencyModel as LatencyModel
from kprune.latency.model import predict as predict
from kprune.latency.profiling import profile as profile
from kprune.latency.table import LatencyTable as LatencyTable
from kprune.latency.table import load as load
from kprune.lazy import public_dir as _public_dir

__dir__ = _public_dir(__name__)
