"""Filter duplication."""

from __future__ import annotations

from typing import Any

import keras

from kprune.callbacks import DuplicateCallback
from kprune.callbacks import Merge
from kprune.duplication import Copies
from kprune.duplication import duplicate
from kprune.recipes._page import before
from kprune.recipes._page import during
from kprune.recipes._page import tuning
from kprune.recipes.base import Recipe
from kprune.recipes.base import register


@register("duplication")
class Duplication(Recipe):
    """Replace unimportant filters with copies of critical ones before pruning.

    Args:
        reduce: See `kprune.recipe`.
        data: Training samples `(x, y)`. On 1,000 of them it is measured how much
            replacement each layer tolerates.
        epochs: See `kprune.recipe`. The first third trains with copies.
        **parts: Arguments of `kprune.callbacks.DuplicateCallback`:
            `criterion`, `allocation`, `copies`, `merge`.
    """

    summary = (
        "The unimportant filters of a trained model are overwritten by copies of "
        "critical ones, as many in each layer as it tolerates. The model trains with "
        "the copies, they are merged, and fine-tuning follows."
    )
    citation = "Ikuta, Yata and Manabe, filter duplication, IWAIT 2024"
    url = "https://doi.org/10.1117/12.3018876"
    when = (
        "You have labels, and layers differ in redundancy. The shares that it measures "
        'helped; its copies added nothing to `allocation="tolerance"` with L1.'
    )

    @property
    def defaults(self) -> dict[str, Any]:
        return {
            "criterion": "l1",
            "allocation": "tolerance",
            "copies": Copies(),
            "merge": Merge(epoch=max(1, self.epochs // 3)),
        }

    def start(self, masked: keras.Model) -> None:
        # Without a loss, the callback duplicates when training begins, and with noise,
        # because it would not recognise the copies and make them again.
        if masked.compiled and not self._noisy:
            parts = {k: v for k, v in self.parts.items() if k != "merge"}
            reduce = self.reduce or None
            duplicate(
                masked,
                **parts,
                reduce=reduce,
                data=self.data,
                recover=self.recover,
            )

    def actions(self) -> list[keras.callbacks.Callback]:
        return [DuplicateCallback(**self.parts, **self.task)]

    @property
    def _noisy(self) -> bool:
        return (self.parts["copies"] or Copies()).noise > 0

    def phases(self) -> list[tuple[str, str]]:
        end = self.parts["merge"].epoch
        merged = "after training" if end is None else before([end])
        end = self.epochs if end is None else end
        return [
            (
                before([0]) if self._noisy else "in prepare",
                "unimportant filters become copies of critical ones",
            ),
            (during(0, end), "training with copies"),
            (merged, "copies are merged and removed"),
            *tuning(end, self.epochs),
        ]
