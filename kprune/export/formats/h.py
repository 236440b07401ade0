"""C headers for TensorFlow Lite Micro."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import ClassVar

import numpy as np

from kprune.export.formats.base import Job
from kprune.export.formats.base import register
from kprune.export.formats.tflite import INTEGER
from kprune.export.formats.tflite import TFLite
from kprune.export.formats.tflite import convert
from kprune.export.int4 import options as int4
from kprune.export.micro.arena import Arena
from kprune.export.micro.arena import estimate_arena
from kprune.export.micro.describe import describe
from kprune.export.micro.resolver import missing_operators
from kprune.export.micro.source import from_c
from kprune.export.micro.source import to_c
from kprune.export.operators import Operators
from kprune.export.operators import flatbuffer_operators
from kprune.export.sizes import Size
from kprune.export.sizes import content_size

logger = logging.getLogger("kprune")

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS = frozenset(
    """
    _Alignas _Alignof _Atomic _BitInt _Bool _Complex _Decimal32 _Decimal64
    _Decimal128 _Generic _Imaginary _Noreturn _Static_assert _Thread_local
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char
    char8_t char16_t char32_t class compl concept const const_cast consteval
    constexpr constinit continue co_await co_return co_yield decltype default delete
    do double dynamic_cast else enum explicit export extern false float for friend
    goto if inline int long mutable namespace new noexcept not not_eq nullptr
    operator or or_eq private protected public register reinterpret_cast requires
    restrict return short signed sizeof static static_assert static_cast struct
    switch template this thread_local throw true try typedef typeid typename typeof
    typeof_unqual union unsigned using virtual void volatile wchar_t while xor xor_eq
    """.split()
)
"""Keywords of C and C++, which no array can be called."""


@register("h")
class CHeader(TFLite):
    """`.h`: the bytes of a `.tflite` file as an array for microcontrollers.

    Options: those of `.tflite` with a fixed batch size, and:
        symbol: Name of the array. Defaults to the file's name followed by
            `_tflite`.
    """

    name = "C array"
    suffix = ".h"
    # TensorFlow Lite Micro has no kernels for float16 or dynamic weights. It
    # unpacks 4-bit weights into memory that the arena estimate does not include.
    quantize = (None, *INTEGER)
    options: ClassVar[Mapping[str, Any]] = {
        **{k: v for k, v in TFLite.options.items() if k not in int4.DEFAULTS},
        "symbol": None,
    }

    def check(self, job: Job) -> None:
        if job.options["batch_size"] is None:
            raise ValueError(
                "A microcontroller's memory is planned for one batch size. "
                "Expected an integer `batch_size`. Received: None."
            )
        super().check(job)
        symbol = job.options["symbol"]
        if symbol is not None and not (
            isinstance(symbol, str)
            and _SYMBOL.fullmatch(symbol)
            and symbol not in _KEYWORDS
        ):
            raise ValueError(
                "`symbol` must be a C identifier: letters, digits and underscores, "
                f"and no keyword of C or C++. Received: {symbol!r}."
            )
        for spec in job.signature.inputs:
            if None in spec.shape[1:]:
                raise ValueError(
                    f"Input {spec.name!r} has the shape {spec.shape}; a "
                    "microcontroller's memory is planned for one shape. Build "
                    "the model with a keras.Input of known size."
                )

    def write(self, job: Job, path: Path) -> None:
        content = convert(job)
        arena = estimate_arena(content)
        symbol = job.options["symbol"] or _symbol(job.name)
        text = to_c(content, symbol, describe(content, arena), arena.total)
        path.write_text(text, encoding="utf-8")

    def run(
        self, job: Job, path: Path, samples: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.tflite"
            # Run what a compiler will read from the header, not the conversion.
            file.write_bytes(_bytes(path))
            return super().run(job, file, samples)

    def operators(self, path: Path) -> Operators:
        counts = flatbuffer_operators(_bytes(path)).counts
        missing = tuple(missing_operators(counts))
        if missing:
            logger.warning(
                "export: TensorFlow Lite Micro has no kernels for %s; replace "
                "the layers they come from, or register kernels of your own",
                ", ".join(missing),
            )
        return Operators(counts, missing)

    def size(self, path: Path) -> Size:
        return content_size(_bytes(path))

    def arena(self, path: Path) -> Arena:
        return estimate_arena(_bytes(path))


def _symbol(name: str) -> str:
    # A model may be called `int`, but its array may not.
    symbol = re.sub(r"[^A-Za-z0-9]", "_", name) + "_tflite"
    return symbol if symbol[0].isalpha() else f"model_{symbol}"


def _bytes(path: Path) -> bytes:
    return from_c(path.read_text(encoding="utf-8"))
