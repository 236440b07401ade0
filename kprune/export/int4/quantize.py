"""Make integer files in which some matrices have 4 bits and the others 8."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from kprune.export.int4.matrices import KINDS
from kprune.export.int4.matrices import Matrix
from kprune.export.int4.matrices import MatrixFile
from kprune.export.int4.matrices import Rounded
from kprune.export.int4.packages import packages
from kprune.export.int4.products import Inputs
from kprune.export.int4.products import mean_products
from kprune.export.int4.rounding import LARGEST
from kprune.export.int4.rounding import rounded
from kprune.export.quiet import quiet
from kprune.export.runtime import available_threads


class IntegerFile:
    """A float file that can be turned into integer files.

    Ranges are measured and matrices are rounded once, for every choice of matrices
    with 4 bits.

    Args:
        content: Bytes of the float `.tflite` file.
        samples: Inputs of its signature, to calibrate on.
        integer_io: Whether inputs and outputs are int8 too.

    Raises:
        ValueError: No weights can have 4 bits.
    """

    def __init__(
        self, content: bytes, samples: Sequence[Inputs], integer_io: bool
    ) -> None:
        self._file = MatrixFile(content)
        if not self._file.matrices:
            raise ValueError(
                "There is no convolution and no dense layer whose weights could "
                "have 4 bits: LiteRT has no such kernels for other layers, such as "
                "depthwise convolutions. Use `quantize='int8'`."
            )
        self._integer_io = integer_io
        self._ranges = self._measured(content, samples)
        self._rounded = {
            matrix.name: (
                matrix,
                rounded(matrix.weights, products, self._file.has_bias(matrix)),
            )
            for matrix, products in mean_products(self._file, samples)
        }

    @property
    def names(self) -> list[str]:
        """Names of the matrices that can have 4 bits, in the order of the file."""
        return [matrix.name for matrix in self._file.matrices]

    def sizes(self) -> dict[str, int]:
        """Return the bytes that each matrix saves with 4 bits instead of 8."""
        return {m.name: m.weights.size // 2 for m in self._file.matrices}

    def kinds(self) -> dict[str, str]:
        """Return the kind of operator of each matrix."""
        return {m.name: m.kind for m in self._file.matrices}

    def rounded(self, name: str) -> bytes:
        """Return the float file with one matrix rounded to 4 bits."""
        return self._file.replaced([self._rounded[name]])

    def content(self, chosen: Collection[str]) -> bytes:
        """Return the bytes of the integer file.

        Args:
            chosen: Names of the matrices to store with 4 bits.
        """
        some = [self._rounded[name] for name in self.names if name in chosen]
        quantizer = self._quantizer(
            self._file.replaced(some),
            [scope for matrix, _ in some for scope in matrix.scopes],
        )
        ranges = dict(self._ranges)
        for matrix, new in some:
            ranges[matrix.name] = _grid(matrix, new)
        with _silent():
            result = quantizer.quantize(ranges, enable_progress_report=False)
        return bytes(result.quantized_model)

    def _measured(self, content: bytes, samples: Sequence[Inputs]) -> Any:
        """Return the ranges of all tensors."""
        found = packages()
        recipes = found.Recipes()
        recipes.load_quantization_recipe(
            self._quantizer(content, ()).get_quantization_recipe()
        )
        with _silent():
            calibrator = found.Calibrator(
                content,
                num_threads=available_threads(),
                qsv_update_func=found.min_max,
            )
            (signature,) = calibrator.get_signature_list()
            calibrator.calibrate({signature: samples}, recipes)
        return calibrator.get_model_qsvs()

    def _quantizer(self, content: bytes, scopes: Collection[str]) -> Any:
        found = packages()
        ops = found.operations
        quantizer = found.Quantizer(content)
        quantizer.add_static_config(".*", ops.ALL_SUPPORTED, 8, 8)
        if not self._integer_io:
            for side in (ops.INPUT, ops.OUTPUT):
                quantizer.update_quantization_recipe(
                    ".*", side, algorithm_key=found.algorithms.NO_QUANTIZE
                )
        for scope in scopes:
            for kind in KINDS:
                quantizer.add_static_config(
                    f"^{re.escape(scope)}$", ops(kind), 8, 4
                )
        return quantizer


def _grid(matrix: Matrix, new: Rounded) -> dict[str, np.ndarray]:
    """Return the range that reproduces the grid a matrix was rounded to."""
    rank = {"CONV_2D": 4, "FULLY_CONNECTED": 2}[matrix.kind]
    edge = (new.scales * LARGEST).reshape(-1, *[1] * (rank - 1))
    return {"min": -edge, "max": edge}


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with quiet(), warnings.catch_warnings():
        # LiteRT warns about the memory that keeping all tensors takes.
        warnings.simplefilter("ignore", UserWarning)
        yield
