"""Translation of layer names that Keras 3 rejects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def renamed(config: Mapping[str, Any]) -> dict[str, str]:
    """Return new names for the layers of a model with a `/` in their names.

    Args:
        config: Configuration of the model, with its list of layers.

    Returns:
        Old name -> new name, unique among the model's layers.
    """
    names = [layer_name(layer) for layer in config["layers"]]
    taken = {name for name in names if "/" not in name}
    new: dict[str, str] = {}
    for name in names:
        if "/" not in name or name in new:
            continue
        candidate = base = name.replace("/", "_")
        count = 1
        while candidate in taken:
            candidate = f"{base}_{count}"
            count += 1
        taken.add(candidate)
        new[name] = candidate
    return new


def layer_name(layer: Mapping[str, Any]) -> str:
    """Return the name in the configuration of a layer."""
    return layer.get("name") or layer.get("config", {}).get("name") or ""


def rename_references(
    value: Any, new: Mapping[str, str], shift: Mapping[str, int]
) -> Any:
    """Return inbound nodes, inputs or outputs with new names and node indices.

    Args:
        value: Nested lists and dictionaries that refer to a tensor by
            `[name, node, tensor, ...]`.
        new: Old name -> new name.
        shift: Old name -> number to subtract from the node index.
    """
    if isinstance(value, dict):
        return {
            key: rename_references(item, new, shift)
            for key, item in value.items()
        }
    if not isinstance(value, (list, tuple)):
        return value
    if is_reference(value):
        name, node, tensor, *rest = value
        return [
            new.get(name, name),
            node - shift.get(name, 0),
            tensor,
            *(rename_references(item, new, shift) for item in rest),
        ]
    return [rename_references(item, new, shift) for item in value]


def first_nodes(value: Any) -> dict[str, int]:
    """Return the smallest node index in the references to each layer."""
    found: dict[str, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            value = list(value.values())
        if not isinstance(value, (list, tuple)):
            return
        if is_reference(value):
            name, node = value[:2]
            found[name] = min(node, found.get(name, node))
            value = value[3:]
        for item in value:
            visit(item)

    visit(value)
    return found


def is_reference(value: Any) -> bool:
    """Return whether a value is `[name of a layer, node, tensor, ...]`."""
    return (
        isinstance(value, (list, tuple))
        and len(value) >= 3
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and isinstance(value[2], int)
        and not is_constant(value)
    )


def is_constant(value: Any) -> bool:
    """Return whether a value is a constant in place of a tensor."""
    return isinstance(value, (list, tuple)) and value[:1] == ["_CONSTANT_VALUE"]
