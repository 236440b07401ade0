"""Transfer of a model's compile configuration to a copy."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.graph.values import read
from kprune.masking.slots import base_optimizer
from kprune.masking.slots import base_optimizers
from kprune.masking.slots import copies_of_weights
from kprune.masking.slots import slots_of

logger = logging.getLogger("kprune")

Pairs = Sequence[tuple[keras.Variable, keras.Variable]]
"""Pairs of a model's variable and the copy's variable."""


def copy_compilation(
    model: keras.Model,
    copy: keras.Model,
    pairs: Pairs | None = None,
    cut: Callable[[keras.Variable, np.ndarray], np.ndarray] | None = None,
) -> None:
    """Compile `copy` like `model`, if `model` is compiled.

    Losses, learning rate schedules and other stateless objects are reused
    (serialisation would lose plain Python functions). Objects with state
    (optimizer, metrics) are recreated from their configuration; a warning names
    those for which that fails, which are left out.

    Args:
        model: The model whose configuration is read.
        copy: The model to compile.
        pairs: Variables of both. If given, the copy's optimizer continues with
            the state of the model's.
        cut: `cut(variable, value)` returns a slot of a variable of `model` in
            the shape the copy needs. Defaults to the unchanged value.
    """
    if not model.compiled or getattr(model, "_compile_config", None) is None:
        return
    if type(copy).compile is not keras.Model.compile:
        logger.warning(
            "Model '%s' (%s) overrides compile(): compile the copy yourself.",
            model.name,
            type(model).__name__,
        )
        return
    lost: list[str] = []
    optimizer = model.optimizer
    config = dict(model._compile_config.config)
    config["optimizer"] = recreated(optimizer, lost)
    several = len(copy.outputs) > 1
    for name in ("metrics", "weighted_metrics"):
        config[name] = _metrics(config.get(name), lost, several)
    copy.compile(**config)
    if lost:
        logger.warning(
            "The copy of model '%s' is compiled without %s, which cannot be "
            "recreated from the configuration. Make get_config() return all "
            "arguments of the constructor, or compile the copy yourself.",
            model.name,
            ", ".join(lost),
        )
    if copy.optimizer is None:
        return
    copy.optimizer.build(copy.trainable_variables)
    if pairs is not None:
        for one, other in _twins(optimizer, copy.optimizer):
            _copy_exclusions(one, other, pairs)
        _copy_optimizer(optimizer, copy, pairs, cut or (lambda _, value: value))


def recompile(model: keras.Model, known: Sequence[keras.Variable]) -> None:
    """Compile a compiled model again after weights were added.

    Args:
        model: A model, whose optimizer continues with its state. Nothing is done
            if it is not compiled.
        known: Its variables without the new ones.
    """
    copy_compilation(model, model, [(v, v) for v in known])


def exclude_from_decay(
    optimizer: Any,
    variables: Sequence[keras.Variable],
    known: Sequence[keras.Variable],
) -> None:
    """Exclude further variables from weight decay.

    Args:
        optimizer: A `keras.Optimizer`; other objects are ignored.
        variables: The variables to exclude.
        known: All variables that may be excluded already.
    """
    pairs = [(v, v) for v in known]
    for base in base_optimizers(optimizer):
        if isinstance(base, keras.Optimizer):
            _copy_exclusions(base, base, pairs, variables)


def recreated(value: Any, lost: list[str]) -> Any:
    """Return a new metric or optimizer of the same configuration.

    Args:
        value: Any object; others than metrics and optimizers are returned as
            they are.
        lost: A description is appended if `value` cannot be recreated.

    Returns:
        The object, or None if it cannot be recreated.
    """
    if not isinstance(value, keras.Metric | keras.Optimizer):
        return value
    kind = type(value)
    try:
        if isinstance(getattr(value, "_optimizer_map", None), Mapping):
            return _several(value, lost)
        with _without_schedule(value) as schedule:
            config = value.get_config()
        forgotten = _forgotten(value, config)
        if not forgotten:
            new = kind.from_config(config)
            if schedule is not None:
                new.learning_rate = schedule
            return new
    except Exception as error:  # User code may raise anything.
        forgotten = [str(error) or type(error).__name__]
    name = getattr(value, "name", kind.__name__)
    lost.append(f"{kind.__name__} '{name}' ({', '.join(forgotten)})")
    return None


def _several(value: Any, lost: list[str]) -> Any:
    """Return a new `MultiOptimizer`, in which what had several names has them again."""
    new = {id(base): recreated(base, lost) for base in value.optimizers}
    if None in new.values():
        return None
    known = value._optimizer_map
    named = {name: new[id(base)] for name, base in known.items()}
    chosen = type(known)(new[id(known.default_optimizer)], named)
    return type(value)(chosen, value.loss_scale_factor, value.name)


@contextlib.contextmanager
def _without_schedule(value: Any) -> Iterator[Any]:
    """Take the schedule off an optimizer meanwhile; many cannot be serialised.

    Yields:
        The schedule or function that the learning rate follows, or None.
    """
    base = base_optimizer(value)
    rate = getattr(base, "_learning_rate", None)
    if not callable(rate) or isinstance(rate, keras.Variable):
        yield None
        return
    # Any number: own optimizers may compute with it in get_config().
    base._learning_rate = 0.5
    try:
        yield rate
    finally:
        base._learning_rate = rate


def _forgotten(value: Any, config: dict[str, Any]) -> list[str]:
    """Return the constructor's arguments that a configuration may lack."""
    kind = type(value)
    if kind.__module__.startswith("keras."):
        return []
    return [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.kind in _NAMED
        and parameter.name not in {"dtype", *config}
        and _differs(value, parameter)
    ]


