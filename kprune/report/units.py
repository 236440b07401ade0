"""Format numbers with units."""

from __future__ import annotations

MISSING = "–"

_SHARES = ("acc", "agreement", "auc", "iou", "precision", "recall")
"""Parts of the names of metrics that are shares."""


def count(value: float | None) -> str:
    """Format a count with three digits and a unit: `"1.23 M"`.

    Args:
        value: Number of multiply-accumulates or parameters, or None.

    Returns:
        Text; an en dash for None.

    Example:

    ```python
    count(1_234_567)  # "1.23 M"
    ```
    """
    if value is None:
        return MISSING
    return _scaled(value, ("", " k", " M", " G", " T"))


def size(value: float | None) -> str:
    """Format a file size in decimal units: `"12.3 kB"`.

    Args:
        value: Number of bytes, or None.

    Returns:
        Text; an en dash for None.

    Example:

    ```python
    size(12_345)  # "12.3 kB"
    ```
    """
    if value is None:
        return MISSING
    return _scaled(value, (" B", " kB", " MB", " GB"))


def milliseconds(value: float | None) -> str:
    """Format a duration in milliseconds with three digits: `"0.0123 ms"`.

    Args:
        value: Milliseconds, or None.

    Returns:
        Text; an en dash for None.

    Example:

    ```python
    milliseconds(0.01234)  # "0.0123 ms"
    ```
    """
    if value is None:
        return MISSING
    return f"{value:.0f} ms" if value >= 99.95 else f"{value:#.3g} ms"


def percent(share: float | None) -> str:
    """Format a share in percent with two decimals: `"98.60 %"`.

    Args:
        share: Number between 0 and 1, or None.

    Returns:
        Text; an en dash for None.

    Example:

    ```python
    percent(0.986)  # "98.60 %"
    ```
    """
    return MISSING if share is None else f"{100 * share:.2f} %"


def metric(name: str, value: float | None) -> str:
    """Format a metric: a share in percent, anything else with four digits.

    Args:
        name: Name of the metric, from which it is inferred whether it is a share.
        value: Its value, or None.

    Returns:
        Text; an en dash for None.

    Example:

    ```python
    metric("val_accuracy", 0.9)  # "90.00 %"
    ```
    """
    if value is None:
        return MISSING
    share = name.startswith("top") or any(
        part in name.lower() for part in _SHARES
    )
    return percent(value) if share and 0 <= value <= 1 else f"{value:.4g}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    unit = 0
    # 999.5 would be rounded to 1000 with three digits, so it gets the next unit.
    while abs(value) >= 999.5 and unit < len(units) - 1:
        value /= 1000
        unit += 1
    if unit == 0:
        return f"{value:.0f}{units[0]}"
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f}{units[unit]}"
