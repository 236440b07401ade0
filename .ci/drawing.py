"""Draws docs/idea.svg: groups of channels, masks, the compact model.

`make format` runs this, a test checks the result.
"""

from __future__ import annotations

import itertools
from pathlib import Path

FILE = Path(__file__).parents[1] / "docs" / "idea.svg"

LAYERS = (
    ("conv1", "a", 0),
    ("conv2", "b", 1),
    ("conv3", "a", 2),
    ("add", "a", 3),
    ("dense", "", 4),
)
"""Name, group whose channels it makes, row."""

COLOURS = {"a": "#1b7f79", "b": "#c9642d"}
GONE = {"a": (1,), "b": (0, 3)}
CHANNELS = 4
SIZE, GAP, ROW, PANEL = 26, 8, 62, 260
LEFT, TOP = 92, 92
INK, PALE = "#263238", "#90a4ae"

TITLES = (
    ("1. Groups", "Channels that meet can only", "go together."),
    ("2. Masks", "Removed channels are 0,", "and stay 0 in training."),
    ("3. Rebuild", "Smaller layers,", "the same outputs."),
)


def main() -> None:
    """Write the file."""
    FILE.write_text(drawing(), "utf-8")


def drawing() -> str:
    """Return the file's content."""
    width, height = 3 * PANEL + 20, TOP + len(LAYERS) * ROW - 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="14" role="img">',
        "<title>Channel groups, masks and the compact model</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    for number in range(3):
        parts += panel(number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(number: int) -> list[str]:
    """Return one of the three pictures."""
    x = number * PANEL + 16
    title, *lines = TITLES[number]
    parts = [text(x, 28, title, size=17, weight="bold")]
    parts += [text(x, 50 + 18 * i, line) for i, line in enumerate(lines)]
    left = x + LEFT
    parts += shortcut(left)
    for above, below in itertools.pairwise(LAYERS):
        parts.append(arrow(left, row(above[2]) + SIZE, row(below[2])))
    for name, group, place in LAYERS:
        parts.append(text(left - 34, row(place) + 18, name, anchor="end"))
        parts += boxes(left, row(place), group, number)
    return parts


def boxes(left: float, top: float, group: str, number: int) -> list[str]:
    """Return the channels that a layer makes."""
    if not group:
        label = "reads group a"
        return [text(left, top + 18, label, colour=COLOURS["a"])]
    parts = []
    kept = 0
    for channel in range(CHANNELS):
        gone = channel in GONE[group]
        if gone and number == 2:
            continue
        place = kept if number == 2 else channel
        kept += 1
        empty = gone and number == 1
        parts.append(
            f'<rect x="{left + place * (SIZE + GAP)}" y="{top}" width="{SIZE}" '
            f'height="{SIZE}" rx="4" fill="{"#ffffff" if empty else COLOURS[group]}" '
            f'stroke="{PALE if empty else COLOURS[group]}" stroke-width="2"'
            + (' stroke-dasharray="4 3"/>' if empty else "/>")
        )
        label = "0" if empty else group
        parts.append(
            text(
                left + place * (SIZE + GAP) + SIZE / 2,
                top + 18,
                label,
                anchor="middle",
                colour=PALE if empty else "#ffffff",
            )
        )
    return parts


def row(place: int) -> float:
    """Return where a layer begins."""
    return TOP + place * ROW


def arrow(left: float, top: float, bottom: float) -> str:
    """Return a line from one layer to the next."""
    x = left + SIZE / 2
    return (
        f'<path d="M{x} {top + 4}V{bottom - 5}m-4 -6l4 6l4 -6" fill="none" '
        f'stroke="{PALE}" stroke-width="2"/>'
    )


def shortcut(left: float) -> list[str]:
    """Return the line around two convolutions to the addition."""
    x, start, end = left - 20, row(0) + SIZE / 2, row(3) + SIZE / 2
    return [
        f'<path d="M{left - 6} {start}H{x}V{end}H{left - 6}m-6 -4l6 4l-6 4" '
        f'fill="none" stroke="{PALE}" stroke-width="2"/>'
    ]


def text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    size: int = 14,
    weight: str = "normal",
    colour: str = INK,
) -> str:
    """Return a line of text."""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{colour}">{words}</text>'
    )


if __name__ == "__main__":
    main()
