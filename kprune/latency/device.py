"""Name this device, and find where its tables are kept."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def device_name() -> str:
    """Return this machine's processor, for example `"AMD EPYC 9B14, x86_64"`."""
    return f"{_processor()}, {platform.machine()}"


def table_path(
    runtime: str, dtype: str, threads: int, device: str | None = None
) -> Path:
    """Return where the table of a device is kept.

    Args:
        runtime: Name of the runtime, for example `"litert"`.
        dtype: `"float32"` or `"int8"`.
        threads: Number of CPU threads.
        device: Name of the device. Defaults to this machine.

    Returns:
        A path in the user's cache folder, which may not exist.
    """
    import platformdirs

    name = f"{device or device_name()}-{runtime}-{dtype}-{threads}"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    folder: Path = platformdirs.user_cache_path("kprune")
    return folder / "latency" / f"{slug}.json"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Hardware") and value.strip():
                return value.strip()
    return platform.processor() or "unknown processor"
