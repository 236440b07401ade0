"""The report that an export returns."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

from kprune.display import Displayed
from kprune.export.differences import Difference
from kprune.export.micro.arena import Arena
from kprune.export.original import Original
from kprune.export.sizes import Size
from kprune.export.sizes import format_bytes


@dataclass(frozen=True)
class ExportReport(Displayed):
    """Facts about one exported file. All but `arena` are measured.

    Print the report to see them.

    Args:
        path: The file or folder.
        format: `"LiteRT"`, `"ONNX"`, `"Keras"`, `"SavedModel"` or `"C array"`.
        quantize: Kind of quantisation, or None.
        sizes: Bytes of the file, or of all files in the folder; of a C array,
            the bytes it holds.
        difference: How much its outputs differ from the Keras model's.
        tolerance: Largest relative difference that was accepted, or None if
            differences were only reported.
        data: What the file was verified on: `"calibration data held back"` (not
            used to calibrate), `"validation data"`, `"calibration data"`,
            `"training data"` or `"random inputs"`.
        original: Size of the model before pruning.
        rebuilt: Whether a masked model was rebuilt into its compact form first.
        operators: Operator name -> number of uses; empty if not applicable.
        custom_operators: Operators outside the format's standard set.
        arena: Estimated memory in bytes that a microcontroller needs to run a C
            array; None for other formats.
        notes: Anything else that the user should know, in words.
    """

    path: Path
    format: str
    quantize: str | None
    sizes: Size
    difference: Difference
    tolerance: float | None
    data: str
    original: Original
    rebuilt: bool = False
    operators: dict[str, int] = field(default_factory=dict)
    custom_operators: tuple[str, ...] = ()
    arena: Arena | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the file, or of all files in the folder."""
        return self.sizes.plain

    @property
    def compressed_size(self) -> int:
        """Bytes after DEFLATE, about what an app store transfers."""
        return self.sizes.compressed

    @property
    def size_before(self) -> int:
        """Bytes of the model before pruning. See `original.basis`."""
        return self.original.size

    @property
    def compression(self) -> float:
        """Compression ratio `size_before / size`."""
        return self.size_before / self.size

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

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings, lists and dictionaries.

        Returns:
            Data for `json.dumps`. A difference that is not finite is None.

        Example:

        ```python
        Path("report.json").write_text(json.dumps(report.to_dict()))
        ```
        """
        arena = self.arena
        return {
            "path": str(self.path),
            "format": self.format,
            "quantize": self.quantize,
            "size": self.size,
            "compressed_size": self.compressed_size,
            "size_before": self.size_before,
            "size_before_basis": self.original.basis,
            "compression": self.compression,
            "max_abs": _finite(self.max_abs),
            "max_rel": _finite(self.max_rel),
            "top1": self.top1,
            "samples": self.samples,
            "data": self.data,
            "tolerance": self.tolerance,
            "rebuilt": self.rebuilt,
            "operators": dict(self.operators),
            "custom_operators": list(self.custom_operators),
            "arena": arena
            and {**dataclasses.asdict(arena), "total": arena.total},
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        kind = f"{self.format} {self.quantize or ''}".strip()
        limit = (
            "not limited" if self.tolerance is None else f"{self.tolerance:.0e}"
        )
        lines = [
            f"{self.path}  ({kind}, {format_bytes(self.size)})",
            f"  compressed: {format_bytes(self.compressed_size)}",
            f"  before: {format_bytes(self.size_before)} "
            f"({self.original.basis}), {self.compression:.2f} times as much",
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
        if self.arena is not None:
            lines.append(
                f"  tensor arena: about {format_bytes(self.arena.total)}, "
                f"{format_bytes(self.arena.planned)} of it for activations"
            )
        if self.rebuilt:
            lines.append("  the masked model was rebuilt into its compact form")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def _finite(value: float) -> float | None:
    # JSON cannot hold infinity.
    return value if math.isfinite(value) else None
