"""Reading what the user names on the command line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def load_model(path: Path) -> keras.Model:
    """Load a model file without running code from it.

    Args:
        path: File to read, see `kprune.load`.

    Returns:
        The model. What `kprune.load` warns of stands on standard error.

    Example:

    ```python
    model = load_model(Path("model.keras"))
    ```
    """
    from kprune.loading import load

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        model = load(path)
    for warning in caught:
        print(f"kprune: note: {warning.message}", file=sys.stderr)
    return model
