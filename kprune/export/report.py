"""What an export hands back."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

from kprune.export.differences import Difference


@dataclass(frozen=True)
class ExportReport:
    """Facts about one exported file, all of them measured.

    `print(report)` shows them; `report.operators` counts each operator.

    Args:
        path: The file or folder.
        format: `"LiteRT"`, `"ONNX"`, `"Keras"` or `"SavedModel"`.
        quantize: Kind of quantisation, or None.
        size: Bytes of the file, or of all files in the folder.
        difference: How far its outputs lie from those of the Keras model.
        tolerance: Largest relative difference that was accepted, or None if
            differences were only reported.
        data: What it was verified on: `"calibration data"` or `"random inputs"`.
        rebuilt: Whether a masked model was rebuilt into its compact form first.
        operators: Operator name -> number of uses; empty for formats without.
        custom_operators: Operators outside the format's standard set.
        notes: Anything else that the user should know.
    """

    path: Path
    format: str
    quantize: str | None
    size: int
    difference: Difference
    tolerance: float | None
    data: str
    rebuilt: bool = False
    operators: dict[str, int] = field(default_factory=dict)
    custom_operators: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def max_abs(self) -> float:
        """Largest absolute output difference against Keras."""
        return self.difference.max_abs

    @property
    def max_rel(self) -> float:
        """Largest output difference, relative to its output's scale."""
        return self.difference.max_rel

    @property
    def top1(self) -> float | None:
        """Share of samples with the same largest class; None if not applicable."""
        return self.difference.top1

    @property
    def samples(self) -> int:
        """Number of verification samples."""
        return self.difference.samples

    @property
    def compressed_size(self) -> int:
        """Bytes after DEFLATE, about what an app store transfers.

        Computed from the file as it is now.
        """
        return sum(_deflated(file) for file in _files(self.path))

    def __str__(self) -> str:
        kind = f"{self.format} {self.quantize or ''}".strip()
        limit = (
            "not limited" if self.tolerance is None else f"{self.tolerance:.0e}"
        )
        lines = [
            f"{self.path}  ({kind}, {format_bytes(self.size)})",
            f"  difference to Keras: {self.max_abs:.2e} absolute, "
            f"{self.max_rel:.2e} relative (limit: {limit}) "
            f"on {self.samples} samples of {self.data}",
        ]
        if self.top1 is not None:
            lines.append(f"  same top-1 class: {self.top1:.1%}")
        if self.operators:
            listed = ", ".join(f"{op} x{n}" for op, n in self.operators.items())
            lines.append(f"  operators: {listed}")
            outside = ", ".join(self.custom_operators) or "none"
            lines.append(f"  operators outside the standard set: {outside}")
        if self.rebuilt:
            lines.append("  the masked model was rebuilt into its compact form")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def path_size(path: str | os.PathLike[str]) -> int:
    """Return the bytes of a file, or of all files in a folder.

    Args:
        path: File or folder.

    Returns:
        Number of bytes.
    """
    return sum(file.stat().st_size for file in _files(Path(path)))


def format_bytes(count: float) -> str:
    """Write a number of bytes for people, in powers of 1000.

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


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path]


def _deflated(file: Path) -> int:
    packer = zlib.compressobj()
    size = 0
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            size += len(packer.compress(chunk))
    return size + len(packer.flush())
