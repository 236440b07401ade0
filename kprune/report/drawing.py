"""Draw the layers of a model, coloured by the groups of their channels."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from kprune.graph.tracer import trace
from kprune.outputs import atomic_file
from kprune.outputs import check_file
from kprune.outputs import check_suffix
from kprune.report import units
from kprune.report.boxes import Box
from kprune.report.boxes import boxes_and_edges
from kprune.report.inspection import inspection
from kprune.report.layered import layered_layout
from kprune.report.templating import template

SUFFIXES = (".svg", ".html")
BOX_HEIGHT = 22
ROW_HEIGHT = 36
LETTER = 6.5  # mean width of a letter at the templates' font size
LONGEST_LABEL = 34
# Turning the hue by the golden angle gives neighbouring groups different colours.
GOLDEN = 0.381966
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue (ITU-R BT.709)


def draw(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Draw a model's layers, coloured by group, into a file.

    Layers run from top to bottom, including those of nested models. A layer has the
    colour of the channels in its output: strong if it computes them, pale if it
    passes them on. Grey channels cannot be removed; the tooltip gives the reason. A
    table lists the groups.

    Args:
        model: Plain or masked functional or Sequential model.
        path: File to write. `.svg` is a picture; `.html` is a page in which
            pointing at a group highlights its layers.

    Raises:
        ImportError: jinja2 is not installed.
        ValueError: The path has another suffix.
        OSError: The file cannot be written.

    Example:

    ```python
    draw(model, "model.svg")
    ```
    """
    path = Path(path)
    check_suffix(path, SUFFIXES, "A drawing")
    check_file(path)
    page = template(f"drawing{path.suffix.lower()}", "A drawing")
    graph = trace(model)
    boxes, edges = boxes_and_edges(model, graph)
    view = _view(boxes, edges, inspection(model))
    text = page.render(view)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _view(
    boxes: list[Box], edges: list[tuple[int, int]], data: dict[str, Any]
) -> dict[str, Any]:
    """Return everything the templates show, as plain data."""
    groups = data["groups"]
    colors = [_colors(number, g["pinned"]) for number, g in enumerate(groups)]
    letters = min(LONGEST_LABEL, max(len(b.name) for b in boxes))
    width = round(LETTER * (letters + 6) + 16)
    layout = layered_layout(len(boxes), edges, width)
    neutral = _colors(0, "not a group")
    shown = []
    for box, x, row in zip(boxes, layout.x, layout.rows, strict=True):
        left = round(x - width / 2, 1)
        shown.append(
            {
                "x": left,
                "y": row * ROW_HEIGHT,
                "label": _shortened(_printable(box.name)),
                "tag": _tag(box),
                "title": _printable(_title(box, groups)),
                "groups": " ".join(f"g{n}" for n in box.groups),
                "stripes": list(_stripes(box, colors, left, width)),
                "border": _one(box, colors, neutral)["border"],
            }
        )
    lines = []
    for (source, _), route in zip(edges, layout.routes, strict=True):
        box = boxes[source]
        lines.append(
            {
                "path": _path(route),
                "color": _one(box, colors, neutral)["border"],
                "groups": " ".join(f"g{n}" for n in box.groups),
            }
        )
    order = sorted(
        range(len(groups)), key=lambda n: groups[n]["pinned"] is not None
    )
    return {
        "name": _printable(data["model"]),
        "coverage": data["coverage"],
        "share": units.percent(data["coverage"]["share"]),
        "macs": units.count(data["macs"]),
        "params": units.count(data["params"]),
        "legend": [_legend(n, groups[n], colors[n]) for n in order],
        "boxes": shown,
        "lines": lines,
        "box": {"width": width, "height": BOX_HEIGHT},
        "width": round(layout.width) + 2,
        "height": max(layout.rows, default=0) * ROW_HEIGHT + BOX_HEIGHT,
    }


def _colors(number: int, pinned: str | None) -> dict[str, str]:
    if pinned is not None:
        return {"strong": "#d4d4d4", "pale": "#f0f0f0", "border": "#8a8a8a"}
    hue = (0.58 + number * GOLDEN) % 1
    # Hues repeat sooner or later, so every second one is stronger than the others.
    strong, border = ((0.62, 0.2), (0.5, 0.16))[number % 2]
    return {
        "strong": _shade(hue, strong),
        "pale": _shade(hue, 0.88),
        "border": _shade(hue, border),
    }


