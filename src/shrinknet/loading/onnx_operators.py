"""ONNX's operators in torch's: a function of a node and its inputs for each.

What they are given is in `loading/onnx_values.py`, what they do to sizes in `loading/onnx_sizes.py`;
`loading/onnx_network.py` runs them; what is a function in ONNX's own words needs no line here.
"""

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import SymInt, Tensor
from torch.nn import functional

from shrinknet.core.units import names_in
from shrinknet.graph.widths import EXAMPLE_BATCH
from shrinknet.loading.onnx_values import TYPES, Node, Value, ints, sizes_of, tensor_of

Rule = Callable[..., Any]


TENSORS: dict[str, Rule] = {
    "ArgMax": lambda node, x: torch.argmax(x, node.get("axis", 0), bool(node.get("keepdims", 1))),
    "ArgMin": lambda node, x: torch.argmin(x, node.get("axis", 0), bool(node.get("keepdims", 1))),
    "Cast": lambda node, x: tensor_of(x).to(TYPES[node.get("to")]),
    "CastLike": lambda node, x, like: tensor_of(x).to(tensor_of(like).dtype),
    "Einsum": lambda node, *x: torch.einsum(node.get("equation"), *map(tensor_of, x)),
    "Elu": lambda node, x: functional.elu(x, node.get("alpha", 1.0)),
    "GatherElements": lambda node, x, places: torch.gather(x, node.get("axis", 0), tensor_of(places)),
    "Gelu": lambda node, x: functional.gelu(x, approximate=node.get("approximate", "none")),
    "GlobalAveragePool": lambda node, x: x.mean(list(range(2, x.dim())), keepdim=True),
    "GlobalMaxPool": lambda node, x: x.amax(list(range(2, x.dim())), keepdim=True),
    "HardSigmoid": lambda node, x: torch.clamp(x * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1),
    "LeakyRelu": lambda node, x: functional.leaky_relu(x, node.get("alpha", 0.01)),
    "MatMul": lambda node, one, other: torch.matmul(tensor_of(one), tensor_of(other)),
    "Mean": lambda node, *x: sum(map(tensor_of, x)) / len(x),
    "PRelu": lambda node, x, slope: torch.where(x < 0, x * tensor_of(slope, x), x),
    "Range": lambda node, *limits: torch.arange(*(tensor_of(one, torch.empty(())) for one in limits)),
    "Shape": lambda node, x: sizes_of(x.shape[node.get("start", 0) : node.get("end")]),
    "Size": lambda node, x: sizes_of([math.prod(x.shape)]).reshape(()),
    "Tile": lambda node, x, repeats: tensor_of(x).repeat(ints(repeats)),
    "Where": lambda node, is_first, *x: torch.where(tensor_of(is_first), *_both(*map(tensor_of, x))),
}
"""What an operator does to tensors: a function of the node and its inputs. Longer ones are put in below, by `rule`."""


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Say what operators of those names do."""

    def put(function: Rule) -> Rule:
        TENSORS.update(dict.fromkeys(kinds, function))
        return function

    return put


# Element by element.

NAMED_ALIKE = names_in("""
    Abs, Acos, Acosh, Asin, Asinh, Atan, Atanh, Ceil, Cos, Cosh, Erf, Exp, Floor, IsInf, IsNaN, Log, Neg, Reciprocal,
    Relu, Round, Sigmoid, Sign, Sin, Sinh, Sqrt, Tan, Tanh
