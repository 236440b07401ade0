"""Package list; everything else lives in setup.cfg.

`find:` in setup.cfg cannot see that the folder `callbacks/` is the package
`kprune.callbacks`, so the two are joined here.
"""

from setuptools import find_packages
from setuptools import setup

setup(
    packages=[
        *find_packages(include=["kprune", "kprune.*"]),
        "kprune.callbacks",
    ]
)