_NAMED = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


def _differs(value: Any, parameter: inspect.Parameter) -> bool:
    """Return whether a constructor argument may differ from its default."""
    for name in (parameter.name, f"_{parameter.name}"):
        if hasattr(value, name):
            return not np.array_equal(getattr(value, name), parameter.default)
    return True


def _metrics(metrics: Any, lost: list[str], several: bool) -> Any:
    """Return new metrics, without those that cannot be recreated.

    Args:
        metrics: Metrics as given to `compile`.
        lost: Descriptions of those left out are appended.
        several: Whether a list has one entry per output.
    """
    if isinstance(metrics, dict):
        return {k: _metrics(v, lost, False) for k, v in metrics.items()}
    if isinstance(metrics, list | tuple):
        found = [_metrics(m, lost, False) for m in metrics]
        if several:
            return [[] if m is None else m for m in found]
        return [m for m in found if m is not None]
    return recreated(metrics, lost)


def _copy_exclusions(
    old: Any, new: Any, pairs: Pairs, more: Sequence[keras.Variable] = ()
) -> None:
    """Exclude from weight decay what was excluded before, and `more`."""
    excluded = getattr(old, "_exclude_from_weight_decay", None) or ()
    pattern = getattr(old, "_exclude_from_weight_decay_pattern", None)
    if excluded or pattern or more:
        new.exclude_from_weight_decay(
            [
                *more,
                *(
                    copy
                    for weight, copy in pairs
                    if old._var_key(weight) in excluded
                ),
            ],
            pattern and [pattern.pattern],
        )


def _twins(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """Return pairs of a base optimizer and its copy."""
    ours, theirs = base_optimizers(old), base_optimizers(new)
    alike = len(ours) == len(theirs)
    return list(zip(ours, theirs, strict=True)) if alike else []


def _copy_optimizer(
    old: Any,
    copy: keras.Model,
    pairs: Pairs,
    cut: Callable[[keras.Variable, np.ndarray], np.ndarray],
) -> None:
    """Copy the state of optimizer `old` to the optimizer of `copy`."""
    new = copy.optimizer
    # Variables that are not per weight: iterations, learning rate, loss scale.
    for one, other in {(old, new), *_twins(old, new)}:
        known = vars(one)
        for name, target in vars(other).items():
            if isinstance(target, keras.Variable) and name in known:
                target.assign(np.array(read(known[name])))
    if not any(base.built for base in base_optimizers(old)):
        return
    before, after = slots_of(old), slots_of(new)
    carried = copies_of_weights(new)
    fresh = []
    for source, target in pairs:
        for name, slot in after.get(id(target), {}).items():
            remembered = before.get(id(source), {}).get(name)
            if remembered is not None:
                # Copied, because on JAX variables must not share a buffer.
                value = np.array(read(remembered))
                if value.shape == tuple(source.shape):
                    value = cut(source, value)
                    if name in carried[id(target)]:
                        # Such as what merging copies has added to a weight.
                        more = read(target) - cut(source, read(source))
                        value = value + more
                if value.shape == tuple(slot.shape):
                    slot.assign(value)
                    continue
            fresh.append(target.path)
    if fresh:
        logger.warning(
            "The optimizer of the copy of model '%s' starts without state for "
            "%s: the model's optimizer has none for these weights, or in "
            "another shape.",
            copy.name,
            ", ".join(dict.fromkeys(fresh)),
        )
