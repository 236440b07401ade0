# Written by `make format`.

from kprune.masking.state import WeightSnapshot as WeightSnapshot
from kprune.recovery._paired import PairedRun as PairedRun
from kprune.recovery.allocation.output_error import OutputError as OutputError
from kprune.recovery.base import Recovery as Recovery
from kprune.recovery.base import get as get
from kprune.recovery.base import names as names
from kprune.recovery.base import recover as recover
from kprune.recovery.base import register as register
from kprune.recovery.bias import BiasCorrection as BiasCorrection
from kprune.recovery.bn import BatchStatistics as BatchStatistics
from kprune.recovery.criteria.reconstruction import Reconstruction as Reconstruction
from kprune.recovery.interaction_match import InteractionMatch as InteractionMatch
from kprune.recovery.merge import Merge as Merge
from kprune.recovery.mimic import Mimic as Mimic
from kprune.recovery.reconstruct import Reconstruct as Reconstruct
from kprune.recovery.sketch import Sketch as Sketch
from kprune.recovery.synthetic import Synthetic as Synthetic
