"""Score models and exported files on the user's samples."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.data.inputs import BATCH
from kprune.data.inputs import Input
from kprune.data.pipeline import batches
from kprune.data.reading import Samples
from kprune.data.source import Source
from kprune.data.targets import chosen
from kprune.data.targets import class_indices
from kprune.export.differences import compare_outputs
from kprune.export.formats import Job
from kprune.export.formats import format_for
from kprune.export.runtime import available_threads
from kprune.export.runtime import open_runtime
from kprune.export.signature import ModelSignature
from kprune.runs.logs import numbers

BATCH_SIZE = 64

_RIGHT = ("acc", "accuracy")
_OTHERS = re.compile(r"(?:^|_)top_?(?!1_)(?:k|\d+)_")
"""In the names of accuracies that count other classes than the first as right."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Score of one model or file.

    Args:
        metrics: Results of `model.evaluate` by name. The accuracy is added for a
            classifier without an accuracy among its metrics.
        agreement: Share of samples for which the class is the same as the
            original's; None if that was not compared.
        difference: Largest difference from the outputs of the original, as a
            share of the largest output.
        recall: Recall, as the mean over the classes.
    """

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    agreement: float | None = None
    difference: float | None = None
    recall: float | None = None

    @property
    def accuracy(self) -> float | None:
        """Accuracy from 0 to 1; None if it was not measured."""
        found = [
            name
            for name in self.metrics
            if name in _RIGHT
            or (name.endswith("_accuracy") and not _OTHERS.search(name))
        ]
        best = max(found, key=_RIGHT.__contains__, default=None)
        return None if best is None else self.metrics[best]

    def to_dict(self) -> dict[str, Any]:
        """Return the score as plain data, for JSON."""
        return dataclasses.asdict(self)


class Scorer:
    """Scores models and files on the same samples.

    Args:
        samples: Samples that fit the models.
        original: The model that others are compared with.
        option: The option that samples come from, for messages.

    Raises:
        ValueError: The model cannot take the samples, or its loss the targets.

    Example:

    ```python
    scorer = Scorer(samples, model)
    scorer.model(model).metrics  # {"loss": 0.31, "accuracy": 0.91}
    scorer.file(compact, Path("model.tflite")).accuracy
    ```
    """

    def __init__(
        self, samples: Samples, original: keras.Model, option: str = "--data"
    ) -> None:
        self.samples = samples
        self.labelled = samples.y is not None
        self.source = Source(samples.data, BATCH_SIZE, original, option)
        if samples.y is not None:
            self.source.check_targets()
            # Without a loss nothing has checked this.
            if samples.y.dtype.kind not in "fiub":
                raise ValueError(
                    f"`{option}` holds targets of dtype {samples.y.dtype}, not "
                    "numbers. Convert them first."
                )
        self.original = original

    @functools.cached_property
    def reference(self) -> list[np.ndarray]:
        """The outputs of the original."""
        return self._predict(self.original)

    @functools.cached_property
    def classes(self) -> np.ndarray | None:
        """Class indices `(n,)`; None if the targets are something else."""
        return class_indices(self.samples.y, self.reference)

    def model(self, model: keras.Model) -> Score:
        """Score a Keras model with `model.evaluate`."""
        same = model is self.original
        outputs = self.reference if same else self._predict(model)
        if ModelSignature(model).batch_size is not None:
            # `evaluate` would need a number of samples that fills all batches.
            return self.outputs(outputs, model, same)
        return self._score(outputs, self._evaluate(model), same)

    def run(self, path: Path) -> list[np.ndarray]:
        """Return the outputs of a file with one input, on its own runtime.

        Raises:
            ValueError: The file has several inputs.
        """
        runtime = open_runtime(path, available_threads())
        x = keras.tree.flatten(self.source.inputs(self.samples.size))
        if len(runtime.inputs) != 1 or len(x) != 1:
            raise ValueError(
                f"{str(path)!r} has {len(runtime.inputs)} inputs; samples can only "
                "be matched with one."
            )
        (spec,) = runtime.inputs
        wanted = Input(spec.name, spec.shape[1:], spec.dtype)
        if BATCH not in wanted.readings(x[0].shape):
            raise ValueError(
                f"{str(path)!r} takes samples of shape {wanted.shape}. Received "
                f"{x[0].shape[1:]}."
            )
        ranked = wanted.ranked(x[0]).astype(spec.dtype)
        outputs = runtime.run_batched({spec.name: ranked})
        return [outputs[spec.name] for spec in runtime.outputs]

    def file(self, model: keras.Model, path: Path) -> Score:
        """Score a file that was exported from a model.

        Args:
            model: The model. It has the names of the inputs and outputs, and the
                compiled metrics.
            path: The file or folder.
        """
        job = Job(ModelSignature(model))
        outputs = format_for(path).run(job, path, self._inputs(job.signature))
        return self.outputs(outputs, model)

    def outputs(
        self,
        outputs: Sequence[np.ndarray],
        model: keras.Model | None,
        same: bool = False,
    ) -> Score:
        """Score outputs, with the metrics of a model if there is one.

        The loss is dropped if there are other metrics. It would differ from that of
        `model.evaluate`, because Keras computes a cross-entropy from the logits
        before a softmax, which a file does not have.

        Args:
            outputs: One array per output.
            model: A model with these outputs, or None.
            same: Whether they are those of the original itself.
        """
        metrics: dict[str, float] = {}
        if model is not None and self.labelled and _is_compiled(model):
            # Metrics whose code is not available are left out.
            with contextlib.suppress(TypeError, ValueError):
                metrics = self._metrics_of(outputs, model)
        score = self._score(outputs, metrics, same)
        if len(score.metrics) > 1:
            score.metrics.pop("loss", None)
        return score

    def _score(
        self,
        outputs: Sequence[np.ndarray],
        metrics: dict[str, float],
        same: bool = False,
    ) -> Score:
        score = Score(metrics)
        if not same:
            found = compare_outputs(self.reference, outputs)
            score = Score(metrics, found.top1, found.max_rel)
        if self.classes is None:
            return score
        right = chosen(outputs[0]) == self.classes
        recall = float(
            np.mean(
                [
                    right[self.classes == c].mean()
                    for c in np.unique(self.classes)
                ]
            )
        )
        if score.accuracy is None:
            metrics = {**metrics, "accuracy": float(right.mean())}
        return dataclasses.replace(score, metrics=metrics, recall=recall)

    def _evaluate(self, model: keras.Model) -> dict[str, float]:
        """Return the results of `model.evaluate`."""
        if not self.labelled or not _is_compiled(model):
            return {}
        for _ in self.source.labelled("Measuring accuracy"):
            pass  # Let kprune check the targets first, for clearer messages.
        x = self.source.inputs(self.samples.size)
        return _evaluate(model, x, self.samples.y)

    def _predict(self, model: keras.Model) -> list[np.ndarray]:
        signature = ModelSignature(model)

        def call(flat: list[np.ndarray]) -> list[Any]:
            outputs = model.predict_on_batch(signature.pack(flat))
            return list(keras.tree.flatten(outputs))

        x = self.source.inputs(self.samples.size)
        return signature.predict(keras.tree.flatten(x), call)

    def _inputs(self, signature: ModelSignature) -> list[np.ndarray]:
        flat = keras.tree.flatten(self.source.inputs(self.samples.size))
        return [
            array.astype(spec.dtype)
            for array, spec in zip(flat, signature.inputs, strict=True)
        ]

    def _metrics_of(
        self, outputs: Sequence[np.ndarray], model: keras.Model
    ) -> dict[str, float]:
        """Evaluate the metrics of a model on given outputs."""
        sequential = isinstance(model, keras.Sequential)
        structure = model.outputs[0] if sequential else model.output
        ends = [
            (
                keras.Input(t.shape[1:], dtype=t.dtype),
                t._keras_history.operation,
            )
            for t in keras.tree.flatten(structure)
        ]
        named = [
            keras.layers.Identity(name=end.name, dtype=start.dtype)(start)
            for start, end in ends
        ]
        same = keras.Model(
            [start for start, _ in ends],
            keras.tree.pack_sequence_as(structure, named),
        )
        config = {**model.get_compile_config(), "optimizer": "sgd"}
        same.compile_from_config(config)
        return _evaluate(same, list(outputs), self.samples.y)


class FileScorer(Scorer):
    """Scores exported files without a model, by accuracy and agreement.

    Args:
        samples: Samples that fit the files.
        first: The file that others are compared with.
        option: The option that samples come from, for messages.
    """

    def __init__(self, samples: Samples, first: Path, option: str) -> None:
        self.samples = samples
        self.labelled = samples.y is not None
        self.source = Source(samples.data, BATCH_SIZE, None, option)
        self._first = first

    @functools.cached_property
    def reference(self) -> list[np.ndarray]:
        """The outputs of the first file."""
        return self.run(self._first)


def _evaluate(model: keras.Model, x: Any, y: Any) -> dict[str, float]:
    # Use a tf.data pipeline, because `evaluate` can stall on arrays.
    logs = model.evaluate(
        batches(x, y, BATCH_SIZE), verbose=0, return_dict=True
    )
    return numbers(logs)


def _is_compiled(model: keras.Model) -> bool:
    return bool(model.compiled) and model.loss is not None
