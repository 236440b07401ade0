"""Find the peak of activation memory."""

from __future__ import annotations

from typing import Any

import keras

from kprune.export.micro.arena import estimate_arena
from kprune.export.micro.arena import fullest
from kprune.latency.conversion import file_of
from kprune.masking import is_masked
from kprune.rebuild.api import rebuild
from kprune.report import units


def memory_peak(model: keras.Model, dtype: str = "int8") -> dict[str, Any]:
    """Find the operators during which activations take the most memory.

    Args:
        model: Plain or masked model. A masked one counts as its compact version.
        dtype: Number format of the `.tflite` file, `"int8"` or `"float32"`.

    Returns:
        Dictionary with `dtype`, `planned` (bytes of activations in the plan of
        TensorFlow Lite Micro), `peak` (largest number of bytes alive at once) and
        `moments`: a list with the `operator` of each peak, and the `tensors` that
        are alive, with `name` and `bytes`.

    Raises:
        ValueError: The model has loops or branches, or cannot be converted.

    Example:

    ```python
    print(memory_text(memory_peak(model)))
    ```
    """
    compact = rebuild(model, merge=None) if is_masked(model) else model
    content = file_of(compact, dtype, dtype)
    arena = estimate_arena(content)
    return {
        "dtype": dtype,
        "planned": arena.planned,
        "peak": arena.peak,
        "moments": [
            {
                "operator": moment.operator,
                "tensors": [
                    {"name": name, "bytes": size}
                    for name, size in moment.tensors
                ],
            }
            for moment in fullest(content)
        ],
    }


def memory_text(data: dict[str, Any]) -> str:
    """Lay out the result of `memory_peak` as text.

    Args:
        data: Result of `memory_peak`.
    """
    count = len(data["moments"])
    times = f", reached {count} times" if count > 1 else ""
    lines = [
        f"activations in {data['dtype']}: {units.size(data['peak'])} at the "
        f"peak{times}, {units.size(data['planned'])} as planned"
    ]
    for moment in data["moments"]:
        lines.append(f"  while {moment['operator']} runs")
        lines += [
            f"    {units.size(tensor['bytes']):>10}  {tensor['name']}"
            for tensor in moment["tensors"]
        ]
    return "\n".join(lines)
