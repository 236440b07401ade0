"""Recoveries: repairing the weights of a pruned model without labels.

A recovery is given as a name such as `"bn"` (see `names`), an object, or any
function `f(session, before) -> None`. Each is a file of its name.
"""

from kprune.lazy import part_attributes as _attributes
from kprune.masking.state import WeightSnapshot as WeightSnapshot
from kprune.recovery._paired import PairedRun as PairedRun
from kprune.recovery.allocation.output_error import OutputError as OutputError
from kprune.recovery.base import Recovery as Recovery
from kprune.recovery.base import get as get
from kprune.recovery.base import names as names
from kprune.recovery.base import recover as recover
from kprune.recovery.base import register as register
from kprune.recovery.criteria.reconstruction import (
    Reconstruction as Reconstruction,
)

__getattr__, __dir__ = _attributes(__name__)
