"""Repair without any data, by what batch normalisation remembers of it."""

from __future__ import annotations

from typing import Any

from kprune.graph import walk
from kprune.masking.state import WeightSnapshot
from kprune.recovery._calibration import calibrated
from kprune.recovery._calibration import norms
from kprune.recovery.base import Recovery
from kprune.recovery.base import get
from kprune.recovery.base import register
from kprune.session import Session


@register("synthetic")
class Synthetic(Recovery):
    """Repairs on synthetic inputs, so that it needs no data.

    The model is run on noise, each batch normalisation with the statistics
    that its input has then. What follows on it sees channels of mean `beta`
    and deviation `gamma`, as on the data that the model was trained on: the
    means behind activations are those of "Data-Free Quantization Through Weight
    Equalization and Bias Correction" (Nagel et al., arXiv 1906.04721), and how
    channels go together follows from the kernels, as in "Neuron Merging" (Kim
    et al., arXiv 2010.13160). On this another recovery works; then the model's
    own statistics come back, with what the recovery has changed in them.

    Models without batch normalisation, and those that take whole numbers, stay
    as they are.

    Args:
        samples: How many inputs to make at most.
        recovery: What repairs on them: `"reconstruct"`, `"bias"`, an object of
            `kprune.recovery`, or a list.
        seed: Of the noise.

    Example:

    ```python
    masked = kprune.prune(model, "l1", {"macs": 0.3}, recover="synthetic")
    ```
    """

    needs_data = False

    def __init__(
        self, samples: int = 512, recovery: Any = "reconstruct", seed: int = 0
    ) -> None:
        super().__init__(samples)
        self.recovery = get(recovery)
        self.seed = seed

    def applies(self, session: Session) -> bool:
        """Return whether the model has batch normalisation, and takes numbers."""
        inputs = walk.require_functional(session.masked).inputs
        real = all("float" in str(tensor.dtype) for tensor in inputs)
        return real and bool(norms(session.masked))

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        if not self.applies(session):
            return
        pruned = session.snapshot()
        before.restore()
        with calibrated(session, self.samples, self.seed) as calibration:
            past = session.snapshot()
            pruned.restore()
            calibration.hold()
            self.recovery.repair(session, past)
