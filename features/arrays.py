"""Names of NumPy array types. Shapes are said where an array is made or taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Tensors = Mapping[str, npt.NDArray[Any]]
"""Arrays by tensor name: what a model is given, or what it answers."""
