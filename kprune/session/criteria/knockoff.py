"""Comparison of channels on real inputs and on knockoffs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune.arguments import number
from kprune.arguments import whole
from kprune.criteria.base import LossCriterion
from kprune.criteria.base import Scores
from kprune.criteria.base import by_length_elsewhere
from kprune.criteria.base import describe
from kprune.criteria.base import register
from kprune.criteria.base import required
from kprune.graph import walk
from kprune.graph.registry import batch_norm_of
from kprune.graph.registry import is_linear
from kprune.masking.devices import undivided
from kprune.session.gradients import structures
from kprune.session.program import Program
from kprune.session.program import ProgramCall

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session.session import Session


@register("knockoff")
class Knockoff(LossCriterion):
    """Learned preference for a channel over its knockoff, times its scale.

    The model also runs on knockoffs: inputs with similar statistics but without
    content. Each dense or convolutional layer outputs `kappa * real + (1 -
    kappa) * knockoff` in place of its real channels; the knockoff channels pass
    unchanged. `kappa` is one number per channel of a group, shared by all layers
    that produce it. It starts at 0.5, stays between 0 and 1, and is trained with
    Adam on the compiled loss, with frozen weights and batch normalisation in
    training mode. The score is `|gamma| * (2 * kappa - 1)`, where `|gamma|` is
    the mean over the batch normalisations on the channel, or 1 without any. From
    "SCOP: Scientific Control for Reliable Neural Network Pruning" (Tang et al.,
    arXiv 2010.10732), which trains a generator for the knockoffs.

    Knockoffs are made by phase randomisation: the Fourier transform over the
    positions of an input keeps its amplitudes and the relative phases of its
    channels, and gets random phases otherwise. Integers, and inputs without
    positions, are shuffled among samples, each feature separately. Neither is
    exchangeable with the inputs, as knockoffs in the strict sense are. Groups
    that no such layer produces are scored by the rescaled norms of their
    filters; a log line names them.

    Args:
        steps: Number of batches to train on; the data is repeated as needed.
            With 0, all scores are 0.
        learning_rate: Learning rate of Adam.
        seed: Seed of the knockoffs.

    Example:

    ```python
    masked = kprune.prune(
        model, "knockoff", allocation="uniform", data=(x_train, y_train)
    )
    ```
    """

    decides_by = ("gradients",)

    def __init__(
        self, steps: int = 200, learning_rate: float = 0.004, seed: int = 0
    ) -> None:
        self.steps = whole(steps, "Knockoff", "steps", 0, of="batches")
        self.learning_rate = number(
            learning_rate, "Knockoff", "learning_rate", above=0
        )
        self.seed = seed

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        session = required(session, self)
        found = self.kappas(groups, session)
        scores = {
            group.name: _scale(group) * (2.0 * found[group.name] - 1.0)
            for group in groups
            if group.name in found
        }
        return by_length_elsewhere(
            scores,
            groups,
            describe(self),
            "no dense or convolutional layer that makes them",
        )

    def kappas(
        self, groups: Sequence[Group], session: Session
    ) -> dict[str, np.ndarray]:
        """Return the learned `kappa` of each group that can be mixed.

        Args:
            groups: Groups of channels.
            session: The model and its samples.

        Returns:
            Group name -> numbers of shape `(size,)`, from 0 to 1.
        """
        mixture = Mixture(session.masked, groups)
        mixture.prepare(session.masked, self.learning_rate)
        rng = np.random.default_rng(self.seed)
        with undivided():
            for x, y, weight in self._batches(session):
                flat = walk.flat_inputs(mixture.functional, x)
                # Pixels may be integers, but their knockoffs are not.
                flat = [
                    a.astype("float32") if a.dtype == np.uint8 else a
                    for a in flat
                ]
                false = [knockoffs(a, rng) for a in flat]
                mixture.train_on_batch([*flat, *false], y, weight)
        return mixture.kappas()

    def _batches(self, session: Session) -> Iterator[Any]:
        done = 0
        while done < self.steps:
            for batch in session.samples.labelled(
                f"Criterion {describe(self)}"
            ):
                yield batch
                done += 1
                if done == self.steps:
                    return


def knockoffs(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return inputs of similar statistics without content.

    Args:
        x: Inputs of shape `(n, ...)`. Floats with spatial axes get random
            phases; all others are shuffled along the samples, each feature
            separately.
        rng: Random generator.
    """
    first = keras.config.image_data_format() == "channels_first"
    axes = tuple(range(2, x.ndim)) if first else tuple(range(1, x.ndim - 1))
    if not axes or x.dtype.kind != "f":
        return rng.permuted(x, axis=0)
    sizes = [n if a == 0 or a in axes else 1 for a, n in enumerate(x.shape)]
    # Phases of real noise, which are opposite at opposite frequencies.
    noise = np.fft.fftn(rng.normal(size=sizes), axes=axes)
    turn = noise / np.maximum(np.abs(noise), 1e-30)
    turn[tuple(0 if a in axes else slice(None) for a in range(x.ndim))] = 1.0
    spectrum = np.fft.fftn(x.astype("float64"), axes=axes)
    return np.fft.ifftn(spectrum * turn, axes=axes).real.astype(x.dtype)


