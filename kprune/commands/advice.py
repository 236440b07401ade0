"""Advice that follows from the scores of a model, with commands to run."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from kprune.commands.line import CommandLine
from kprune.commands.prune import EPOCHS
from kprune.data import pixels
from kprune.data.inputs import ModelInputs
from kprune.report import units

if TYPE_CHECKING:
    from kprune.commands.scoring import Score
    from kprune.commands.scoring import Scorer

LOSS = 0.02
"""Loss of accuracy, as a share, from which repair or training is suggested."""

AGREEMENT = 0.95
"""Share of samples below which the agreement with the original is too low."""

BETTER = 0.2
"""Gain of accuracy, as a share, for which another range or order is suggested."""

TRIED = 64
"""Number of images on which other pixel ranges are tried."""


@dataclasses.dataclass(frozen=True)
class Advice:
    """A warning with a suggestion.

    Args:
        message: The observation, and what to do.
        command: Command line to do it, or None.
    """

    message: str
    command: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the advice as plain data, for JSON."""
        return dataclasses.asdict(self)

    def print(self) -> None:
        """Print the advice to standard error."""
        print(f"kprune: warning: {self.message}", file=sys.stderr)
        if self.command is not None:
            print(f"  {self.command}", file=sys.stderr)


def near_chance(score: Score, classes: np.ndarray | None) -> bool:
    """Return whether a classifier is hardly better than guessing.

    All classes have the same weight, so that predicting a frequent class does not
    count as knowledge.

    Args:
        score: The score of the classifier.
        classes: Class of each sample.
    """
    if classes is None or score.recall is None:
        return False
    counts = np.unique(classes, return_counts=True)[1]
    if len(counts) < 2:
        return False
    guess = 1 / len(counts)
    error = np.sqrt(guess * (1 - guess) * np.mean(1 / counts) / len(counts))
    return bool(score.recall <= guess + 2 * error)


def about_original(
    scorer: Scorer, score: Score, command: CommandLine
) -> list[Advice]:
    """Return advice on the samples, from the scores of the original model.

    Args:
        scorer: Scorer of the samples and the original model.
        score: The score of the original model.
        command: The current command.
    """
    classes, names = scorer.classes, scorer.samples.classes
    found: list[Advice] = []
    outputs = scorer.reference[0].shape[-1]
    if names is not None and 1 < len(names) != outputs > 1:
        found.append(
            Advice(
                f"{scorer.samples.name} has {len(names)} classes, the model "
                f"{outputs} outputs. Classes are numbered in the order of their names."
            )
        )
    if classes is None or score.accuracy is None:
        return found
    reason = _other_numbers(scorer, score.accuracy) or _other_range(
        scorer, command
    )
    accuracy = units.percent(score.accuracy)
    right = f"The original model has an accuracy of only {accuracy}"
    if reason is not None:
        found.append(Advice(f"{right}: {reason.message}", reason.command))
    elif near_chance(score, classes):
        found.append(
            Advice(
                f"{right}, hardly better than guessing. Are these the kind of samples "
                "that it was trained on, with the same scaling and order of classes?"
            )
        )
    return found


def _other_numbers(scorer: Scorer, accuracy: float) -> Advice | None:
    """Return advice if another order of the classes would be more accurate."""
    from scipy.optimize import linear_sum_assignment

    scores, classes = scorer.reference[0], scorer.classes
    number = scores.shape[1]
    if classes is None or number < 2 or len(classes) < 5 * number:
        return None
    table = np.zeros((number, number), "int64")
    np.add.at(table, (classes, scores.argmax(axis=1)), 1)
    rows, columns = linear_sum_assignment(-table)
    if table[rows, columns].sum() / len(classes) - accuracy < BETTER:
        return None
    moved = [
        (table[r, c], r, c)
        for r, c in zip(rows, columns, strict=True)
        if r != c
    ]
    _, row, column = max(moved)
    names = scorer.samples.classes
    label = f"{row}" if names is None else f"{row} ({names[row]!r})"
    return Advice(
        f"its classes seem to be in another order than the labels. For example, "
        f"label {label} mostly gets output {column}. With the order of training, the "
        f"accuracy would be {units.percent(table[rows, columns].sum() / len(classes))}."
    )


