"""Tensors ↔ values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray


def read_bytes(request: Any, name: str) -> bytes:
    """A BYTES[1] tensor that must be there."""
    value: bytes = pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]
    return value


def read_array(request: Any, name: str) -> NDArray[Any] | None:
    """Any tensor, or None for an optional input that was left out."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def bytes_tensor(name: str, *values: bytes) -> Any:
    """BYTES[len(values)]."""
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return pb_utils.Tensor(name, array)


def int_tensor(name: str, values: Sequence[int]) -> Any:
    """INT32[len(values)]."""
    return pb_utils.Tensor(name, np.asarray(values, dtype=np.int32))


def float_tensor(name: str, values: NDArray[np.float32]) -> Any:
    """FP32 of the array's shape."""
    return pb_utils.Tensor(name, np.ascontiguousarray(values, dtype=np.float32))
