"""Filter duplication: unimportant filters become copies of important ones.

After "filter duplication" (Ikuta, Yata and Manabe, IWAIT 2024, DOI
10.1117/12.3018876).
"""

from kprune.duplication.allocation.fur import FUR as FUR
from kprune.duplication.allocation.importance import Importance as Importance
from kprune.duplication.allocation.tolerance import Tolerance as Tolerance
from kprune.duplication.api import duplicate as duplicate
from kprune.duplication.consumers import Absorb as Absorb
from kprune.duplication.consumers import ConsumerRule as ConsumerRule
from kprune.duplication.consumers import Naive as Naive
from kprune.duplication.consumers import Split as Split
from kprune.duplication.consumers import Zero as Zero
from kprune.duplication.copies import Copies as Copies
from kprune.duplication.donors import DonorMap as DonorMap
from kprune.duplication.donors import Vacancies as Vacancies
from kprune.duplication.growth import grow as grow
from kprune.duplication.redundancy import Redundancy as Redundancy
from kprune.lazy import public_dir as _public_dir

__dir__ = _public_dir(__name__)
