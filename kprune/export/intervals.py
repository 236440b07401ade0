"""Confidence intervals of medians and ratios, and the verdicts they support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FEWEST = 6
"""Minimum number of values for a 95 % interval of their median."""

_CLOSE = 0.02
"""Below this, two decimals would hide a difference."""


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % confidence interval of the median.

    Its ends are two of the values. So it needs no normal distribution, tolerates
    outliers, and is never too narrow.

    Args:
        values: Independent measurements, at least 6.

    Returns:
        Lower and upper end; infinite with fewer values.
    """
    if len(values) < FEWEST:
        return -math.inf, math.inf
    from scipy import stats

    interval = stats.quantile_test(np.asarray(values), p=0.5)
    found = interval.confidence_interval(0.95)
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Ratio:
    """Latency of a model divided by the latency of the first, with its interval.

    Args:
        value: Ratio of the two medians of a round, as the median over rounds.
        low: Lower end of the 95 % confidence interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`"faster"`, `"slower"`, or `"no difference shown"`."""
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else "no difference shown"

    @property
    def width(self) -> float:
        """Relative width of the interval: `high / low - 1`."""
        return self.high / self.low - 1

    def sentence(self, name: str, first: str) -> str:
        """Describe what the interval shows.

        Args:
            name: Name of the model.
            first: Name of the model it is compared with.

        Returns:
            For example `"b is 1.83x faster than a (95 % CI 1.80-1.86)"`.
        """
        value, low, high = self.value, self.low, self.high
        if self.verdict == "no difference shown":
            digits = 2 if self.width >= _CLOSE else 4
            return (
                f"no difference between {name} and {first} is shown "
                f"(95 % CI of the ratio {low:.{digits}f}-{high:.{digits}f})"
            )
        if self.verdict == "faster":
            # Speed is the inverse of latency, which swaps the ends.
            value, low, high = 1 / value, 1 / high, 1 / low
        digits = 2 if low - 1 >= _CLOSE else 4
        return (
            f"{name} is {value:.{digits}f}x {self.verdict} than {first} "
            f"(95 % CI {low:.{digits}f}-{high:.{digits}f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers and the verdict as plain data."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "verdict": self.verdict,
        }

    def __str__(self) -> str:
        return f"{self.value:.3f}x [{self.low:.3f}, {self.high:.3f}] {self.verdict}"


def paired_ratio(values: Sequence[float], first: Sequence[float]) -> Ratio:
    """Compare measurements that were taken in pairs.

    Args:
        values: One measurement per round.
        first: The measurements of the same rounds to divide them by.

    Returns:
        Median of the ratios and its interval.
    """
    # Logarithms treat twice as fast and twice as slow alike when the median is
    # the mean of two ratios.
    ratios = np.log(np.asarray(values) / np.asarray(first))
    low, high = median_interval(ratios)
    return Ratio(
        math.exp(float(np.median(ratios))), math.exp(low), math.exp(high)
    )
