"""ONNX's operators on sizes, and on constants that they are made of: numpy in place of torch."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import SymInt

from shrinknet.loading.onnx_operators import TENSORS, TWO, constant_of_shape, expand, slices
from shrinknet.loading.onnx_values import TYPES, Known, Node, Value, ints, plain, sizes_of


def run(node: Node, inputs: Sequence[Value]) -> Any:
    """Return what an operator gives: one value, or a tuple of them."""
    if all(isinstance(one, np.ndarray) for one in inputs if one is not None) and node.kind in KNOWN:
        return plain(KNOWN[node.kind](node, *inputs))
    return TENSORS[node.kind](node, *inputs)


def _whole(array: Known) -> Any:
    """Sizes that were numbers with a point for a while."""
    if array.dtype != object:
        return array.astype(np.int64)
    return sizes_of([one if isinstance(one, SymInt) else torch.sym_int(one) for one in array.flat]).reshape(array.shape)


def _known_cast(node: Node, x: Known) -> Any:
    kind = TYPES[node.get("to")]
    if x.dtype == object:
        return x if kind.is_floating_point else _whole(x)
    return x.astype(str(kind).removeprefix("torch."))


def _known_slice(node: Node, x: Known, *given: Known) -> Any:
    padded = [*given, *([None] * (4 - len(given)))]
    for start, end, axis, step in slices(node, x.ndim, *padded):
        taken: list[Any] = [slice(None)] * x.ndim
        taken[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
        x = x[tuple(taken)]
    return x


def _known_unsqueeze(node: Node, x: Known, axes: Value = None) -> Any:
    return np.expand_dims(x, tuple(ints(axes) or node.get("axes")))


def _known_squeeze(node: Node, x: Known, axes: Value = None) -> Any:
    given = ints(axes) or node.get("axes")
    return np.squeeze(x, tuple(given) if given else None)


def _known_div(node: Node, one: Known, other: Known) -> Any:
    is_whole = all(array.dtype == object or array.dtype.kind in "iu" for array in (one, other))
    return one // other if is_whole else one / other


def _known_range(node: Node, start: Known, end: Known, step: Known) -> Any:
    limits = [array.reshape(-1).tolist()[0] for array in (start, end, step)]
    return torch.arange(*limits) if any(isinstance(one, SymInt) for one in limits) else np.arange(*limits)


def _known_filled(node: Node, shape: Known) -> Any:
    value = node.get("value", np.zeros(1, np.float32))
    is_sizes = value.dtype.kind in "iub" and shape.size <= 1 and shape.dtype != object
    return np.full(ints(shape), value.reshape(-1)[0]) if is_sizes else constant_of_shape(node, shape)


def _known_expand(node: Node, x: Known, shape: Known) -> Any:
    if shape.dtype == object:
        return expand(node, x, shape)
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(ints(shape))))


KNOWN: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Equal", "Less", "Greater"), lambda node, one, other: TWO[node.kind](one, other)
    ),
    "Div": _known_div,
    "Mod": lambda node, one, other: one % other,
    "Neg": lambda node, x: -x,
    "Min": lambda node, *x: reduce(np.minimum, x),
    "Max": lambda node, *x: reduce(np.maximum, x),
    "Not": lambda node, x: np.logical_not(x),
    "And": lambda node, one, other: np.logical_and(one, other),
    "Or": lambda node, one, other: np.logical_or(one, other),
    "Where": lambda node, condition, one, other: np.where(condition.astype(bool), one, other),
    "Identity": lambda node, x: x,
    "Cast": _known_cast,
    "CastLike": lambda node, x, like: x if x.dtype == object else x.astype(like.dtype),
    "Floor": lambda node, x: x if x.dtype == object else np.floor(x),
    "Ceil": lambda node, x: x if x.dtype == object else np.ceil(x),
    "Sqrt": lambda node, x: np.sqrt(x),
    "Gather": lambda node, x, places: np.take(x, places.astype(np.int64), node.get("axis", 0)),
    "Concat": lambda node, *x: np.concatenate(x, node.get("axis")),
    "Slice": _known_slice,
    "Squeeze": _known_squeeze,
    "Unsqueeze": _known_unsqueeze,
    "Reshape": lambda node, x, shape: x.reshape(ints(shape)),
    "Transpose": lambda node, x: x.transpose(node.get("perm")),
    "Shape": lambda node, x: np.array(x.shape[node.get("start", 0) : node.get("end")], np.int64),
    "Size": lambda node, x: np.array(x.size),
    "ReduceProd": lambda node, x, *_: np.prod(x, keepdims=bool(node.get("keepdims", 1))),
    "Range": _known_range,
    "ConstantOfShape": _known_filled,
    "Expand": _known_expand,
}
"""The same for arrays of numpy, where all inputs are."""
