"""Find what makes a model of float32 layers compute in float64."""

from __future__ import annotations

import re

import keras


def float64_constants(model: keras.Model) -> list[str]:
    """List the operations that were given a float64 array.

    On TensorFlow, Keras computes in float64 from such an operation on. NumPy
    makes float64 arrays by default.

    Args:
        model: Functional or Sequential model; nested ones are searched too.

    Returns:
        Names of operations, in the order of the model.

    Example:

    ```python
    inputs = keras.Input((3,))
    model = keras.Model(inputs, inputs * np.linspace(0, 1, 3))
    float64_constants(model)  # ["multiply"]
    ```
    """
    found = []
    for operation in getattr(model, "operations", []):
        if isinstance(operation, keras.Model):
            found += float64_constants(operation)
            continue
        for node in operation._inbound_nodes:
            given = (node.arguments.args, node.arguments.kwargs)
            if any(map(_is_float64_array, keras.tree.flatten(given))):
                found.append(operation.name)
                break
    return found


def _is_float64_array(value: object) -> bool:
    dtype = getattr(value, "dtype", None)
    return not keras.utils.is_keras_tensor(value) and str(dtype) == "float64"


def explain_float64(model: keras.Model, message: str) -> str | None:
    """Explain a failure of the LiteRT converter that is caused by float64.

    Args:
        model: The model that failed.
        message: Message of the converter, with the module it stopped at.

    Returns:
        The cause and the way out; None if float64 is not the cause.
    """
    if not re.search(r'"tf\.\w+"\(.*xf64>', message):
        return None
    names = float64_constants(model)
    where = (
        f"The NumPy constants of {', '.join(map(repr, names))} are float64"
        if names
        else "A constant or a cast in it is float64"
    )
    return (
        f"Model {model.name!r} computes in float64, for which LiteRT has no "
        f"arithmetic. {where}: make them float32, as in "
        "`np.asarray(constant, \"float32\")`, or export to '.onnx', which keeps "
        "float64."
    )
