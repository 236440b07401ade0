"""Schemas of latency files, and functions to read and check them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMAT = 1
"""Version of both kinds of files."""

_WIDTHS = 2**26
"""Upper limit for numbers of channels; more than any operator has."""

_TIME = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e9}
_COUNT = {"type": "integer", "minimum": 0, "maximum": _WIDTHS}
_NAME = {"type": "string"}
_NUMBER = {"type": "number", "minimum": 0, "maximum": _WIDTHS}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


def _map(value: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": value}


def _list(*items: Any) -> dict[str, Any]:
    return {
        "type": "array",
        "items": list(items),
        "minItems": len(items),
        "maxItems": len(items),
    }


def _any_number_of(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item}


_STEPS = _map(_list({**_COUNT, "minimum": 1}, {**_COUNT, "minimum": 1}))
_SLOPES = _any_number_of(_list(_COUNT, _NUMBER))
_WIDTH = {"anyOf": [{"type": "null"}, _list(_NUMBER, _SLOPES)]}
_LAYOUT = _any_number_of(_list(_NAME, _WIDTH, _WIDTH))
_KEPT = _any_number_of(_COUNT)
_THREADS = {"type": "integer", "minimum": 1, "maximum": 4096}

TABLE = _object(
    kprune_latency={"const": FORMAT},
    device=_NAME,
    runtime=_NAME,
    dtype=_NAME,
    threads=_THREADS,
    overhead={"anyOf": [{"type": "null"}, {**_NUMBER, "maximum": 1e9}]},
    steps=_STEPS,
    operators=_map(_any_number_of(_list(_COUNT, _COUNT, _TIME))),
    models=_map(
        _object(operators=_LAYOUT, whole=_any_number_of(_list(_KEPT, _TIME)))
    ),
)
"""Schema of a latency table."""

MANIFEST = _object(
    kprune_latency_files={"const": FORMAT},
    model=_NAME,
    dtype=_NAME,
    layout=_LAYOUT,
    steps=_STEPS,
    overhead={"anyOf": [{"type": "null"}, _NAME]},
    whole=_map(_KEPT),
    operators=_map(_list(_NAME, _COUNT, _COUNT)),
)
"""Schema of a manifest. See `kprune.latency.manifest`."""


def read_json(
    path: str | os.PathLike[str], schema: str, what: str, way_out: str
) -> Any:
    """Read a JSON file that must fit a schema.

    Args:
        path: The file.
        schema: Name of the schema, `"TABLE"` or `"MANIFEST"`.
        what: What the file should be, for messages, such as `"latency table"`.
        way_out: The last sentence of messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It does not fit the schema. The message says where.
    """
    content = Path(path).read_bytes()
    try:
        data = json.loads(content.decode("utf-8"), parse_constant=_refuse)
        _validator(schema)(data)
    except (ValueError, RecursionError) as error:
        raise damaged(path, what, way_out, error) from error
    return data


def damaged(
    path: str | os.PathLike[str], what: str, way_out: str, error: Exception
) -> ValueError:
    """Return an error that names a file and what is wrong in it."""
    reason = " ".join(str(error).split())[:200]
    return ValueError(
        f"{os.fspath(path)!r} is not a {what} of version {FORMAT} ({reason}). {way_out}"
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant} instead of a number")


@functools.cache
def _validator(schema: str) -> Callable[[Any], Any]:
    import fastjsonschema

    definition = {"TABLE": TABLE, "MANIFEST": MANIFEST}[schema]
    check: Callable[[Any], Any] = fastjsonschema.compile(definition)
    return check
