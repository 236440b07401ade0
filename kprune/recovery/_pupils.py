"""Models to train, or to learn from, in place of a masked model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.graph import walk
from kprune.graph.kept import Kept
from kprune.graph.values import read
from kprune.masking import masks
from kprune.masking.state import WeightSnapshot
from kprune.rebuild import rebuild
from kprune.recovery._calibration import norms
from kprune.recovery._endings import ends
from kprune.recovery._features import last_features
from kprune.recovery._linear import linear
from kprune.session import Session
from kprune.session.gradients import trainable
from kprune.session.program import Program

MOMENTUM = 0.9
"""Largest momentum of moving statistics, as training takes only a few hundred steps."""


def unpruned(masked: keras.Model, before: WeightSnapshot) -> keras.Model:
    """Return a plain model that computes the same as a masked one before pruning.

    Args:
        masked: The masked model.
        before: Its weights and masks before pruning.
    """
    with before.back_in(masked):
        return rebuild(masked, merge=None)


def _kept(session: Session) -> Kept:
    alive = masks(session.masked, session.graph).items()
    return session.graph.kept({name: mask > 0 for name, mask in alive})


class Pupil:
    """The model to train in place of a masked one: usually its compact model.

    It is the masked model itself if the compact model's weights are not just cut
    out of it, for example because of attenuation factors.

    Args:
        session: The masked model.
        before: Its weights and masks before pruning.
    """

    def __init__(self, session: Session, before: WeightSnapshot) -> None:
        masked = session.masked
        self._kept = _kept(session)
        with before.back_in(masked):
            self._had = _kept(session)
        self.model = rebuild(masked, merge=None)
        self._pairs = _pairs(masked, self.model)
        if any(not self._is_cut(old, new) for old, new in self._pairs):
            self.model, self._pairs = masked, []

    @contextlib.contextmanager
    def trained(self, scale: float) -> Iterator[keras.Model]:
        """Return a context with the model to train. See `logits`."""
        held = [(norm, norm.momentum) for norm in norms(self.model)]
        penalties = [(v, v.regularizer) for v in self.model.weights]
        for norm, momentum in held:
            norm.momentum = min(momentum, MOMENTUM)
        for variable, _ in penalties:
            # A penalty would pull the weights away from the target.
            variable.regularizer = None
        try:
            with trainable(self.model), logits(self.model, scale) as model:
                yield model
        finally:
            for norm, momentum in held:
                norm.momentum = momentum
            for variable, penalty in penalties:
                variable.regularizer = penalty

    def features(self, teacher: keras.Model) -> list[tuple[Any, Any]]:
        """Return pairs of features of the teacher and of the model to train.

        See `last_features`. They have the channels that both models have. There are
        none if the masked model itself is trained.

        Args:
            teacher: The unpruned model. See `unpruned`.
        """
        masked = {id(new): old for old, new in self._pairs}
        found = []
        for theirs, ours in zip(
            last_features(teacher), last_features(self.model), strict=True
        ):
            if theirs is None or ours is None or id(ours.kernel) not in masked:
                continue
            kernel = masked[id(ours.kernel)]
            axis = len(kernel.shape) - 2
            now, had = (
                np.arange(kernel.shape[axis]) if index is None else index
                for index in (
                    self._kept.axis(kernel, axis),
                    self._had.axis(kernel, axis),
                )
            )
            # An operation that selects channels ends the features of one model only.
            wanted, channels, given = list(
                zip(theirs.tensors, theirs.axes, ours.tensors, strict=False)
            )[-1]
            # Channels that a gate had closed may be back, without a target.
            pair = (wanted, np.isin(had, now)), (given, np.isin(now, had))
            wanted, given = (
                keras.ops.take(tensor, np.flatnonzero(both), channels)
                for tensor, both in pair
            )
            found.append((wanted, given))
        return found

    def write_back(self) -> None:
        """Copy the trained weights to the masked model."""
        for old, new in self._pairs:
            value = np.array(read(old))
            places = np.arange(value.size).reshape(value.shape)
            kept = self._kept.take(old, places)
            value.reshape(-1)[kept.ravel()] = read(new).ravel()
            old.assign(value)

    def _is_cut(self, old: Any, new: Any) -> bool:
        return np.array_equal(self._kept.take(old, read(old)), read(new))


def _pairs(
    masked: keras.Model, compact: keras.Model
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return pairs of the weights of a masked model and its compact model."""
    found: list[tuple[keras.Variable, keras.Variable]] = []
    for outer, new in zip(
        walk.layers_of(masked), walk.layers_of(compact), strict=True
    ):
        layer = walk.unwrap(outer)
        found.extend(zip(layer.weights, new.weights, strict=True))
    return found


