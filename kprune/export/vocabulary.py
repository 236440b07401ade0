"""Find the inputs of a model that are indices into an embedding table."""

from __future__ import annotations

import keras


def vocabulary_sizes(model: keras.Model) -> list[int | None]:
    """Find the smallest embedding table that each input indexes.

    Indices are followed through operations without weights (reshapes, slices,
    casts) and into nested models.

    Args:
        model: Functional or Sequential model.

    Returns:
        Per input in `model.inputs`, the table's number of rows, or None if the
        input reaches no `Embedding`.

    Example:

    ```python
    model = keras.Sequential([keras.Input((5,)), keras.layers.Embedding(11, 4)])
    vocabulary_sizes(model)  # [11]
    ```
    """
    return [
        _smallest(model, [position]) for position in range(len(model.inputs))
    ]


def _smallest(model: keras.Model, positions: list[int]) -> int | None:
    """Return the smallest table reached from the inputs at `positions`."""
    if isinstance(model, keras.Sequential):
        model = model._functional
    reached = {id(model.inputs[position]) for position in positions}
    sizes = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            hits = [
                i for i, t in enumerate(node.input_tensors) if id(t) in reached
            ]
            if node.is_input or not hits:
                continue
            layer = node.operation
            if isinstance(layer, keras.layers.Embedding):
                sizes.append(layer.input_dim)
            elif isinstance(
                layer, (keras.Sequential, keras.models.Model)
            ) and getattr(layer, "inputs", None):
                size = _smallest(layer, hits)
                sizes += [] if size is None else [size]
            elif not getattr(layer, "weights", []):
                reached.update(id(t) for t in node.output_tensors)
    return min(sizes, default=None)
