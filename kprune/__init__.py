"""kprune: smaller and faster Keras models by removing whole filters."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

from kprune.__about__ import __version__ as __version__

if TYPE_CHECKING:
    from kprune.public import *  # noqa: F403


def load_public_names() -> None:
    """Binds `kprune.wrap` and all other public names.

    The functions `cost`, `export` and `rebuild` share their names with
    subpackages, which Python binds when they are first imported: here the
    functions come last and stay.
    """
    from kprune import public

    names = {n: v for n, v in vars(public).items() if not n.startswith("_")}
    globals().update(names)


# `import kprune` brings all of it, so that a file with masked layers can be
# loaded. The `kprune` command waits for Keras only if a subcommand needs it.
if pathlib.PurePath((sys.argv or [""])[0]).stem != "kprune":
    load_public_names()
