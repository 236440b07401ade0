"""Allocation with one similarity threshold over all groups."""

from __future__ import annotations

from kprune.allocation.base import register
from kprune.allocation.global_ import Global


@register("similarity")
class SimilarityThreshold(Global):
    """One similarity threshold over all groups, which follows from the target.

    Equals `Global` without normalisation. Use it for scores that are comparable
    across groups, such as those of the criterion `"similarity"`. Groups with more
    similar filters lose more of them, as in Wu, Song and Zeng (Frontiers in
    Neurorobotics 2023, doi 10.3389/fnbot.2023.1132679).

    Args:
        keep_min: See `Global`.
        max_share: See `Global`.
        round_to: See `Global`.

    Example:

    ```python
    masked = kprune.prune(
        model, criterion="similarity", allocation="similarity"
    )
    ```
    """

    def __init__(
        self, keep_min: int = 1, max_share: float = 0.9, round_to: int = 1
    ) -> None:
        super().__init__("none", keep_min, max_share, round_to)
