"""Binary filters with shared scales: straight-through training, and a file format.

After "Cross-filter compression" (Lyu, Zhu and Liu, arXiv 2005.09034).
"""

from kprune.binary.codec import Figures as Figures
from kprune.binary.codec import figures as figures
from kprune.binary.files import load as load
from kprune.binary.files import save as save
from kprune.binary.training import BinaryFilters as BinaryFilters
from kprune.binary.training import attach as attach
from kprune.binary.training import detach as detach
from kprune.lazy import public_dir as _public_dir

__dir__ = _public_dir(__name__)
