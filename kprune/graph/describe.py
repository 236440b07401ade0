"""A channel graph as a page to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kprune.graph.channel_graph import ChannelGraph
    from kprune.graph.channel_graph import Group


def describe(graph: ChannelGraph) -> str:
    """Coverage first, then one paragraph a group."""
    lines = [f"Channel graph of '{graph.model.name}': {graph.coverage}", ""]
    lines += [_group(group) for group in graph.groups]
    return "\n".join(lines)


def _group(group: Group) -> str:
    head = f"{group.name}  {group.size} channels"
    if group.pinned is not None:
        head += f"  (pinned: {group.pinned})"
    lines = [head]
    for title, members in (
        ("written by", group.producers),
        ("scaled by", group.scales),
        ("read by", group.consumers),
    ):
        names = list(dict.fromkeys(m.layer.name for m in members))
        if names:
            lines.append(f"  {title:<10} {', '.join(names)}")
    return "\n".join(lines)
