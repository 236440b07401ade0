"""Measure the size of an artefact, plain and compressed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Size:
    """Bytes of an artefact.

    Args:
        plain: As stored on the device.
        compressed: After DEFLATE at zlib's default level, about what an app
            store transfers.
    """

    plain: int
    compressed: int


def path_size(path: str | os.PathLike[str]) -> Size:
    """Measure a file, or all files in a folder, each compressed on its own.

    Args:
        path: File or folder.

    Returns:
        Their size.
    """
    path = Path(path)
    files = (
        sorted(file for file in path.rglob("*") if file.is_file())
        if path.is_dir()
        else [path]
    )
    sizes = [_measured(_chunks(file)) for file in files]
    return Size(
        sum(size.plain for size in sizes),
        sum(size.compressed for size in sizes),
    )


def content_size(content: bytes) -> Size:
    """Measure bytes in memory.

    Args:
        content: Bytes as stored on the device.

    Returns:
        Their size.
    """
    return _measured([content])


def format_bytes(count: float) -> str:
    """Format a number of bytes in powers of 1000.

    Args:
        count: Number of bytes.

    Returns:
        For example `"13.92 MB"`.
    """
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            yield chunk


def _measured(chunks: Iterable[bytes]) -> Size:
    packer = zlib.compressobj()
    plain = compressed = 0
    for chunk in chunks:
        plain += len(chunk)
        compressed += len(packer.compress(chunk))
    return Size(plain, compressed + len(packer.flush()))
