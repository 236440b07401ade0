"""Package list and description; everything else lives in setup.cfg.

`find:` in setup.cfg cannot see that the folder `callbacks/` is the package
`kprune.callbacks`, so the two are joined here.
"""

import configparser
import re
from pathlib import Path

from setuptools import find_packages
from setuptools import setup

ROOT = Path(__file__).parent
# [text](path), but neither [text](https://...) nor [text](#heading).
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)")


def description() -> str:
    """Return README.md for a package index, where its relative links lead nowhere.

    They become absolute below `url` of setup.cfg, and plain text without one.
    """
    setup_cfg = configparser.ConfigParser(interpolation=None)
    setup_cfg.read(ROOT / "setup.cfg", encoding="utf-8")
    url = setup_cfg["metadata"].get("url")
    link = rf"[\1]({url.rstrip('/')}/blob/main/\2)" if url else r"\1"
    return LINK.sub(link, (ROOT / "README.md").read_text("utf-8"))


setup(
    long_description=description(),
    packages=[
        *find_packages(include=["kprune", "kprune.*"]),
        "kprune.callbacks",
    ],
)
