"""When the last filters of a recipe go."""

_SHORT = 60


def removal_epoch(epochs: int, share: float = 1 / 3) -> int:
    """Return the epoch, from 0, before which the last filters go.

    In runs of fewer than 60 epochs that is at a third: the steps that follow
    decide more than anything before. `share` is for longer ones.

    Args:
        epochs: How many epochs there are, at least 2.
        share: Published share of the epochs.
    """
    if epochs < _SHORT:
        share = 1 / 3
    return min(max(1, round(share * epochs)), epochs - 1)
