"""Text descriptions of channel graphs and groups."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

from kprune.graph.patterns import merged
from kprune.graph.patterns import pattern

if TYPE_CHECKING:
    from kprune.graph.channel_graph import ChannelGraph
    from kprune.graph.channel_graph import Group
    from kprune.graph.channel_graph import Member

WIDTH = 100
# With more groups than this, similar ones share a line.
FOLD_ABOVE = 40
# Show a count instead of a name that would be shortened further than this.
_RECOGNISABLE = 16
_MORE = re.compile(r" \+\d")
TITLES = {
    "filter": "written by",
    "scale": "scaled by",
    "statistic": "measured by",
    "input": "read by",
}


def describe(graph: ChannelGraph, fold: bool | None = None) -> str:
    """Describe a graph: coverage, prunable groups and pinned groups.

    Args:
        graph: A `ChannelGraph`.
        fold: Whether groups of equal size whose names differ only in numbers
            share a line. Defaults to True if there are many groups.

    Returns:
        Text, at most 100 columns wide unless a group's name is very long.

    Example:

    ```python
    print(describe(kprune.trace(model), fold=False))
    ```
    """
    coverage = str(graph.coverage).splitlines()[0]
    lines = [f"Channel graph of '{graph.model.name}': {coverage}"]
    pinned = [g for g in graph.groups if g.pinned is not None]
    lines += [*_opaque(graph), *_read(graph)]
    if graph.prunable:
        if fold is None:
            fold = len(graph.prunable) > FOLD_ABOVE
        lines += ["", *_prunable(graph.prunable, fold)]
    if pinned:
        lines += ["", *_pinned(pinned)]
    if graph.groups:
        lines.append("")
        if any(_MORE.search(line) for line in lines):
            lines.append('"+2" stands for two more layers.')
        name = graph.groups[0].name
        lines.append(f'print(graph["{name}"]) lists every weight of a group.')
    return "\n".join(lines)


def _opaque(graph: ChannelGraph) -> list[str]:
    if not graph.opaque:
        return []
    count = len(graph.opaque)
    what = "layer" if count == 1 else "layers"
    lines = ["", f"Not analysed: {count} {what} with weights"]
    families: dict[str, list[str]] = {}
    for entry in graph.opaque:
        kind = f"{type(entry.layer).__name__}: {entry}"
        families.setdefault(kind, []).append(entry.layer.name)
    for kind, names in families.items():
        shown = _Layers(names, f"{len(names)} layers").fit(WIDTH // 2)
        lines += _wrap(f"{shown}, {kind}", "  ")
    return lines


def _read(graph: ChannelGraph) -> list[str]:
    kinds = [type(layer).__name__ for layer in graph.read]
    if not kinds:
        return []
    counts = [f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds)]
    text = f"No rule, read as models of their layers: {', '.join(counts)}"
    return ["", *_wrap(text, hanging=2)]


def describe_group(group: Group) -> str:
    """List every axis of every variable on which a group occurs.

    Args:
        group: A `Group`.

    Returns:
        Text, one line per layer.

    Example:

    ```python
    print(describe_group(kprune.trace(model)["conv1"]))
    ```
    """
    lines = [f"{group.name}: {_channels(group.size)}"]
    if group.pinned is None:
        lines[0] += ", prunable"
    else:
        lines += _wrap(f"pinned: {group.pinned}", "  ")
    for role, title in TITLES.items():
        places: dict[str, list[str]] = {}
        for member in group.members:
            if member.role == role:
                places.setdefault(member.layer.name, []).append(_place(member))
        for layer, words in places.items():
            text = f"  {title:<12} {layer}: {', '.join(words)}"
            lines += _wrap(text, hanging=17)
            title = ""
    return "\n".join(lines)


def _place(member: Member) -> str:
    text = member.name
    *folders, _ = member.variable.path.split("/")
    if member.layer.name in folders:
        # In attention and recurrent layers, sublayers own the variables.
        own = folders[folders.index(member.layer.name) + 1 :]
        text = "/".join([*own, text])
    if len(member.variable.shape) > 1:
        text += f" axis {member.axis}"
    each = member.index.shape[1]
    return text if each == 1 else f"{text} ({each} places per channel)"


# -- prunable groups ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Layers:
    """Layers named in one cell of the table.

    Args:
        names: Names of the layers, in the order shown.
        count: Text shown instead if there is no room for a name.
    """

    names: list[str]
    count: str

    def show(self, most: int) -> str:
        text = ", ".join(self.names[:most])
        more = len(self.names) - most
        return f"{text} +{more}" if more > 0 else text

    def fit(self, width: int) -> str:
        """Return as many names as fit into `width` columns."""
        for most in range(len(self.names), 0, -1):
            text = self.show(most)
            if len(text) <= width:
                return text
        if not self.names:
            return ""
        spare = width - (len(self.show(1)) - len(self.names[0]))
        if spare < _RECOGNISABLE or "{" in self.names[0]:
            return self.count
        return _Layers([_tail(self.names[0], spare), *self.names[1:]], "").show(
            1
        )


def _tail(name: str, width: int) -> str:
    """Return the end of a name, which identifies a layer better than its start."""
    rest = name[len(name) - width + 1 :]
    word = rest.find("_") + 1
    return "…" + (rest[word:] if 0 < word < width // 2 else rest)


@dataclasses.dataclass(frozen=True)
class _Row:
    """One line of the table: a group, or several similar ones."""

    channels: str
    group: str
    scales: _Layers
    readers: _Layers


def _prunable(groups: Sequence[Group], fold: bool) -> list[str]:
    families = _families(groups) if fold else [[g] for g in groups]
    rows = [_row(family) for family in families]
    title = f"Prunable: {_groups(len(groups))} of coupled channels"
    folded = any(len(family) > 1 for family in families)
    if folded:
        title += f", in {len(rows)} kinds (number of groups x channels)"
    return [*_wrap(title), *_table(rows)]


def _families(groups: Sequence[Group]) -> list[list[Group]]:
    """Return lists of similar groups, ordered by their first group."""
    families: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        counts = [len(_layers(m)) for m in (group.producers, group.scales)]
        key = (pattern(group.name), group.size, *counts)
        families.setdefault(key, []).append(group)
    return list(families.values())


def _row(family: list[Group]) -> _Row:
    first = family[0]
    writers = len(_layers(first.producers))
    name = merged([g.name for g in family])
    if writers > 1:
        name += f" +{writers - 1}"
    elif not writers:
        name += " (no layer)"
    channels = f"{first.size:,}"
    if len(family) > 1:
        channels = f"{len(family)} x {channels}"
    return _Row(
        channels,
        name,
        _common([_layers(g.scales) for g in family]),
        _common([_layers(g.consumers) for g in family]),
    )


def _common(lists: list[list[str]]) -> _Layers:
    """Return the layers of several groups, merged where their names are similar."""
    low, high = min(map(len, lists)), max(map(len, lists))
    count = f"{low}" if low == high else f"{low} to {high}"
    count += " layer" if high == 1 else " layers"
    if len(lists) == 1:
        return _Layers(lists[0], count)
    count += " each"
    if low != high:
        return _Layers([count], count)
    places = list(zip(*lists, strict=True))
    if any(len({pattern(name) for name in names}) > 1 for names in places):
        return _Layers([count], count)
    return _Layers([merged(names) for names in places], count)


def _table(rows: list[_Row]) -> list[str]:
    head = ("channels", "group, its writers", "scaled by", "read by")
    scaled = any(r.scales.names for r in rows)
    first = max(len(head[0]), *(len(r.channels) for r in rows))
    second = max(len(head[1]), *(len(r.group) for r in rows))
    room = max(WIDTH - first - second - (8 if scaled else 6), 2 * _RECOGNISABLE)
    third, fourth = _share(rows, room) if scaled else (0, room)
    lines = []
    cells = [
        (r.channels, r.group, r.scales.fit(third), r.readers.fit(fourth))
        for r in rows
    ]
    for a, b, c, d in [head, *cells]:
        middle = f"{c:<{third}}  " if scaled else ""
        lines.append(f"  {a:>{first}}  {b:<{second}}  {middle}{d}".rstrip())
    return lines


def _share(rows: list[_Row], room: int) -> tuple[int, int]:
    """Return the widths of the last two columns; unused width goes to the other."""
    scales = [r.scales for r in rows]
    readers = [r.readers for r in rows]
    some = [max(len(c.show(1)) for c in column) for column in (scales, readers)]
    every = [
        max(len(c.show(len(c.names))) for c in column)
        for column in (scales, readers)
    ]
    left = min(every[0], max(some[0], room - every[1]))
    left = max(min(left, max(room // 2, room - some[1])), len("scaled by"))
    return left, room - left


# -- pinned groups -----------------------------------------------------------


def _pinned(groups: list[Group]) -> list[str]:
    written = [g for g in groups if g.producers]
    others = [g for g in groups if not g.producers]
    lines = []
    if written:
        total = sum(g.size for g in written)
        lines.append(f"Pinned: {_groups(len(written))}, {_channels(total)}")
    families: dict[str, list[Group]] = {}
    for group in written:
        families.setdefault(pattern(group.pinned or ""), []).append(group)
    sizes = [sum(g.size for g in family) for family in families.values()]
    width = max((len(f"{size:,}") for size in sizes), default=0)
    order = sorted(
        zip(sizes, families.values(), strict=True), key=lambda f: -f[0]
    )
    for size, family in order:
        why = merged(list(dict.fromkeys(g.pinned or "" for g in family)))
        names = [g.name for g in family]
        if len(names) > 1 or names[0] not in why:
            why += f": {_Layers(names, f'{len(names)} groups').fit(WIDTH // 2)}"
        lines += _wrap(f"{size:>{width},}  {why}", "  ", 2 + width + 2)
    if others:
        names = [g.name for g in others]
        total = sum(g.size for g in others)
        what = (
            f"{_channels(total)} of constants or padding that meet pinned ones"
        )
        lines += _wrap(
            f"Besides: {what}: {_Layers(names, f'{len(names)} groups').fit(WIDTH // 2)}"
        )
    return lines


# -- words -------------------------------------------------------------------


def _layers(members: Sequence[Member]) -> list[str]:
    return list(dict.fromkeys(m.layer.name for m in members))


def _channels(count: int) -> str:
    return f"{count:,} {'channel' if count == 1 else 'channels'}"


def _groups(count: int) -> str:
    return f"{count:,} {'group' if count == 1 else 'groups'}"


def _wrap(text: str, indent: str = "", hanging: int | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=" "
        * (len(indent) + 2 if hanging is None else hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )
