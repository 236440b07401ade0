"""Repair without data, from the statistics of batch normalisation."""

from __future__ import annotations

from typing import Any

from kprune.data.inputs import fixed_batch
from kprune.data.needs import takes_any_batch
from kprune.graph import walk
from kprune.graph.sizes import open_size
from kprune.masking.state import WeightSnapshot
from kprune.recovery._calibration import calibrated
from kprune.recovery._calibration import noise
from kprune.recovery._calibration import norms
from kprune.recovery.base import Recovery
from kprune.recovery.base import get
from kprune.recovery.base import register
from kprune.recovery.base import run
from kprune.session import Session


@register("synthetic")
class Synthetic(Recovery):
    """Repairs on synthetic inputs, so that no data is needed.

    The model runs on noise, and each batch normalisation uses the statistics of
    its input on that noise. So the following layers see channels of mean `beta`
    and standard deviation `gamma`, as on the training data. The means after
    activations are then those of "Data-Free Quantization Through Weight
    Equalization and Bias Correction" (Nagel et al., arXiv 1906.04721), and the
    correlations of channels follow from the kernels, as in "Neuron Merging" (Kim
    et al., arXiv 2010.13160). Another recovery repairs the model on these inputs.
    Then the model's own statistics are restored, with the changes made by the
    recovery.

    Models without batch normalisation, with integer inputs, or with inputs of unknown
    size that need more than 224 pixels, are not changed.

    Args:
        samples: Largest number of inputs to generate.
        recovery: The recovery to use on them: `"reconstruct"`, `"bias"`, an
            object of `kprune.recovery`, or a list.
        seed: Seed of the noise.

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
        """Return whether the model has batch normalisation and takes noise.

        Inputs are floats, in batches of any size. Their unknown sizes, if any, have a
        value for which no tensor is empty.
        """
        functional = walk.require_functional(session.masked)
        real = all("float" in str(t.dtype) for t in functional.inputs)
        return (
            real
            and bool(norms(session.masked))
            and open_size(functional) is not None
            and (
                fixed_batch(functional) is None
                or takes_any_batch(functional, noise(functional, 1))
            )
        )

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        if not self.applies(session):
            return
        pruned = session.snapshot()
        before.restore()
        with calibrated(session, self.samples, self.seed) as calibration:
            past = session.snapshot()
            pruned.restore()
            calibration.hold()
            run(session, past, self.recovery)