def _shade(hue: float, luminance: float) -> str:
    """Return a colour of given luminance, so that dark text is equally readable."""
    low, high = 0.0, 1.0
    for _ in range(12):
        rgb = colorsys.hls_to_rgb(hue, (low + high) / 2, 0.7)
        bright = sum(w * v**2.2 for w, v in zip(LUMINANCE, rgb, strict=True))
        if bright < luminance:
            low = (low + high) / 2
        else:
            high = (low + high) / 2
    return "#" + "".join(f"{round(255 * v):02x}" for v in rgb)


def _one(
    box: Box, colors: list[dict[str, str]], neutral: dict[str, str]
) -> dict[str, str]:
    """Return the colour of a box whose channels belong to one group."""
    return colors[next(iter(box.groups))] if len(box.groups) == 1 else neutral


def _stripes(
    box: Box, colors: list[dict[str, str]], left: float, width: float
) -> Iterator[dict[str, Any]]:
    """Yield one stripe per group, as wide as its share of the channels."""
    total = sum(box.groups.values())
    shade = "strong" if box.writes else "pale"
    for number, count in box.groups.items():
        part = width * count / total
        yield {
            "x": round(left, 1),
            "width": round(part, 1),
            "color": colors[number][shade],
        }
        left += part


def _tag(box: Box) -> str:
    if not box.groups:
        return ""
    first, *rest = box.groups
    return f"#{first + 1}" + (f" +{len(rest)}" if rest else "")


def _title(box: Box, groups: list[dict[str, Any]]) -> str:
    name = " / ".join((*box.path, box.name))
    shape = ", ".join("?" if n is None else str(n) for n in box.shape)
    lines = [f"{name} ({box.kind}), output ({shape})"]
    for number in box.groups:
        group = groups[number]
        lines.append(f"#{number + 1} {group['name']}: {_size(group)} channels")
        if group["pinned"] is not None:
            lines[-1] += f", pinned: {group['pinned']}"
    if not box.groups:
        lines.append("no channels that could be removed")
    return "\n".join(lines)


def _size(group: dict[str, Any]) -> str:
    kept, size = group["kept"], group["size"]
    return f"{size:,}" if kept == size else f"{kept:,} of {size:,}"


def _legend(
    number: int, group: dict[str, Any], colors: dict[str, str]
) -> dict[str, Any]:
    members = group["members"]
    writers = [m["layer"] for m in members if m["role"] == "filter"]
    writers = list(dict.fromkeys(writers))
    text = _shortened(_printable(writers[0])) if writers else "no layer"
    return {
        "id": f"g{number}",
        "tag": f"#{number + 1}",
        "colors": colors,
        "name": _shortened(_printable(group["name"])),
        "size": _size(group),
        "macs": units.count(group["macs"]),
        "params": units.count(group["params"]),
        "writers": text + (f" +{len(writers) - 1}" if len(writers) > 1 else ""),
        "all_writers": _printable(", ".join(writers)),
        "pinned": _printable(group["pinned"] or ""),
    }


def _path(route: list[tuple[float, int]]) -> str:
    """Return a line that leaves and enters rows vertically, in SVG's notation."""
    (x, row), *rest = route
    y = row * ROW_HEIGHT + BOX_HEIGHT
    text = f"M{x:.1f} {y}"
    for step, (x, row) in enumerate(rest):
        top = row * ROW_HEIGHT
        middle = (y + top) / 2
        text += (
            f"C{route[step][0]:.1f} {middle:g} {x:.1f} {middle:g} {x:.1f} {top}"
        )
        y = top
        if step < len(rest) - 1:
            y = top + BOX_HEIGHT
            text += f"V{y}"
    return text


def _shortened(name: str) -> str:
    if len(name) <= LONGEST_LABEL:
        return name
    half = (LONGEST_LABEL - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _printable(text: str) -> str:
    """Return the text without characters that XML does not allow."""
    return "".join(
        c if c.isprintable() or c == "\n" else "\ufffd" for c in text
    )
