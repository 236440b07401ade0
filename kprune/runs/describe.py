"""Describe models, samples and machines for a record."""

from __future__ import annotations

import hashlib
import platform
import random
import shlex
import sys
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.__about__ import __version__
from kprune.data.source import Source
from kprune.graph import ChannelGraph
from kprune.graph import walk
from kprune.graph.values import read
from kprune.parts import code

FINGERPRINT_BYTES = 2**26
"""Approximate maximum number of bytes of samples in a fingerprint."""


def model_words(model: keras.Model) -> dict[str, str]:
    """Return a model's name and class, and a fingerprint of its weights.

    A wrapped model has the fingerprint of the plain one.
    """
    layers = [walk.unwrap(layer) for layer in walk.layers_of(model)]
    weights = (read(w) for layer in layers for w in layer.weights)
    return {
        "name": model.name,
        "kind": type(model).__name__,
        "fingerprint": _digest(weights),
    }


def data_words(source: Source | None) -> dict[str, Any] | None:
    """Return the form, number and types of samples, and a fingerprint of inputs.

    Streams have no fingerprint, since reading one would change which batches come
    next.
    """
    if source is None:
        return None
    if source.arrays is None:
        return {
            "form": "stream",
            "samples": None,
            "arrays": [],
            "fingerprint": None,
        }
    arrays = _leaves(source.arrays)
    return {
        "form": "arrays",
        "samples": source.size,
        "arrays": [f"{_dtype(a.dtype)} {tuple(a.shape)}" for a in arrays],
        "fingerprint": fingerprint(source.arrays[0]),
    }


def fingerprint(arrays: Any) -> str:
    """Return a fingerprint of a structure of arrays: of some samples if it is large."""
    return _digest(map(_spread, _leaves(arrays)))


def group_words(graph: ChannelGraph) -> list[dict[str, Any]]:
    """Return all groups of channels, before any channel is removed."""
    return [
        {
            "name": group.name,
            "size": group.size,
            "layers": list(
                dict.fromkeys(m.layer.name for m in group.producers)
            ),
            "pinned": group.pinned,
            "removed": [],
            "scores": None,
        }
        for group in graph.groups
    ]


def versions() -> dict[str, str]:
    """Return the versions of the packages and the platform."""
    backend = keras.config.backend()
    found = {
        "kprune": __version__,
        "keras": keras.__version__,
        backend: str(getattr(sys.modules.get(backend), "__version__", "")),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return {name: version for name, version in found.items() if version}


def seeds() -> dict[str, int | None]:
    """Return the seed of `keras.utils.set_random_seed`; None if it was not called.

    The seeds of parts are in their configuration.
    """
    found = keras.src.utils.rng_utils.get_random_seed()
    return {"keras.utils.set_random_seed": found}


def repeat(call: str, arguments: Mapping[str, Any], samples: bool) -> str:
    """Return the command line that started the run, or the call in Python.

    Args:
        call: Beginning of the call, such as `"kprune.prune(model"`.
        arguments: Arguments of the call by name.
        samples: Whether samples were passed.
    """
    program = Path(sys.argv[0])
    started = program.name == "__main__.py" and program.parent.name == "kprune"
    if started or program.stem == "kprune":
        return shlex.join(["kprune", *sys.argv[1:]])
    given = [f"{name}={code(value)}" for name, value in arguments.items()]
    given += ["data=data"] if samples else []
    separator = "" if call.endswith("(") or not given else ", "
    return f"{call}{separator}{', '.join(given)})"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore the global random states after the block.

    Creating layers draws from them.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _dtype(dtype: Any) -> str:
    # Keras has no names for dtypes of words and dates.
    plain = isinstance(dtype, np.dtype)
    return str(dtype if plain else keras.backend.standardize_dtype(dtype))


def _leaves(structure: Any) -> list[Any]:
    return [a for a in keras.tree.flatten(structure) if a is not None]


def _spread(array: Any) -> np.ndarray:
    """Return samples spread evenly over an array, at most `FINGERPRINT_BYTES`."""
    count = len(array)
    size = int(np.prod(array.shape[1:], dtype=int)) * 8
    step = max(1, -(-count * size // FINGERPRINT_BYTES))
    return np.asarray(keras.ops.convert_to_numpy(array[::step]))


def _digest(arrays: Iterable[np.ndarray]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode())
        plain = array.astype(str) if array.dtype == object else array
        found.update(np.ascontiguousarray(plain).tobytes())
    return found.hexdigest()[:16]
