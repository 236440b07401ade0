"""Plots as SVG that takes the colours of the page around it.

Matplotlib draws them: its SVG stands without scripts, is small (text stays
text), and the package is there for other plots already. A
library that draws in the browser would bring megabytes of JavaScript into a
file that must work without a network, on paper and on a phone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from collections.abc import Sequence
from html import escape
from typing import Any

from kprune.display import COLORS
from kprune.display import MARKERS
from kprune.display import line
from kprune.report.templating import EXTRA
from kprune.sensitivity import Sensitivity

_INK = "#010203"
"""Stands for the colour of the page's text."""

_WIDTH = 5.2  # inches
_PANEL = 1.75
_HEAD = 0.3
_COLUMNS = 3
"""Columns of the legend below many lines."""

Lines = Mapping[str, Sequence[float | None]]


def curves(
    panels: Mapping[str, Lines],
    x: Sequence[int],
    events: Sequence[int],
    label: str,
) -> str:
    """Draw curves below each other.

    Args:
        panels: For each panel's title, its curves by name, as long as `x`.
        x: Epochs, from 1.
        events: Where vertical lines mark that filters went.
        label: What a reader hears who does not see the picture.

    Returns:
        An `<svg>` element.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure(_HEAD + _PANEL * len(panels))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, lines) in zip(rows, panels.items(), strict=True):
        for number, (name, values) in enumerate(lines.items()):
            known = [float("nan") if v is None else v for v in values]
            axes.plot(x, known, label=name, linewidth=1.6, **line(number))
        for event in events:
            axes.axvline(
                event, color=_INK, linewidth=0.8, linestyle=(0, (1, 2))
            )
        axes.set_title(title, loc="left")
        if len(lines) > 1:
            axes.legend(frameon=False, ncols=3)
        _plain(axes)
    rows[-1].set_xlabel("epoch (dotted: filters go before it)")
    rows[-1].xaxis.get_major_locator().set_params(integer=True)
    return _svg(figure, label)


def scatter(
    points: Mapping[str, Sequence[tuple[float, float]]],
    frontier: Sequence[tuple[float, float]],
    axes_titles: tuple[str, str],
    label: str,
) -> str:
    """Draw points of several kinds, and a line through the best ones.

    Args:
        points: For each kind's name its points.
        frontier: The points that no other one beats, from left to right.
        axes_titles: Titles of both axes.
        label: See `curves`.
    """
    figure = _figure(3.4)
    axes = figure.subplots()
    axes.plot(
        *zip(*frontier, strict=True), color=_INK, linewidth=0.8, alpha=0.6
    )
    for number, (name, places) in enumerate(points.items()):
        x, y = zip(*places, strict=True)
        marker = MARKERS[1:][number // len(COLORS) % (len(MARKERS) - 1)]
        color = COLORS[number % len(COLORS)]
        axes.scatter(x, y, s=26, label=name, color=color, marker=marker)
    axes.set_xlabel(axes_titles[0])
    axes.set_ylabel(axes_titles[1])
    axes.legend(frameon=False)
    _plain(axes)
    return _svg(figure, label)


def sensitivities(found: Sensitivity, metric: str) -> str:
    """Draw the curves of all groups.

    Args:
        found: What `kprune.sensitivity` returned.
        metric: Name of the metric.
    """
    rows = -(-len(found.curves) // _COLUMNS)
    figure = _figure(3.2 + 0.21 * rows)
    axes = figure.subplots()
    found.draw(axes, metric)
    figure.legend(
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
        loc="outside lower center",
        ncols=_COLUMNS,
    )
    _plain(axes)
    return _svg(figure, f"{metric} by share of a group removed")


def frontier(
    points: Sequence[tuple[float, float]], less: bool = False
) -> list[tuple[float, float]]:
    """Return the points that no other one beats: less of x, more of y.

    Args:
        points: Pairs of a cost and a quality.
        less: Whether less of y is better, as of an error.

    Returns:
        These points, by cost.
    """
    best: list[tuple[float, float]] = []
    sign = -1 if less else 1
    for x, y in sorted(set(points), key=lambda p: (p[0], -sign * p[1])):
        if not best or sign * y > sign * best[-1][1]:
            best.append((x, y))
    return best


def _figure(height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"A report needs matplotlib: {EXTRA}.") from error
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _plain(axes: Any) -> None:
    """Take away what is not data, and give the rest the colour of text."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(axis="y", color=_INK, alpha=0.15, linewidth=0.6)
    for text in (
        axes.title,
        axes._left_title,
        axes.xaxis.label,
        axes.yaxis.label,
    ):
        text.set(color=_INK, fontsize=10)
    if axes.get_legend() is not None:
        for text in axes.get_legend().get_texts():
            text.set(color=_INK, fontsize=9)


def _svg(figure: Any, label: str) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r' (?:width|height|version)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(label)}">{rest}'
