"""Convert `.tflite` models to C source and back."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LINE = 12
_ARRAY = re.compile(r"const unsigned char \w+\[\] = \{(.*?)\};", re.DOTALL)

_TEMPLATE = """\
{comment}
#ifndef {guard}
#define {guard}

#if defined(__cplusplus) && __cplusplus >= 201103L
#define {macro}_ALIGNED alignas(16)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define {macro}_ALIGNED _Alignas(16)
#else
#define {macro}_ALIGNED __attribute__((aligned(16)))
#endif

/* Tensor arena for TensorFlow Lite Micro, in bytes: an estimate. */
#define {macro}_ARENA_SIZE {arena}

/* Static: each source file that includes this one gets a copy of its own. */
{macro}_ALIGNED static const unsigned char {symbol}[] = {{
{rows}
}};
static const unsigned int {symbol}_len = {length};

#endif /* {guard} */
"""


def to_c(
    content: bytes, symbol: str, comment: Sequence[str], arena: int
) -> str:
    """Write bytes as a C and C++ header.

    Args:
        content: Bytes of the array.
        symbol: Name of the array; its length is `<symbol>_len`.
        comment: Lines of the comment at the top.
        arena: Value of the macro `<SYMBOL>_ARENA_SIZE`.

    Returns:
        The header.
    """
    rows = (
        ", ".join(f"0x{byte:02x}" for byte in content[start : start + _LINE])
        for start in range(0, len(content), _LINE)
    )
    # A name from the model must not end the comment.
    lines = [line.replace("*/", "* /").rstrip() for line in comment]
    return _TEMPLATE.format(
        comment="\n".join(
            ["/*", *(f" * {line}".rstrip() for line in lines), " */"]
        ),
        # The suffix keeps the guard different from a symbol in capitals.
        guard=f"{symbol.upper()}_H_",
        macro=symbol.upper(),
        symbol=symbol,
        arena=arena,
        rows=",\n".join(f"    {row}" for row in rows),
        length=len(content),
    )


def from_c(text: str) -> bytes:
    """Read back the bytes that `to_c` wrote.

    Args:
        text: The header.

    Returns:
        The content of its array.

    Raises:
        ValueError: The text holds no such array.
    """
    found = _ARRAY.search(text)
    if found is None:
        raise ValueError(
            "Expected a header written by kprune.export; it holds no array "
            "`const unsigned char NAME[]`."
        )
    return bytes(int(byte, 16) for byte in found[1].split(","))
