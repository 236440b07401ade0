"""Draw plots as SVG that adopts the colours of the surrounding page.

Matplotlib draws them, because its SVG needs no scripts, is small (text stays text), and
the package is used for other plots too. A library that draws in the browser would add
megabytes of JavaScript to a file that must work without a network, on paper and on a
phone.
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
"""Placeholder for the colour of the page's text."""

_WIDTH = 5.2  # inches
_PANEL = 1.75
_HEAD = 0.3
_COLUMNS = 3
"""Number of columns in the legend of sensitivities."""

Lines = Mapping[str, Sequence[float | None]]


def curves(
    panels: Mapping[str, Lines],
    x: Sequence[int],
    events: Sequence[int],
    label: str,
) -> str:
    """Draw panels of curves below each other.

    Args:
        panels: Title of a panel -> its curves by name, each as long as `x`.
        x: Epochs, counted from 1.
        events: Epochs with vertical lines, before which filters were removed.
        label: Description for screen readers.

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
    rows[-1].set_xlabel("epoch (dotted: filters are removed before it)")
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
        points: Name of a kind -> its points.
        frontier: The Pareto-optimal points, from left to right.
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
    """Draw the sensitivity curves of all groups.

    Args:
        found: Result of `kprune.sensitivity`.
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
    """Return the Pareto-optimal points: no other point has lower x and higher y.

    Args:
        points: Pairs of a cost and a quality.
        less: Whether a lower y is better, as for an error.

    Returns:
        These points, in order of cost.
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
    """Remove the frame from axes, and give the rest the colour of text."""
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
