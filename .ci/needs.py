"""Prints what an environment for the tests installs, read from setup.cfg.

`python .ci/needs.py core` leaves TensorFlow out, for JAX and PyTorch;
`python .ci/needs.py oldest` pins every requirement to its lower bound.
"""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"
EXPORT = ("tensorflow", "ai-edge-litert")
TOOLS = ("hypothesis", "pytest", "pytest-xdist")


def requirements(section: str, option: str) -> list[str]:
    """Return the requirements that an option of setup.cfg lists."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(SETUP, encoding="utf-8")
    lines = setup[section][option].splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def name_of(requirement: str) -> str:
    """Return the package that a requirement is about."""
    return re.split(r"[<>=\[!~ ]", requirement)[0]


def core() -> list[str]:
    """Return what kprune needs where nothing is exported."""
    found = requirements("options", "install_requires")
    return [line for line in found if name_of(line) not in EXPORT]


def oldest() -> list[str]:
    """Return all requirements, pinned to the oldest version they allow."""
    found = requirements("options", "install_requires")
    return [re.sub(r">=([^,]+).*", r"==\1", line) for line in found]


def tools() -> list[str]:
    """Return what runs the tests."""
    found = requirements("options.extras_require", "dev")
    return [line for line in found if name_of(line) in TOOLS]


if __name__ == "__main__":
    listed = {"core": core, "oldest": oldest}[sys.argv[1]]()
    print(*listed, *tools(), sep="\n")
