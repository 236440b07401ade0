"""Check targets against the loss of a model, and convert them for it."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.data.inputs import first_not_finite


def check_targets(
    targets: Any, model: keras.Model, loss: Any, argument: str
) -> None:
    """Raise if targets do not fit the loss.

    Each Keras cross-entropy takes class indices, one-hot vectors or numbers from
    0 to 1. Every Keras loss needs finite targets. Custom losses are not checked.

    Args:
        targets: NumPy array, or a structure of them.
        model: The model whose outputs they belong to.
        loss: Loss in any form that `compile` takes. Defaults to the model's.
        argument: Name of the argument they come from.

    Raises:
        ValueError: The targets do not fit. The message says what was received
            and expected, and how to mend it.
    """
    loss = getattr(model, "loss", None) if loss is None else loss
    _check_structure(targets, model, loss, argument)
    for output, one, target in _pairs(targets, model, loss):
        name = _name(one)
        if name is None or target.dtype.kind == "V":
            continue
        layer = output._keras_history.operation.name
        owner = f"output '{layer}' with loss {name}"
        if target.dtype.kind not in "fiub":
            raise ValueError(
                f"`{argument}` holds targets of dtype {target.dtype} for {owner}, "
                "which takes numbers. Convert them first."
            )
        if first_not_finite(target) is not None:
            raise ValueError(
                f"`{argument}` holds NaN or infinite targets for {owner}. Leave "
                "such samples out."
            )
        if getattr(one, "axis", -1) != -1 or not target.size:
            continue
        check = _CHECKS.get(_key(one))
        if check is not None:
            check(target, output.shape, one, f"`{argument}`", owner)


def as_loss_wants(targets: Any, model: keras.Model, loss: Any = None) -> Any:
    """Convert class indices to one-hot vectors, or the reverse, to suit a loss.

    Args:
        targets: NumPy array, or a structure of them.
        model: The model whose output they belong to.
        loss: Loss in any form that `compile` takes. Defaults to the model's.

    Returns:
        The targets in the form that the loss takes. Targets that cannot be
        converted, and those of several outputs, are returned unchanged.
    """
    loss = getattr(model, "loss", None) if loss is None else loss
    pairs = list(_pairs(targets, model, loss))
    if len(model.outputs) != 1 or len(pairs) != 1:
        return targets
    output, one, array = pairs[0]
    kind = _CHECKS.get(_key(one))
    classes = output.shape[-1]
    if classes in (None, 1) or getattr(one, "axis", -1) != -1:
        return targets
    alike = array.ndim == len(output.shape) and array.shape[-1] == classes
    if kind is _class_indices:
        return array.argmax(-1) if alike else targets
    if kind is None or alike or array.dtype.kind not in "iub":
        return targets
    indices = array[..., 0] if array.ndim == len(output.shape) else array
    fits = indices.ndim == len(output.shape) - 1 and indices.size
    if not fits or indices.min() < 0 or indices.max() >= classes:
        return targets
    return keras.utils.to_categorical(indices, classes)


def meanings(model: keras.Model, loss: Any = None) -> list[str]:
    """Return what the loss takes each output of a model for.

    Args:
        model: A functional model.
        loss: Loss in any form that `compile` takes. Defaults to the model's.

    Returns:
        `"classes"` of which one is true, `"labels"` of which any may be true,
        `"values"` of a regression, or `""` if the loss does not say so.
    """
    return [_MEANINGS.get(_key(one), "") for one in _loss_of_each(model, loss)]


def takes_probabilities(model: keras.Model, loss: Any = None) -> list[bool]:
    """Return whether the loss takes each output of a model for probabilities.

    Args:
        model: A functional model.
        loss: Loss in any form that `compile` takes. Defaults to the model's.
    """
    return [
        (
            (key := _key(one)).endswith("crossentropy")
            and not getattr(one, "from_logits", False)
        )
        or key == "kldivergence"
        for one in _loss_of_each(model, loss)
    ]


def _loss_of_each(model: keras.Model, loss: Any) -> list[Any]:
    """Return the loss of each output, or None, in the order of `model.outputs`."""
    loss = getattr(model, "loss", None) if loss is None else loss
    outputs = _outputs(model)
    losses = _by_output(loss, outputs)
    keys = {id(tensor): key for key, tensor in outputs.items()}
    return [losses.get(keys.get(id(t), "")) for t in model.outputs]


def _key(loss: Any) -> str:
    """Return the key of a Keras loss in the tables below."""
    return (_name(loss) or "").lower().replace("_", "")


def class_indices(
    y: np.ndarray | None, outputs: Sequence[np.ndarray]
) -> np.ndarray | None:
    """Return targets as class indices; None if the model is not a classifier.

    Args:
        y: Targets, indices or one-hot.
        outputs: Outputs of the model for the same samples.
    """
    if y is None or len(outputs) != 1 or outputs[0].ndim != 2:
        return None
    number = outputs[0].shape[1]
    if y.ndim == 2 and y.shape[1] == number > 1:
        one_hot = ((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()
        return y.argmax(axis=1) if one_hot else None
    flat = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if flat.ndim != 1 or flat.dtype.kind not in "iubf":
        return None
    most = max(number - 1, 1)
    if flat.min() < 0 or flat.max() > most or (flat != np.trunc(flat)).any():
        return None
    return flat.astype("int64")


def chosen(output: np.ndarray) -> np.ndarray:
    """Return the class of each sample from scores `(n, classes)` or `(n, 1)`."""
    if output.shape[1] > 1:
        return output.argmax(axis=1)
    probabilities = 0 <= output.min() and output.max() <= 1
    return (output[:, 0] > (0.5 if probabilities else 0.0)).astype("int64")


def check_weights(weights: Any, argument: str) -> None:
    """Raise unless sample weights are finite numbers.

    Args:
        weights: NumPy array, a structure of them, or None.
        argument: Name of the argument they come from.

    Raises:
        ValueError: Weights are not numbers, or are NaN or infinite.
    """
    for weight in keras.tree.flatten(weights):
        if weight is None:
            continue
        if weight.dtype.kind not in "fiubV":
            raise ValueError(
                f"`{argument}` has sample weights of dtype {weight.dtype}. Pass "
                "numbers."
            )
        if first_not_finite(weight) is not None:
            raise ValueError(
                f"`{argument}` holds NaN or infinite sample weights. Leave such "
                "samples out."
            )


def _check_structure(
    targets: Any, model: keras.Model, loss: Any, argument: str
) -> None:
    """Raise if one array is given for several outputs, unless the model splits it."""
    own = any(
        getattr(type(model), step, None) is not getattr(keras.Model, step)
        for step in ("train_step", "compute_loss")
    )
    if own or not hasattr(targets, "dtype"):
        return
    losses = _by_output(loss, _outputs(model))
    taking = [str(name) for name, one in losses.items() if one is not None]
    if len(taking) > 1:
        raise ValueError(
            f"`{argument}` holds one array of targets, but {len(taking)} outputs of "
            f"model '{model.name}' have a loss: {', '.join(taking)}. Pass an array "
            "for each: (x, [y1, y2])."
        )


def _alike(
    target: np.ndarray,
    shape: tuple[int | None, ...],
    loss: Any,
    given: str,
    owner: str,
) -> None:
    """Raise unless targets can be compared with outputs element by element."""
    # Like Keras, accept a missing or an extra last axis of length 1.
    wanted = [shape, shape[:-1]] if shape[-1:] == (1,) else [shape]
    received = [target.shape]
    if target.shape[-1:] == (1,):
        received.append(target.shape[:-1])
    if not any(
        len(one) == len(other)
        and all(
            n in (1, m) or m in (1, None)
            for n, m in zip(one[1:], other[1:], strict=True)
        )
        for one in received
        for other in wanted
    ):
        expected = ", ".join(map(str, ("samples", *shape[1:])))
        raise ValueError(
            f"{given} holds targets of shape {target.shape} for {owner}, whose "
            f"output has the shape ({expected})."
        )


def _class_indices(
    target: np.ndarray,
    shape: tuple[int | None, ...],
    loss: Any,
    given: str,
    owner: str,
) -> None:
    classes = shape[-1]
    if target.ndim == len(shape) and target.shape[-1] == 1:
        target = target[..., 0]
    if target.ndim == len(shape) and target.shape[-1] == classes:
        raise ValueError(
            f"{given} holds one-hot targets of shape {target.shape} for {owner}, "
            "which takes class indices. Pass y.argmax(-1), or compile with "
            "keras.losses.CategoricalCrossentropy."
        )
    if target.ndim != len(shape) - 1:
        expected = ", ".join(map(str, ("samples", *shape[1:-1])))
        raise ValueError(
            f"{given} holds targets of shape {target.shape} for {owner}, which "
            f"takes class indices of shape ({expected})."
        )
    ignored = getattr(loss, "ignore_class", None)
    counted = target if ignored is None else target[target != ignored]
    if not counted.size or classes is None:
        return
    low, high = counted.min(), counted.max()
    if low < 0 or high >= classes or np.any(counted != np.trunc(counted)):
        raise ValueError(
            f"{given} holds targets from {low} to {high} for {owner}, which takes "
            f"class indices: whole numbers from 0 to {classes - 1}."
        )


def _one_hot(
    target: np.ndarray,
    shape: tuple[int | None, ...],
    loss: Any,
    given: str,
    owner: str,
) -> None:
    classes = shape[-1]
    indices = target.ndim == len(shape) - 1 or (
        target.ndim == len(shape) and target.shape[-1] == 1 != classes
    )
    if indices:
        raise ValueError(
            f"{given} holds targets of shape {target.shape} for {owner}, which "
            f"takes one-hot vectors of length {classes}. Pass "
            f"keras.utils.to_categorical(y, {classes}), or compile with "
            "keras.losses.SparseCategoricalCrossentropy."
        )
    if classes is not None and target.shape[-1:] != (classes,):
        raise ValueError(
            f"{given} holds targets of shape {target.shape} for {owner}, which "
            f"takes one-hot vectors of length {classes}."
        )
    _probabilities(target, shape, loss, given, owner)


def _probabilities(
    target: np.ndarray,
    shape: tuple[int | None, ...],
    loss: Any,
    given: str,
    owner: str,
) -> None:
    _alike(target, shape, loss, given, owner)
    low, high = target.min(), target.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"{given} holds targets from {low} to {high} for {owner}, which takes "
            "numbers from 0 to 1."
        )


_CHECKS = {
    "sparsecategoricalcrossentropy": _class_indices,
    "categoricalcrossentropy": _one_hot,
    "categoricalfocalcrossentropy": _one_hot,
    "binarycrossentropy": _probabilities,
    "binaryfocalcrossentropy": _probabilities,
    "kldivergence": _probabilities,
    **dict.fromkeys(
        (
            "cosinesimilarity",
            "huber",
            "logcosh",
            "meanabsoluteerror",
            "meanabsolutepercentageerror",
            "meansquarederror",
            "meansquaredlogarithmicerror",
            "poisson",
        ),
        _alike,
    ),
}


_MEANINGS = {
    **{name: "values" for name, check in _CHECKS.items() if check is _alike},
    "hinge": "values",
    "squaredhinge": "values",
    "sparsecategoricalcrossentropy": "classes",
    "categoricalcrossentropy": "classes",
    "categoricalfocalcrossentropy": "classes",
    "categoricalhinge": "classes",
    "kldivergence": "classes",
    "binarycrossentropy": "labels",
    "binaryfocalcrossentropy": "labels",
}


def _pairs(
    targets: Any, model: keras.Model, loss: Any
) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Yield each output with its loss and targets, where these can be matched."""
    outputs = _outputs(model)
    losses = _by_output(loss, outputs)
    if len(outputs) > 1 and hasattr(targets, "dtype"):
        return
    targets = _by_output(targets, outputs)
    for key, output in outputs.items():
        if losses.get(key) is not None and hasattr(targets.get(key), "dtype"):
            yield output, losses[key], targets[key]


def _outputs(model: keras.Model) -> dict[str, Any]:
    """Return the outputs of a model by name."""
    sequential = isinstance(model, keras.Sequential)
    structure = model.outputs[0] if sequential else model.output
    if isinstance(structure, dict):
        return dict(structure)
    names = getattr(model, "output_names", None) or [""]
    return dict(zip(names, model.outputs, strict=False))


def _by_output(value: Any, outputs: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(zip(outputs, value, strict=False))
    return dict.fromkeys(outputs, value)


def _name(loss: Any) -> str | None:
    """Return the name of a Keras loss; None for a custom one."""
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    kind = type(loss) if isinstance(loss, keras.losses.Loss) else loss
    name = getattr(kind, "__name__", None)
    ours = str(getattr(kind, "__module__", "")).split(".")[0] == "keras"
    return name if ours and name != "LossFunctionWrapper" else None
