"""Temporary silencing of other packages' loggers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def muted(target: logging.Logger, level: int) -> Iterator[None]:
    """Drop a logger's records below `level` inside the block.

    Args:
        target: The logger.
        level: Lowest level that passes, such as `logging.ERROR`.
    """
    before = target.level
    target.setLevel(max(level, before))
    try:
        yield
    finally:
        target.setLevel(before)