""")
"""What torch calls the same but for capitals."""

ONE: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(torch, name.lower()) for name in NAMED_ALIKE},
    **{name: getattr(functional, name.lower()) for name in ("HardSwish", "Mish", "Softplus", "Softsign")},
    **dict.fromkeys(("Identity", "Dropout"), lambda x: x),
    "BitwiseNot": torch.bitwise_not,
    "Not": torch.logical_not,
}

TWO: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Pow": operator.pow,
    "Equal": operator.eq, "Less": operator.lt, "Greater": operator.gt,
    "LessOrEqual": operator.le, "GreaterOrEqual": operator.ge,
    "And": operator.and_, "Or": operator.or_, "Xor": operator.xor,
    "BitwiseAnd": operator.and_, "BitwiseOr": operator.or_, "BitwiseXor": operator.xor,
}  # fmt: skip

MANY: dict[str, Callable[[Any, Any], Any]] = {"Sum": operator.add, "Max": torch.maximum, "Min": torch.minimum}


@rule(*ONE)
def _one(node: Node, x: Any, *_: Value) -> Any:
    return ONE[node.kind](tensor_of(x))


@rule(*TWO)
def _two(node: Node, one: Value, other: Value) -> Any:
    return TWO[node.kind](*_both(one, other))


def _both(one: Value, other: Value) -> tuple[Any, Any]:
    like = next((value for value in (one, other) if isinstance(value, Tensor)), None)
    return tensor_of(one, like), tensor_of(other, like)


@rule("Div")
def _div(node: Node, one: Value, other: Value) -> Any:
    left, right = _both(one, other)
    is_whole = not any(_is_float(value) for value in (left, right))
    return torch.div(left, right, rounding_mode="trunc") if is_whole else left / right


def _is_float(value: Any) -> bool:
    return value.is_floating_point() if isinstance(value, Tensor) else isinstance(value, float)


@rule("Mod")
def _mod(node: Node, one: Value, other: Value) -> Any:
    left, right = _both(one, other)
    return torch.fmod(left, right) if node.get("fmod", 0) else torch.remainder(left, right)


@rule(*MANY)
def _many(node: Node, *inputs: Value) -> Any:
    return reduce(MANY[node.kind], map(tensor_of, inputs))


@rule("Clip")
def _clip(node: Node, x: Any, low: Value = None, high: Value = None) -> Any:
    x = tensor_of(x)
    least, most = (tensor_of(limit, x) for limit in (low, high))
    return torch.clamp(x, node.get("min", least), node.get("max", most))


# Axes that are mixed.


@rule("Gemm")
def _gemm(node: Node, x: Tensor, weight: Tensor, bias: Any = None) -> Any:
    alpha, beta, bias = node.get("alpha", 1.0), node.get("beta", 1.0), tensor_of(bias)
    x = x.t() if node.get("transA", 0) else x
    weight = weight if node.get("transB", 0) else weight.t()
    if alpha == 1 and (bias is None or (beta == 1 and bias.dim() == 1)):
        return functional.linear(x, weight, bias)
    out = functional.linear(x, weight) * alpha
    return out if bias is None else out + bias * beta


def _pads(node: Node, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """The places added at the beginning of each axis, then at the end of each."""
    rank, auto = len(kernel), node.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        return list(node.get("pads", [0] * (2 * rank)) if auto == "NOTSET" else [0] * (2 * rank))
    begin, end = list[int](), list[int]()
    for size, width, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        less, more = total // 2, total - total // 2
        begin.append(less if auto == "SAME_UPPER" else more)
        end.append(more if auto == "SAME_UPPER" else less)
    return begin + end


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """The tensor, and what its reader adds at both ends; where the ends differ they are added here."""
    rank = len(pads) // 2
    if pads[:rank] == pads[rank:]:
        return x, list(pads[:rank])
    sides = [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])]
    return functional.pad(x, sides, value=value), [0] * rank


@rule("Conv")
def _conv(node: Node, x: Tensor, weight: Tensor, bias: Any = None) -> Any:
    kernel, strides, dilations = _window(node, weight.shape[2:])
    x, padding = _padded(x, _pads(node, x, kernel, strides, dilations))
    conv = (functional.conv1d, functional.conv2d, functional.conv3d)[len(kernel) - 1]
    return conv(x, weight, tensor_of(bias), strides, padding, dilations, node.get("group", 1))


@rule("ConvTranspose")
def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Any = None) -> Any:
    rank = weight.dim() - 2
    _, strides, dilations = _window(node, weight.shape[2:])
    pads, more = node.get("pads", [0] * (2 * rank)), node.get("output_padding", [0] * rank)
    if node.get("output_shape") or node.get("auto_pad", "NOTSET") != "NOTSET" or pads[:rank] != pads[rank:]:
        raise NotImplementedError("padding that is not the same at both ends")
    conv = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    return conv(x, weight, tensor_of(bias), strides, pads[:rank], more, node.get("group", 1), dilations)


@rule("MaxPool")
def _max_pool(node: Node, x: Tensor) -> Any:
    kernel, strides, dilations = _window(node, node.get("kernel_shape"))
    x, padding = _padded(x, _pads(node, x, kernel, strides, dilations), -math.inf)
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[len(kernel) - 1]
    pooled: Tensor = pool(x, kernel, strides, padding, dilations, bool(node.get("ceil_mode", 0)))
    return pooled


@rule("AveragePool")
def _average_pool(node: Node, x: Tensor) -> Any:
    kernel, strides, dilations = _window(node, node.get("kernel_shape"))
    pads, counts_all = _pads(node, x, kernel, strides, dilations), bool(node.get("count_include_pad", 0))
    if set(dilations) != {1}:
        raise NotImplementedError("places that are skipped")
    pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(kernel) - 1]
    padded, padding = _padded(x, pads)
    if padded is not x and not counts_all:  # divide by how many places of each window are there
        there, _ = _padded(torch.ones_like(x[:1, :1]), pads)
        return pool(padded, kernel, strides) / pool(there, kernel, strides)
    return pool(padded, kernel, strides, padding, bool(node.get("ceil_mode", 0)), counts_all)


def _window(node: Node, kernel: Any) -> tuple[Any, list[int], list[int]]:
    return kernel, node.get("strides", [1] * len(kernel)), node.get("dilations", [1] * len(kernel))


@rule("BatchNormalization")
def _batch_norm(node: Node, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Any:
    if node.get("training_mode", 0):
        raise NotImplementedError("training mode")
    return functional.batch_norm(x, mean, variance, weight, bias, eps=node.get("epsilon", 1e-5))


@rule("InstanceNormalization")
def _instance_norm(node: Node, x: Tensor, weight: Any, bias: Any) -> Any:
    return functional.instance_norm(x, weight=tensor_of(weight), bias=tensor_of(bias), eps=node.get("epsilon", 1e-5))


@rule("GroupNormalization")
def _group_norm(node: Node, x: Tensor, weight: Tensor, bias: Tensor) -> Any:
    if len(weight) != x.shape[1]:  # before opset 21 each group has one factor
        weight, bias = (one.repeat_interleave(x.shape[1] // len(one)) for one in (weight, bias))
    return functional.group_norm(x, node.get("num_groups"), weight, bias, node.get("epsilon", 1e-5))


@rule("LayerNormalization")
def _layer_norm(node: Node, x: Tensor, weight: Any, bias: Any = None) -> Any:
    shape = list(x.shape[node.get("axis", -1) :])
    return functional.layer_norm(x, shape, tensor_of(weight), tensor_of(bias), node.get("epsilon", 1e-5))


@rule("RMSNormalization")
def _rms_norm(node: Node, x: Tensor, weight: Any) -> Any:
    return functional.rms_norm(x, list(x.shape[node.get("axis", -1) :]), tensor_of(weight), node.get("epsilon", 1e-5))


@rule("LRN")
def _local_response_norm(node: Node, x: Tensor) -> Any:
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return functional.local_response_norm(x, node.get("size"), alpha, beta, bias)


@rule("Softmax", "LogSoftmax")
def _softmax(node: Node, x: Tensor) -> Any:
    function = torch.softmax if node.kind == "Softmax" else torch.log_softmax
    if node.opset >= 13 or node.get("axis", 1) in (-1, x.dim() - 1):
        return function(x, node.get("axis", -1))
    axis = node.get("axis", 1) % x.dim()  # older ones take all axes from there as one
    return function(x.flatten(axis), -1).view(x.shape)


REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
}


@rule(*REDUCTIONS)
def _reduction(node: Node, x: Any, axes: Value = None) -> Any:
    x = tensor_of(x)
    over = ints(axes) or list(node.get("axes", []))
    if not over and node.get("noop_with_empty_axes", 0):
        return x
    return REDUCTIONS[node.kind](x, over or list(range(x.dim())), bool(node.get("keepdims", 1)))


@rule("TopK")
def _top_k(node: Node, x: Tensor, count: Value) -> Any:
    found = torch.topk(x, ints(count)[0], node.get("axis", -1), bool(node.get("largest", 1)))
    return found.values, found.indices


@rule("Trilu")
def _triangle(node: Node, x: Any, diagonal: Value = None) -> Any:
    function = torch.triu if node.get("upper", 1) else torch.tril
    return function(tensor_of(x), (ints(diagonal) or [0])[0])


@rule("CumSum")
def _cumulative(node: Node, x: Any, axis: Value) -> Any:
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise NotImplementedError("sums from the end, or without the last one")
    return torch.cumsum(tensor_of(x), ints(axis)[0])


# Elements that are moved.


@rule("Reshape")
def _reshape(node: Node, x: Any, shape: Value = None) -> Any:
    x = tensor_of(x)
    sizes = list(node.get("shape") or ints(shape))
    if not node.get("allowzero", 0):
        sizes = [x.shape[axis] if isinstance(size, int) and size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(_for_rows_that_come(node, x, sizes))


def _for_rows_that_come(node: Node, x: Tensor, sizes: list[Any]) -> list[Any]:
    """Sizes that were written for the file's own number of samples, for the number that comes.

    The samples' axis is looked for where as many elements lie before it as in the tensor that is given its new shape:
    an axis of its own, else a factor of one. Which one can be ambiguous; the answers are compared afterwards.
    """
    at = next((axis for axis, size in enumerate(x.shape) if isinstance(size, SymInt)), None)
    if node.rows is None or at is None or any(isinstance(size, SymInt) for size in sizes):
        return sizes
    own = [size.node.hint * node.rows // EXAMPLE_BATCH if isinstance(size, SymInt) else size for size in x.shape]
    if -1 in sizes:
        sizes[sizes.index(-1)] = math.prod(own) // -math.prod(sizes)
    before = [math.prod(sizes[:axis]) for axis in range(len(sizes) + 1)]
    start, others = math.prod(own[:at]), own[at] // node.rows
    alone = [axis for axis, size in enumerate(sizes) if size == node.rows and before[axis] in (start, start * others)]
    first = [axis for axis in range(len(sizes)) if before[axis] == start and len(sizes) > 2]
    within = [axis for axis in range(len(sizes)) if before[axis] <= start and start * node.rows <= before[axis + 1]]
    for axis in (alone or first or within)[:1]:
        sizes[axis] = x.shape[at] // others * (sizes[axis] // node.rows)
    return sizes


@rule("Flatten")
def _flatten(node: Node, x: Tensor) -> Any:
    axis = node.get("axis", 1)
    axis += x.dim() if axis < 0 else 0
    if axis == 1:
        return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


@rule("Transpose")
def _transpose(node: Node, x: Any) -> Any:
    x = tensor_of(x)
    return x.permute(node.get("perm", list(reversed(range(x.dim())))))


@rule("Squeeze")
def _squeeze(node: Node, x: Any, axes: Value = None) -> Any:
    x = tensor_of(x)
    given = ints(axes) or list(node.get("axes", []))
    return x.squeeze(given or [axis for axis, size in enumerate(x.shape) if isinstance(size, int) and size == 1])


@rule("Unsqueeze")
def _unsqueeze(node: Node, x: Any, axes: Value = None) -> Any:
    x = tensor_of(x)
    given = ints(axes) or list(node.get("axes", []))
    for axis in sorted(axis % (x.dim() + len(given)) for axis in given):
        x = x.unsqueeze(axis)
    return x


@rule("Concat")
def _concat(node: Node, *inputs: Value) -> Any:
    """What a file of one sample puts beside its rows (a class token) is put beside each row that comes."""
    given, axis = [tensor_of(one) for one in inputs], node.get("axis")
    given = [one for one in given if one.dim() > 1 or len(one) > 0]
    rows = next((one.shape[0] for one in given if isinstance(one.shape[0], SymInt)), None)
    if rows is not None and axis % given[0].dim() != 0:
        given = [
            one if isinstance(one.shape[0], SymInt) or one.shape[0] != 1 else one.expand(rows, *one.shape[1:])
            for one in given
        ]
    return torch.cat(given, axis)


@rule("Split")
def _split(node: Node, x: Tensor, sizes: Value = None) -> Any:
    axis = node.get("axis", 0)
    given = ints(sizes) or list(node.get("split", []))
    return x.split(given or -(-x.shape[axis] // len(node.outputs)), axis)


@rule("Slice")
def _slice(
    node: Node, x: Any, starts: Value = None, ends: Value = None, axes: Value = None, steps: Value = None
) -> Any:
    x = tensor_of(x)
    for start, end, axis, step in slices(node, x.dim(), starts, ends, axes, steps):
        if step < 0:
            x, start, end, step = x.flip(axis), -1 - start, None if abs(end) >= x.shape[axis] else -1 - end, -step
        taken: list[Any] = [slice(None)] * x.dim()
        taken[axis] = slice(start, None if isinstance(end, int) and end >= 2**31 - 1 else end, step)
        x = x[tuple(taken)]
    return x


def slices(node: Node, rank: int, starts: Value, ends: Value, axes: Value, steps: Value) -> list[tuple[Any, ...]]:
    """Return start, end, axis and step of each slice."""
    first = ints(starts) or list(node.get("starts", []))
    last = ints(ends) or list(node.get("ends", []))
    over = ints(axes) or list(node.get("axes", range(len(first))))
    return list(zip(first, last, [axis % rank for axis in over], ints(steps) or [1] * len(first), strict=True))


@rule("Gather")
def _gather(node: Node, x: Any, places: Value) -> Any:
    x, axis = tensor_of(x), node.get("axis", 0)
    axis %= x.dim()
    if isinstance(places, np.ndarray) and places.ndim == 0:
        return x.select(axis, ints(places)[0])
    at = tensor_of(places)
    if axis == 0 and x.dim() == 2:
        return functional.embedding(at, x)
    found = x.index_select(axis, torch.where(at < 0, at + x.shape[axis], at).reshape(-1))
    return found.reshape(*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])


@rule("Expand")
def expand(node: Node, x: Any, shape: Value) -> Any:
    """Return it with axes of length 1 made as long as asked, and more in front."""
    x, sizes = tensor_of(x), ints(shape)
    own = [1] * (len(sizes) - x.dim()) + list(x.shape)
    wanted = [1] * (len(own) - len(sizes)) + sizes
    pairs = zip(own, wanted, strict=True)
    return x.expand([mine if isinstance(size, int) and size == 1 else size for mine, size in pairs])


@rule("ConstantOfShape")
def constant_of_shape(node: Node, shape: Value) -> Any:
    """Return a tensor that is one number over and over."""
    value = torch.from_numpy(node.get("value", np.zeros(1, np.float32)).copy())
    return torch.full(ints(shape), value.item(), dtype=value.dtype)


@rule("Pad")
def _pad(node: Node, x: Tensor, pads: Value = None, value: Value = None, axes: Value = None) -> Any:
    given, mode = ints(pads) or list(node.get("pads", [])), node.get("mode", "constant")
    over = [axis % x.dim() for axis in ints(axes)] or list(range(len(given) // 2))
    sides = [0] * (2 * x.dim())
    for place, axis in enumerate(over):
        sides[2 * (x.dim() - 1 - axis) : 2 * (x.dim() - axis)] = given[place], given[place + len(over)]
    while sides[-2:] == [0, 0]:
        del sides[-2:]
    filling = tensor_of(value, x) if value is not None else node.get("value", 0.0)
    names = {"edge": "replicate", "wrap": "circular"}
    if not sides or mode != "constant":
        return functional.pad(x, sides, names.get(mode, mode)) if sides else x
    return functional.pad(x, sides, value=float(filling))


@rule("Resize", "Upsample")
def _resize(node: Node, x: Tensor, *inputs: Value) -> Any:
    scales, sizes = (inputs[0], None) if len(inputs) == 1 else (inputs[1], inputs[2] if len(inputs) > 2 else None)
    mode, place = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    if node.kind == "Upsample" or len(inputs) == 1:
        place = "asymmetric"
    if sizes is not None and isinstance(sizes, np.ndarray) and sizes.size:
        wanted = ints(sizes)[2 - x.dim() :]
    else:
        factors = np.asarray(scales).tolist() if scales is not None else node.get("scales")
        wanted = [int(size * factor) for size, factor in zip(x.shape[2:], factors[2 - x.dim() :], strict=True)]
    if mode == "nearest":
        is_floor = place == "asymmetric" and node.get("nearest_mode", "floor") == "floor"
        return functional.interpolate(x, wanted, mode="nearest" if is_floor else "nearest-exact")
    if (mode == "linear" and place == "asymmetric") or node.get("antialias", 0) or node.get("axes"):
        raise NotImplementedError(f"mode {mode} with {place} places")
    kind = ("linear", "bilinear", "trilinear")[x.dim() - 3] if mode == "linear" else "bicubic"
    return functional.interpolate(x, wanted, mode=kind, align_corners=place == "align_corners")


@rule("DepthToSpace", "SpaceToDepth")
def _blocks(node: Node, x: Tensor) -> Any:
    size = node.get("blocksize")
    rows, channels, height, width = x.shape
    if node.kind == "SpaceToDepth":
        cut = x.reshape(rows, channels, height // size, size, width // size, size)
        return cut.permute(0, 3, 5, 1, 2, 4).reshape(rows, channels * size**2, height // size, width // size)
    if node.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, size)
    cut = x.reshape(rows, size, size, channels // size**2, height, width)
    return cut.permute(0, 3, 4, 1, 5, 2).reshape(rows, channels // size**2, height * size, width * size)