def input_scale(model: keras.Model, inputs: Any) -> float:
    """Return the number to divide the inputs by. See `logits`.

    It is the root of their mean square if there is a single input that only
    linear layers read, and otherwise 1.

    Args:
        model: A functional model.
        inputs: Samples.
    """
    arrays = keras.tree.flatten(inputs)
    if len(arrays) != 1 or not _first_kernels(model):
        return 1.0
    size = float(np.sqrt(np.mean(np.square(arrays[0], dtype="float64"))))
    return size or 1.0


def _first_kernels(model: keras.Model) -> list[keras.Variable]:
    """Return the kernels that the input is multiplied with.

    The list is empty if anything else reads the input, or a kernel has other inputs
    too.
    """
    program = Program(model)
    given = set(program.inputs)
    kernels = []
    for call in program.calls:
        if given.isdisjoint(call.given):
            continue
        if linear(call.layer) is None:
            return []
        if len(program.calls_of([call.layer.kernel])) > 1:
            return []
        kernels.append(call.layer.kernel)
    return kernels


@contextlib.contextmanager
def logits(model: keras.Model, scale: float) -> Iterator[keras.Model]:
    """Return a context with the model without its final softmax or sigmoid.

    What shapes, casts or clips the probabilities is left out too, where it can be. An
    activation whose layer has other outputs, or readers inside the model, stays.

    Args:
        model: A functional model. Its last layers lack their activation inside
            the context.
        scale: The number that inputs are divided by inside the context. The
            first kernels are multiplied with it: gradient steps that suit
            inputs around 1 are too large for pixels up to 255.
    """
    functional = walk.require_functional(model)
    kernels = _first_kernels(model) if scale != 1 else []
    for kernel in kernels:
        kernel.assign(read(kernel) * scale)
    ends = _ends(functional)
    bare = [layer for _, layer in ends if layer is not None]
    held = [layer.activation for layer in bare]
    for layer in bare:
        layer.activation = keras.activations.linear
    try:
        yield keras.Model(functional.input, [tensor for tensor, _ in ends])
    finally:
        for layer, activation in zip(bare, held, strict=True):
            layer.activation = activation
        for kernel in kernels:
            kernel.assign(read(kernel) / scale)


def _ends(functional: keras.Model) -> list[tuple[Any, Any]]:
    """Return, for each output, its logits and the layer to strip of its activation."""
    program = Program(functional)
    outer = {id(node) for node in walk.nodes(program.functional)}
    read_inside = {slot for call in program.calls for slot in call.given}
    found: list[tuple[Any, Any]] = []
    for tensor, slot, end in zip(
        functional.outputs, program.outputs, ends(program), strict=True
    ):
        pair = tensor, None
        if end is not None and end.squashes:
            # A new end inside a nested model would have no effect outside it.
            inside = id(end.call.node) not in outer
            between = [call.given[0] for call in end.behind]
            only_here = slot not in read_inside and all(
                program.only_reader(part) is not None for part in between
            )
            once = len(program.calls_of([end.layer])) == 1
            if end.only_squashes and not inside:
                pair = end.call.tensors[0], None
            elif hasattr(end.layer, "activation") and once and only_here:
                if not inside:
                    pair = end.call.node.outputs[end.index], end.layer
                elif not end.clipped:
                    pair = tensor, end.layer
        found.append(pair)
    return found
