"""Loggers of others, held back for a while."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def muted(target: logging.Logger, level: int) -> Iterator[None]:
    """Drop what a logger is given below `level` inside the block.

    Args:
        target: The logger.
        level: Level from which records pass, such as `logging.ERROR`.
    """
    before = target.level
    target.setLevel(max(level, before))
    try:
        yield
    finally:
        target.setLevel(before)
