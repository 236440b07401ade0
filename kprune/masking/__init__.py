"""Filter masks, which let a model train as if it were pruned."""

from kprune.masking.attenuated import attenuation as attenuation
from kprune.masking.attenuated import set_attenuation as set_attenuation
from kprune.masking.dynamic import DynamicGate as DynamicGate
from kprune.masking.filter_mask import FilterMask as FilterMask
from kprune.masking.gate import Gate as Gate
from kprune.masking.gate import GatedInput as GatedInput
from kprune.masking.gating import acting_gates as acting_gates
from kprune.masking.gating import add_dynamic_gates as add_dynamic_gates
from kprune.masking.gating import add_gates as add_gates
from kprune.masking.gating import close_gates as close_gates
from kprune.masking.gating import gates as gates
from kprune.masking.gating import protect_gates as protect_gates
from kprune.masking.gating import require_no_gates as require_no_gates
from kprune.masking.temporary import TemporaryMasks as TemporaryMasks
from kprune.masking.wrapping import filter_masks as filter_masks
from kprune.masking.wrapping import is_masked as is_masked
from kprune.masking.wrapping import masks as masks
from kprune.masking.wrapping import require_masked as require_masked
from kprune.masking.wrapping import require_prunable as require_prunable
from kprune.masking.wrapping import set_masks as set_masks
from kprune.masking.wrapping import trained_part as trained_part
from kprune.masking.wrapping import wrap as wrap