def _other_range(scorer: Scorer, command: CommandLine) -> Advice | None:
    """Return advice if another pixel range would be more accurate."""
    from kprune.commands.samples import predictor

    samples, classes = scorer.samples, scorer.classes
    images = pixels.as_images(samples.x, ModelInputs(scorer.original).inputs)
    if images is None or classes is None:
        return None
    step = max(1, len(classes) // TRIED)
    some, labels = images[::step][:TRIED], classes[::step][:TRIED]
    mode = samples.mode if samples.pixels else pixels.guess_range(some)
    raw = pixels.unscaled(some, mode)
    if raw is None:
        return None
    modes = pixels.candidates(raw, pixels.channels_first(raw))
    right = pixels.accuracies(raw, labels, predictor(scorer.original), modes)
    if not right:
        return None
    best = max(right, key=lambda other: right[other])
    if right[best] - right[mode] < BETTER:
        return None
    text = (
        f"its pixels seem to be in another range ({pixels.MODES[mode]}) than in "
        f"training. With the range {pixels.MODES[best]}, the accuracy on "
        f"{len(labels)} samples is {units.percent(right[best])}."
    )
    return Advice(text, command.with_options(pixels=best))


def about_result(
    scorer: Scorer,
    before: Score,
    after: Score,
    command: CommandLine,
    repaired: bool = False,
) -> list[Advice]:
    """Return advice for a pruned model that lost accuracy.

    Args:
        scorer: Scorer of the samples and the original model.
        before: The score of the original model.
        after: The score of the pruned model.
        command: The command that pruned it.
        repaired: Whether its layers were repaired.
    """
    lost = _loss(scorer, before, after)
    if lost is None:
        return []
    given = command.options
    plain = {"criterion": None, "allocation": None, "recover": None}
    model = scorer.original
    changes: dict[str, Any]
    if "--data" not in given:
        way = "Pass samples to choose filters and repair layers with."
        changes = {**plain, "data": given["--validation"]}
    elif {"--method", "--recover"} & set(given) == {"--method"} and (
        given["--method"] != "refit"  # It repairs them by default.
    ):
        way = "Repair the layers before training."
        changes = {"recover": "reconstruct"}
    elif "--method" in given:
        way = "Train longer, or remove less."
        changes = {"epochs": 2 * int(given.get("--epochs", EPOCHS))}
    elif not repaired:
        way, changes = "Repair the layers.", plain
    elif given.get("--recover") != "mimic":
        way = (
            "Train it to reproduce the outputs of the original, or remove less."
        )
        changes = {"recover": "mimic"}
    elif scorer.labelled and model.compiled and model.loss is not None:
        way = "Train it with the labels too, or remove less."
        changes = {
            **plain,
            "allocation": _allocation_of(given),
            "method": "refit",
            "epochs": EPOCHS,
        }
    else:
        return [Advice(f"{lost} Remove less, or pass more samples.")]
    return [Advice(f"{lost} {way}", command.with_options(**changes))]


def _allocation_of(given: dict[str, Any]) -> str | None:
    """Return the allocation that the other options of a command need with a method.

    A method has an allocation of its own, which takes no rounding and no device.

    Args:
        given: The options of a command without a method.
    """
    if "--round-to" in given:
        return str(given.get("--allocation", "global"))
    if given.keys() & {"--latency-table", "--runtime", "--dtype"}:
        return str(given.get("--allocation", "output_error"))
    return None


def _loss(scorer: Scorer, before: Score, after: Score) -> str | None:
    """Return a sentence on the lost accuracy, or None if it is small."""
    if before.accuracy is not None and after.accuracy is not None:
        right = units.percent(after.accuracy)
        low = near_chance(after, scorer.classes)
        if low and not near_chance(before, scorer.classes):
            return (
                f"The pruned model has an accuracy of {right}, hardly better than "
                "guessing."
            )
        if before.accuracy - after.accuracy > LOSS:
            points = 100 * (before.accuracy - after.accuracy)
            return f"The pruned model lost {points:.1f} points of accuracy."
        return None
    if after.agreement is not None and after.agreement < AGREEMENT:
        return (
            "The pruned model agrees with the original on the class of only "
            f"{units.percent(after.agreement)} of the samples."
        )
    return None