class Mixture(keras.Model):
    """A model in which channels are mixed with those of knockoffs.

    Its inputs are the flat inputs of the model, followed by their knockoffs. Only
    the shares of the real channels are trained; the model does not change.

    Args:
        masked: The masked model.
        groups: Groups of channels.
    """

    def __init__(self, masked: keras.Model, groups: Sequence[Group]) -> None:
        super().__init__(autocast=False, name="mixture")
        program = Program(masked)
        self.functional = program.functional
        # An attribute, so that Keras finds the layers and their variables.
        self.parts = [
            call.operation
            for call in program.calls
            if isinstance(call.operation, keras.layers.Layer)
        ]
        self._program = program
        structure = structures(masked)[1]
        self._pack = functools.partial(keras.tree.pack_sequence_as, structure)
        self.output_names = masked.output_names
        self._ranges: dict[str, range] = {}
        self._sources: dict[int, np.ndarray] = {}
        self.kappa = self.add_weight(
            shape=(self._find_places(groups),),
            initializer=keras.initializers.Constant(0.5),
            dtype="float32",
            constraint=_Shares(),
            name="kappa",
        )
        self.built = True

    @property
    def trainable_variables(self) -> list[Any]:
        return [self.kappa]

    @property
    def trainable_weights(self) -> list[Any]:
        return [self.kappa]

    @property
    def non_trainable_variables(self) -> list[Any]:
        return [v for v in self.variables if v is not self.kappa]

    @property
    def non_trainable_weights(self) -> list[Any]:
        return [v for v in self.weights if v is not self.kappa]

    @property
    def losses(self) -> list[Any]:
        return []

    @property
    def metrics(self) -> list[Any]:
        # Without the metrics of the layers inside, which belong to the user.
        return self._get_own_metrics()

    def prepare(self, model: keras.Model, learning_rate: float) -> None:
        """Compile with the loss of a model.

        Args:
            model: The masked model, compiled.
            learning_rate: Learning rate of the shares.
        """
        self.compile(
            optimizer=keras.optimizers.Adam(
                learning_rate, beta_1=0.5, beta_2=0.9
            ),
            loss=model.loss,
            loss_weights=model._compile_loss._user_loss_weights,
            jit_compile=model.jit_compile,
            run_eagerly=model.run_eagerly,
        )

    def kappas(self) -> dict[str, np.ndarray]:
        """Return the shares of the real channels by group name."""
        values = ops.convert_to_numpy(self.kappa).astype("float64")
        return {
            name: values[np.array(places)]
            for name, places in self._ranges.items()
        }

    def call(self, inputs: Any) -> Any:
        program = self._program
        count = len(program.inputs)
        half = ops.shape(inputs[0])[0]
        together = [
            ops.concatenate([real, false])
            for real, false in zip(inputs[:count], inputs[count:], strict=True)
        ]
        tensors = dict(zip(program.inputs, together, strict=True))
        # The scope discards updates of layers. It hides the outer scope, so it
        # needs all values.
        values = [(v, v.value) for v in self.variables]
        with keras.StatelessScope(state_mapping=values):
            for call in program.calls:
                given = [tensors[slot] for slot in call.given]
                outputs = call.run_training(given)
                sources = self._sources.get(id(call.layer))
                if sources is not None:
                    outputs = [self._mixed(call, outputs[0], sources, half)]
                tensors.update(zip(call.outputs, outputs, strict=True))
        return self._pack([tensors[slot][:half] for slot in program.outputs])

    def _mixed(
        self, call: ProgramCall, outputs: Any, sources: np.ndarray, half: Any
    ) -> Any:
        real, false = outputs[:half], outputs[half:]
        first = getattr(call.layer, "data_format", "") == "channels_first"
        shape = [1] * len(outputs.shape)
        shape[1 if first else -1] = -1
        # Behind the learned shares, the one of channels that are not mixed.
        shares = ops.concatenate([self.kappa.value, ops.ones((1,), "float32")])
        share = ops.reshape(ops.take(shares, sources), shape)
        share = ops.cast(share, outputs.dtype)
        mixed = share * real + (1.0 - share) * false
        return ops.concatenate([mixed, false])

    def _find_places(self, groups: Sequence[Group]) -> int:
        """Assign shares to the channels of layers; return the number of shares."""
        count = 0
        found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        outputs: dict[int, int] = {}
        for group in groups:
            shares = np.arange(count, count + group.size)
            for member in group.producers:
                if member.name == "bias" or not is_linear(member.layer):
                    continue
                self._ranges[group.name] = range(count, count + group.size)
                outputs[id(member.layer)] = int(member.variable.shape[-1])
                found.setdefault(id(member.layer), []).append(
                    (member.index, shares)
                )
            if group.name in self._ranges:
                count += group.size
        for layer, places in found.items():
            sources = np.full(outputs[layer], count)
            for index, shares in places:
                sources[index] = shares[:, None]
            self._sources[layer] = sources
        return count


class _Shares(keras.constraints.Constraint):
    """Clips values to the range from 0 to 1."""

    def __call__(self, w: Any) -> Any:
        return ops.clip(w, 0.0, 1.0)


def _scale(group: Group) -> np.ndarray:
    """Return the mean absolute scale of batch normalisations, of shape `(size,)`."""
    found = [
        np.abs(member.matrix().astype("float64")).mean(axis=1)
        for member in group.scales
        if member.name == "gamma" and batch_norm_of(member.layer)
    ]
    return np.mean(found, axis=0) if found else np.ones(group.size)
