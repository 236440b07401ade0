"""Where the large data sets are that do not belong into the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_data(*parts: str) -> Path:
    """Path below KPRUNE_DATA (default `../shared/data`); skips if absent."""
    default = ROOT.parent / "shared" / "data"
    path = Path(os.environ.get("KPRUNE_DATA", default)).joinpath(*parts)
    if not path.exists():
        pytest.skip(
            f"no {'/'.join(parts)}: set KPRUNE_DATA to the folder with it"
        )
    return path
