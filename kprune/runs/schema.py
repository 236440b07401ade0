"""The schema of `run.json`, and functions to write and read it."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kprune.outputs import atomic_file
from kprune.parts import code

VERSION = 1
"""Version of the schema. Files of other versions are refused."""

RUNNING, FINISHED, FAILED = "running", "finished", "failed"

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_ANYTHING: dict[str, Any] = {}


def _maybe(kind: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "null"}, kind]}


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def _map(value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": value}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


SCHEMA = _object(
    kprune_run={"const": VERSION},
    status={"enum": [RUNNING, FINISHED, FAILED]},
    error=_maybe(_TEXT),
    started=_TEXT,
    seconds=_NUMBER,
    method=_TEXT,
    asked=_object(
        call=_TEXT,
        arguments=_map(_ANYTHING),
        parts=_map(_ANYTHING),
        repeat=_TEXT,
    ),
    seeds=_map(_maybe({"type": "integer"})),
    versions=_map(_TEXT),
    model=_object(name=_TEXT, kind=_TEXT, fingerprint=_TEXT),
    data=_maybe(
        _object(
            form=_TEXT,
            samples=_maybe(_COUNT),
            arrays=_list(_TEXT),
            fingerprint=_maybe(_TEXT),
        )
    ),
    groups=_list(
        _object(
            name=_TEXT,
            size=_COUNT,
            layers=_list(_TEXT),
            pinned=_maybe(_TEXT),
            removed=_list(_COUNT),
            scores=_maybe(_list(_maybe(_NUMBER))),
        )
    ),
    events=_list(_object(epoch=_COUNT, kept=_map(_COUNT))),
    epochs=_list(
        _object(epoch=_COUNT, seconds=_NUMBER, logs=_map(_maybe(_NUMBER)))
    ),
    results=_list(
        _object(
            name=_TEXT,
            macs=_maybe(_NUMBER),
            params=_maybe(_NUMBER),
            bytes=_maybe(_NUMBER),
            latency=_maybe(_NUMBER),
            metrics=_map(_maybe(_NUMBER)),
            samples=_maybe(_COUNT),
        )
    ),
    checks=_list(
        _object(
            what=_TEXT,
            difference=_maybe(_NUMBER),
            agreement=_maybe(_NUMBER),
            samples=_COUNT,
        )
    ),
    files=_map(_TEXT),
    notes=_list(_TEXT),
)
SCHEMA["properties"]["metrics"] = _list(_TEXT)  # optional
"""Schema of `run.json`. See `docs/runs.md` for the meaning of each entry."""


def write_run(path: Path, run: Mapping[str, Any]) -> None:
    """Write `run.json`. It appears whole or not at all."""
    text = json.dumps(_finite(run), indent=1, default=code, ensure_ascii=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", "utf-8")


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `run.json`.

    Args:
        path: The file.

    Returns:
        A dictionary that fits `SCHEMA`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It does not fit the schema. The message says where.
    """
    content = Path(path).read_bytes()
    try:
        run: dict[str, Any] = json.loads(content.decode("utf-8"))
        _validator()(run)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{os.fspath(path)!r} is not the record of a run in version {VERSION} "
            f"({reason}). Read it with the version of kprune that wrote it."
        ) from error
    return run


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@functools.cache
def _validator() -> Callable[[Any], Any]:
    import fastjsonschema

    check: Callable[[Any], Any] = fastjsonschema.compile(SCHEMA)
    return check
