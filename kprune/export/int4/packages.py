"""Import ai-edge-quantizer when it is first needed."""

from __future__ import annotations

from typing import Any
from typing import NamedTuple


class Packages(NamedTuple):
    """The parts of ai-edge-quantizer that are used.

    Args:
        Quantizer: Class that turns a float file into an integer file.
        operations: Names of operators.
        algorithms: Names of rounding algorithms.
        Calibrator: Class that measures ranges.
        Recipes: Class that holds the settings of operators.
        min_max: Function that merges ranges into the widest one. The default, a
            moving average, clips values that the last samples do not reach.
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
        ImportError: It is not installed. The message names the extra.
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
