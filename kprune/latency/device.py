"""Name this device, and find where its tables are kept."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path

_CPUS = Path("/proc/cpuinfo")
_BOARD = Path("/sys/firmware/devicetree/base/model")
_NO_BOARD = "linux,dummy-virt"
"""Model that virtual machines give."""


def device_name(*packages: str) -> str:
    """Return this machine's processor, for example `"AMD EPYC 9B14, x86_64"`.

    Args:
        *packages: Names of packages. The version of the first one that is
            installed becomes part of the name, since times depend on it.
    """
    parts = [_processor(), platform.machine()]
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
            break
    return ", ".join(parts)


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
    cpus = _cpus()
    # Arm's Linux names the architecture at most, not the processor.
    found = _board() or cpus.get("model name") or cpus.get("Hardware")
    if found is None and "CPU part" in cpus:
        maker = cpus.get("CPU implementer", "unknown")
        found = f"CPU implementer {maker} part {cpus['CPU part']}"
    return found or _apple() or platform.processor() or "unknown processor"


def _board() -> str:
    """Return the model of a board; empty if it has none."""
    with contextlib.suppress(OSError):
        text = _BOARD.read_text("utf-8", "replace").strip(" \0\n")
        return "" if text == _NO_BOARD else text
    return ""


def _cpus() -> dict[str, str]:
    """Return what Linux says of the processors: all different values by name."""
    found: dict[str, dict[str, None]] = {}
    with contextlib.suppress(OSError):
        for line in _CPUS.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if value.strip():
                found.setdefault(name.strip(), {})[value.strip()] = None
    return {name: "+".join(values) for name, values in found.items()}


def _apple() -> str:
    if platform.system() != "Darwin":
        return ""
    with contextlib.suppress(OSError):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip()
    return ""
