"""Importing ai-edge-quantizer when it is needed first."""

from __future__ import annotations

from typing import Any
from typing import NamedTuple


class Packages(NamedTuple):
    """What is used of ai-edge-quantizer.

    Args:
        Quantizer: Turns a float file into one of integers.
        operations: Its names of operators.
        algorithms: Its names of ways to round.
        Calibrator: Measures ranges.
        Recipes: What it is told of operators.
        min_max: Puts ranges together: the widest counts. Its default, a moving
            average, cuts off what the last samples do not reach.
    """

    Quantizer: Any
    operations: Any
    algorithms: Any
    Calibrator: Any
    Recipes: Any
    min_max: Any


def packages() -> Packages:
    """Import ai-edge-quantizer.

    Raises:
        ImportError: It is missing; the message names the extra.
    """
    try:
        from ai_edge_quantizer import calibrator
        from ai_edge_quantizer import qtyping
        from ai_edge_quantizer import quantizer
        from ai_edge_quantizer import recipe_manager
        from ai_edge_quantizer.utils import qsv_utils
    except ImportError as error:
        raise ImportError(
            'quantize="int4" and "mixed" need ai-edge-quantizer. Install it with '
            f'`pip install "kprune[edge]"`. ({error})'
        ) from error
    return Packages(
        quantizer.Quantizer,
        qtyping.TFLOperationName,
        quantizer.AlgorithmName,
        calibrator.Calibrator,
        recipe_manager.RecipeManager,
        qsv_utils.min_max_update,
    )
