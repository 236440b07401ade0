"""Load model files named on the command line."""

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
        path: File to read. See `kprune.load`.

    Returns:
        The model. Warnings of `kprune.load` are printed to standard error.

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
