"""Save and load models with binary kernels.

A file holds, in this order: 8 bytes that name the format; 4 bytes with the CRC-32 of
everything that follows; 4 bytes with the length of the index (both little endian); the
index (deflated JSON with the model's configuration, and the shape and form of each
weight); the weights one after another. Files of the first version have no CRC-32.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.binary.codec import Binary
from kprune.binary.codec import decode
from kprune.binary.codec import encode
from kprune.graph.values import read
from kprune.outputs import atomic_file

FIRST = b"kpbin\x00\x00\x01"
MAGIC = b"kpbin\x00\x00\x02"

_NUMBER = struct.Struct("<I")


def save(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Write a model to a file, with binary kernels as bits and scales.

    Kernels are binary if the weights in each filter have one magnitude. All
    weights are restored exactly, including those of other kernels. The optimizer,
    loss and metrics are not saved.

    Args:
        model: A built model.
        path: The file.

    Raises:
        TypeError: A weight has a data type that NumPy lacks, such as bfloat16.
        OSError: The file cannot be written.
    """
    entries, parts = [], []
    for variable in model.weights:
        value = np.ascontiguousarray(read(variable))
        dtype = value.dtype.newbyteorder("<")
        if value.dtype.kind not in "fiub":
            raise TypeError(
                f"Weight '{variable.path}' is of type {value.dtype}, which this "
                "format cannot hold. Write a `.keras` file instead."
            )
        found = encode(value)
        entry: dict[str, Any] = {"shape": value.shape, "dtype": dtype.str}
        if found is None:
            parts.append(value.astype(dtype).tobytes())
        else:
            entry["runs"] = int(found.scales.size)
            parts += [
                found.lengths.tobytes(),
                found.scales.astype(dtype).tobytes(),
                found.signs.tobytes(),
            ]
        entries.append(entry)
    index = json.dumps({"model": model.to_json(), "weights": entries})
    packed = zlib.compress(index.encode("utf-8"), 9)
    body = _NUMBER.pack(len(packed)) + packed + b"".join(parts)
    head = MAGIC + _NUMBER.pack(zlib.crc32(body))
    with atomic_file(Path(path)) as temporary:
        Path(temporary).write_bytes(head + body)


def load(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Load a model that `save` wrote.

    Code in the file is never run.

    Args:
        path: The file.
        custom_objects: Custom classes by name.

    Returns:
        An ordinary, uncompiled Keras model.

    Raises:
        ValueError: The file is of another kind, or damaged.

    Example:

    ```python
    kprune.export(compact, "model.binary")
    model = kprune.binary.load("model.binary")
    ```
    """
    content = Path(path).read_bytes()
    magic, body = content[: len(MAGIC)], content[len(MAGIC) :]
    if magic not in (FIRST, MAGIC):
        raise ValueError(
            f"{os.fspath(path)!r} is not a file of binary kernels. kprune.load opens "
            "`.keras` and HDF5 files."
        )
    try:
        if magic == MAGIC:
            body = _checked(body)
        start = _NUMBER.size
        (length,) = _NUMBER.unpack_from(body)
        index = json.loads(zlib.decompress(body[start : start + length]))
        values = _values(index["weights"], body[start + length :])
    except (
        ValueError,
        KeyError,
        TypeError,
        struct.error,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: {error}. Export it again."
        ) from error
    model = keras.models.model_from_json(
        index["model"], dict(custom_objects or {})
    )
    model.set_weights(values)
    return model


def _checked(content: bytes) -> bytes:
    """Return the content after its checksum.

    Raises:
        ValueError: The checksum does not match the content.
    """
    (expected,) = _NUMBER.unpack_from(content)
    body = content[_NUMBER.size :]
    if zlib.crc32(body) != expected:
        raise ValueError("its checksum does not match its content")
    return body


def _values(entries: list[dict[str, Any]], content: bytes) -> list[np.ndarray]:
    """Return the weights that follow the index.

    Raises:
        ValueError: There is more or less content than the index says.
    """
    place = 0

    def take(dtype: np.dtype, count: int) -> np.ndarray:
        nonlocal place
        if not count:
            return np.zeros(0, dtype)
        found = np.frombuffer(content, dtype, count, place)
        place += found.nbytes
        return found

    values = []
    for entry in entries:
        shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
        count = int(np.prod(shape))
        if "runs" not in entry:
            values.append(take(dtype, count).reshape(shape))
            continue
        lengths = take(np.dtype("<u2"), entry["runs"])
        scales = take(dtype, entry["runs"])
        signs = take(np.dtype("u1"), -(-count // 8))
        values.append(decode(Binary(shape, signs, scales, lengths)))
    if place != len(content):
        raise ValueError(f"{len(content) - place} bytes are left over")
    return values
