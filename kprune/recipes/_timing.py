"""Decide when a recipe removes its last filters."""

_SHORT = 60


def removal_epoch(epochs: int, share: float = 1 / 3) -> int:
    """Return the epoch, counted from 0, before which the last filters are removed.

    Runs of fewer than 60 epochs remove them after a third: what counts there is
    the number of training steps that follow. Longer runs use `share`.

    Args:
        epochs: Number of epochs in all, at least 2.
        share: Share of the epochs before the last removal, as published.
    """
    if epochs < _SHORT:
        share = 1 / 3
    return min(max(1, round(share * epochs)), epochs - 1)
