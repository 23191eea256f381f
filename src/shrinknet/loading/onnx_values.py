"""Nodes and values of an .onnx file.

A value is a tensor of torch, or, where it says sizes or is a constant that they are made of, an array of numpy: sizes
are then arithmetic of Python while torch traces, and an axis that follows the rows that come stays free.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import SymInt, Tensor

Known = np.ndarray[Any, np.dtype[Any]]


Value = Tensor | Known | None


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of a file.

    Attributes:
        kind: the operator's name.
        name: the node's own name, or that of its first output.
        path: the module that it comes from, where the file says so.
        opset: the version of ONNX's operators that the file speaks.
        rows: the number of samples that the file is written for; None where it leaves it open.
    """

    kind: str
    name: str
    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(repr=False)
    opset: int
    rows: int | None

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.attributes.get(name, default)


def tensor_of(value: Value, like: Tensor | None = None) -> Any:
    """Return a value as a tensor of another's type, or as a number where one will do."""
    if not isinstance(value, np.ndarray):
        return value
    if like is not None and value.size == 1 and value.ndim <= like.dim():
        return value.reshape(-1).tolist()[0]
    if value.dtype == object:
        return torch.stack([torch.scalar_tensor(one, dtype=torch.int64) for one in value.flat]).reshape(value.shape)
    return torch.from_numpy(value.copy())


def ints(value: Value) -> list[Any]:
    """Return sizes or places that the graph must know while torch traces.

    Raises:
        NotImplementedError: values of the data decide them.
    """
    if isinstance(value, Tensor):
        raise NotImplementedError("sizes that the values decide")
    return [] if value is None else [one if isinstance(one, SymInt) else int(one) for one in value.reshape(-1).tolist()]


def plain(value: Any) -> Any:
    """Return sizes without an open one among them as whole numbers of numpy."""
    array = np.asarray(value) if not isinstance(value, Tensor) else value
    if isinstance(array, np.ndarray) and array.dtype == object:
        is_open = any(isinstance(one, SymInt | torch.SymFloat) for one in array.flat)
        return array if is_open else np.array(array.tolist())
    return array


def sizes_of(sizes: Sequence[Any]) -> Known:
    """Return sizes as an array: of objects where one is open."""
    array = np.empty(len(sizes), object)
    array[:] = list(sizes)
    known: Known = plain(array)
    return known


TYPES = {
    1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16, 9: torch.bool,
    2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
}  # fmt: skip
"""Torch's types by the numbers that ONNX has for them."""
