"""What can be pruned in a model, and what that would save."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

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
    """Collects coverage and groups as plain data, ready for JSON.

    `macs` and `params` of a group are what the model would lose if the whole
    group went. Work between two groups counts for both, so the groups add up
    to more than the model.

    Args:
        model: Plain or masked model.

    Returns:
        Dictionary with `model`, `coverage`, `macs`, `params` and `groups`.
        Each group has `name`, `size`, `kept`, `pinned` (reason or None),
        `macs`, `params` and `members`.

    Example:

    ```python
    json.dumps(inspection(model))
    ```
    """
    graph = trace(model)
    costs = CostModel(graph)
    full = costs.full
    kept = {}
    if is_masked(model):
        kept = {k: int((v > 0).sum()) for k, v in masks(model, graph).items()}
    macs = _touched(graph, _work(graph, costs))
    params = _touched(graph, _weights(graph))
    coverage = graph.coverage
    return {
        "model": model.name,
        "coverage": {
            "prunable": coverage.prunable,
            "pinned": coverage.pinned,
            "total": coverage.total,
            "share": coverage.share,
            "reasons": dict(coverage.reasons),
        },
        "macs": round(full["macs"]),
        "params": round(full["params"]),
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "kept": kept.get(group.name, group.size),
                "pinned": group.pinned,
                "macs": round(macs[number]),
                "params": round(params[number]),
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


Amounts = Iterable[tuple[list[np.ndarray], float]]


def _work(graph: ChannelGraph, costs: CostModel) -> Amounts:
    amounts = costs.macs.each(costs.lengths(costs.sizes))
    for work, amount in zip(graph.work, amounts, strict=True):
        labels = [array for axis in work.axes for array in axis]
        if work.variable is not None:
            labels += _labels(graph, work.variable)
        yield labels, float(amount)


def _weights(graph: ChannelGraph) -> Amounts:
    for binding in graph.bindings.values():
        size = float(np.prod(binding.variable.shape))
        yield _labels(graph, binding.variable), size


def _labels(graph: ChannelGraph, variable: keras.Variable) -> list[np.ndarray]:
    binding = graph.bindings.get(id(variable))
    if binding is None:
        return []
    return [labels for axis in binding.axes.values() for labels in axis.labels]


def _touched(graph: ChannelGraph, amounts: Amounts) -> np.ndarray:
    """Sums, for every group, the part of each amount that lies on it."""
    totals = np.zeros(len(graph.groups))
    for arrays, amount in amounts:
        untouched: dict[int, float] = {}
        for labels in arrays:
            owners = graph.group_of[graph.classes[labels]].ravel()
            for group, count in zip(
                *np.unique(owners, return_counts=True), strict=True
            ):
                share = 1 - count / owners.size
                untouched[int(group)] = untouched.get(int(group), 1.0) * share
        for group, share in untouched.items():
            if group >= 0:
                totals[group] += amount * (1 - share)
    return totals


def inspection_text(data: dict[str, Any]) -> str:
    """Sets what `inspection` collected as a page to read.

    Args:
        data: Result of `inspection`.

    Returns:
        Text: coverage first, then the groups in model order.

    Example:

    ```python
    print(inspection_text(inspection(model)))
    ```
    """
    coverage = data["coverage"]
    lines = [
        f"{coverage['prunable']:,} of {coverage['total']:,} channels prunable "
        f"({units.percent(coverage['share'])})"
    ]
    reasons = sorted(coverage["reasons"].items(), key=lambda item: -item[1])
    lines += [f"  {count:,} pinned: {reason}" for reason, count in reasons]
    lines.append(
        f"model {data['model']}: {units.count(data['macs'])} MACs, "
        f"{units.count(data['params'])} parameters"
    )
    for group in data["groups"]:
        lines += ["", *_paragraph(group)]
    return "\n".join(lines)


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
