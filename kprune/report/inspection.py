"""Report what can be pruned in a model, and what that would save."""

from __future__ import annotations

import textwrap
from typing import Any

import keras
import numpy as np

from kprune.cost.api import gates_note
from kprune.cost.model import CostModel
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Group
from kprune.graph.tracer import trace
from kprune.masking.wrapping import is_masked
from kprune.masking.wrapping import masks
from kprune.report import units

ROLES = {
    "filter": "written by",
    "scale": "scaled by",
    "statistic": "measured by",
    "input": "read by",
}


def inspection(model: keras.Model) -> dict[str, Any]:
    """Collect coverage and groups as plain data, ready for JSON.

    `macs` and `params` of a group are what the model would save without the whole
    group. Work between two groups counts for both, so the sum over groups exceeds
    the model's total.

    Args:
        model: Plain or masked model.

    Returns:
        Dictionary with `model`, `opaque`, `read`, `coverage`, `macs`, `params`,
        `note` (what these costs leave out, see `kprune.cost`) and `groups`.
        `opaque` lists layers with weights that are not analysed: `layer`, `class`,
        `params`, `counted` (whether `macs` includes their work) and `why`. `read`
        lists layers without a rule that are analysed as models. Each group has
        `name`, `size`, `kept`, `pinned` (reason or None), `macs`, `params` and
        `members`.

    Example:

    ```python
    json.dumps(inspection(model))
    ```
    """
    graph = trace(model)
    costs = CostModel(graph, graph.groups)
    full, losses = costs.full, _losses(graph, costs)
    kept = {}
    if is_masked(model):
        kept = {k: int((v > 0).sum()) for k, v in masks(model, graph).items()}
    coverage = graph.coverage
    return {
        "model": model.name,
        "opaque": [
            {
                "layer": entry.layer.name,
                "class": type(entry.layer).__name__,
                "params": entry.params,
                "counted": entry.counted,
                "why": entry.why,
            }
            for entry in graph.opaque
        ],
        "read": [
            {"layer": layer.name, "class": type(layer).__name__}
            for layer in graph.read
        ],
        "coverage": {
            "prunable": coverage.prunable,
            "pinned": coverage.pinned,
            "total": coverage.total,
            "share": coverage.share,
            "reasons": dict(coverage.reasons),
        },
        "macs": round(full["macs"]),
        "params": round(full["params"]),
        "note": gates_note(model),
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "kept": kept.get(group.name, group.size),
                "pinned": group.pinned,
                "macs": round(losses["macs"][number]),
                "params": round(losses["params"][number]),
                "members": _members(group),
            }
            for number, group in enumerate(graph.groups)
        ],
    }


def _members(group: Group) -> list[dict[str, Any]]:
    return [
        {
            "layer": member.layer.name,
            "variable": member.name,
            "axis": member.axis,
            "role": member.role,
        }
        for member in group.members
    ]


def _losses(graph: ChannelGraph, costs: CostModel) -> dict[str, np.ndarray]:
    """Return the costs that the model would save without each group, `(groups,)`.

    Args:
        graph: The model's channels.
        costs: The costs of all its groups, pinned ones included.
    """
    without = np.tile(costs.sizes, (len(graph.groups), 1))  # one row a group
    np.fill_diagonal(without, 0)
    full, left = costs.full, costs.evaluate(without)
    return {key: full[key] - left[key] for key in full}


def inspection_text(data: dict[str, Any]) -> str:
    """Lay out the result of `inspection` as text.

    Args:
        data: Result of `inspection`.

    Returns:
        Text: layers that are not analysed first, then coverage and the
        groups in model order.

    Example:

    ```python
    print(inspection_text(inspection(model)))
    ```
    """
    coverage = data["coverage"]
    lines = [_not_seen(entry) for entry in data["opaque"]]
    if data["read"]:
        kinds = dict.fromkeys(entry["class"] for entry in data["read"])
        lines.append(f"read as models of their layers: {', '.join(kinds)}")
    lines += [
        f"{coverage['prunable']:,} of {coverage['total']:,} channels prunable "
        f"({units.percent(coverage['share'])})"
    ]
    reasons = sorted(coverage["reasons"].items(), key=lambda item: -item[1])
    lines += [f"  {count:,} pinned: {reason}" for reason, count in reasons]
    lines.append(
        f"model {data['model']}: {units.count(data['macs'])} MACs, "
        f"{units.count(data['params'])} parameters"
    )
    if data["note"]:
        lines += textwrap.wrap(data["note"], 80)
    for group in data["groups"]:
        lines += ["", *_paragraph(group)]
    return "\n".join(lines)


def _not_seen(entry: dict[str, Any]) -> str:
    macs = "counted" if entry["counted"] else "unknown, counted as 0"
    return (
        f"not analysed: {entry['layer']} ({entry['class']}), "
        f"{entry['params']:,} weights, MACs {macs}: {entry['why']}"
    )


def _paragraph(group: dict[str, Any]) -> list[str]:
    head = f"{group['name']}  {group['size']} channels"
    if group["kept"] != group["size"]:
        head += f" ({group['kept']} kept)"
    head += (
        f", {units.count(group['macs'])} MACs, {units.count(group['params'])} "
    )
    lines = [head + "parameters"]
    if group["pinned"] is not None:
        lines.append(f"  pinned: {group['pinned']}")
    for role, title in ROLES.items():
        places = [
            f"{member['layer']}.{member['variable']}"
            for member in group["members"]
            if member["role"] == role
        ]
        if places:
            lines.append(
                f"  {title + ':':<13}{', '.join(dict.fromkeys(places))}"
            )
    return lines
