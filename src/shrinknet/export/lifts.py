"""How each 1-D operator is written as a 2-D one of height 1, and what computes the same on values with that axis."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node

from shrinknet.graph.call import argument
from shrinknet.graph.operators import operator_name

aten = torch.ops.aten


class Lifting(ABC):
    """A walk over a graph: what a rule may ask of it.

    Attributes:
        graph: the graph that is rewritten.
        tall: the nodes whose values have the new axis.
    """

    graph: Graph
    tall: set[Node]

    @abstractmethod
    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a value in the network before."""

    def length(self, node: Node) -> int:
        """How long the last axis of a value is."""
        return self.shape(node)[-1]

    @abstractmethod
    def taller(self, node: Node) -> Node:
        """Return a value with the new axis."""

    def becomes(self, node: Node, target: Any, *args: Any) -> bool:
        """Let a node compute something else, whose value has the new axis."""
        node.target, node.args, node.kwargs = target, args, {}
        self.tall.add(node)
        return True


def _pair(value: Any, height: int) -> list[int]:
    """An argument along both axes, made of the one along the places."""
    return [height, *(value if isinstance(value, list | tuple) else (value,))]


def _convolution(lifting: Lifting, node: Node) -> bool:
    given, kernel = lifting.taller(argument(node, 0, "input")), argument(node, 1, "weight")
    stride, dilation = (_pair(argument(node, at, name, 1), 1) for at, name in ((3, "stride"), (5, "dilation")))
    given, padding = _padded(lifting, node, given, [1, lifting.length(kernel)], dilation)
    rest = (stride, padding, dilation, argument(node, 6, "groups", 1))
    return lifting.becomes(node, aten.conv2d.default, given, lifting.taller(kernel), argument(node, 2, "bias"), *rest)


def _padded(lifting: Lifting, node: Node, given: Node, size: list[int], dilation: list[int]) -> tuple[Node, list[int]]:
    """What a convolution reads, and how much it pads on either side: "same" is written out, if need be before it."""
    padding = argument(node, 4, "padding", 0)
    if not isinstance(padding, str):
        return given, _pair(padding, 0)[-2:]
    all_in = [0 if padding == "valid" else by * (length - 1) for length, by in zip(size, dilation, strict=True)]
    if not any(total % 2 for total in all_in):
        return given, [total // 2 for total in all_in]
    ends = [end for total in reversed(all_in) for end in (total // 2, total - total // 2)]
    with lifting.graph.inserting_before(node):
        return lifting.graph.call_function(aten.constant_pad_nd.default, (given, ends)), [0, 0]


def _transposed_convolution(lifting: Lifting, node: Node) -> bool:
    """There are kernels for undilated ones in one group, without padding behind."""
    more, groups, dilation = ((5, "output_padding", 0), (6, "groups", 1), (7, "dilation", 1))
    if any(_pair(argument(node, *one), one[2])[1] != one[2] for one in (more, groups, dilation)):
        return False
    given, kernel = lifting.taller(argument(node, 0, "input")), lifting.taller(argument(node, 1, "weight"))
    stride, padding = _pair(argument(node, 3, "stride", 1), 1), _pair(argument(node, 4, "padding", 0), 0)
    return lifting.becomes(node, aten.conv_transpose2d.input, given, kernel, argument(node, 2, "bias"), stride, padding)


def _pool(target: Any, *rest: tuple[int, str, Any]) -> Callable[[Lifting, Node], bool]:
    """A pool: size, stride (the size, where none is given), padding, and arguments of its own."""

    def lift(lifting: Lifting, node: Node) -> bool:
        given, size = lifting.taller(argument(node, 0, "self")), _pair(argument(node, 1, "kernel_size"), 1)
        stride, padding = argument(node, 2, "stride"), _pair(argument(node, 3, "padding", 0), 0)
        more = [argument(node, at, name, default) for at, name, default in rest]
        more = [
            _pair(value, 1) if name == "dilation" else value for value, (_, name, _) in zip(more, rest, strict=True)
        ]
        return lifting.becomes(node, target, given, size, _pair(stride, 1) if stride else size, padding, *more)

    return lift


def _adaptive_average_pool(lifting: Lifting, node: Node) -> bool:
    """Pools of one length each are average pools, for which there are kernels; so is the one over all places."""
    given, size = argument(node, 0, "self"), _pair(argument(node, 1, "output_size"), 1)
    length, rest = divmod(lifting.length(given), size[1])
    if size[1] == 1:
        return lifting.becomes(node, aten.adaptive_avg_pool2d.default, lifting.taller(given), size)
    pool = ([1, length], [1, length])
    return not rest and lifting.becomes(node, aten.avg_pool2d.default, lifting.taller(given), *pool)


def _adaptive_max_pool(lifting: Lifting, node: Node) -> bool:
    """Where the pools have one length each, and nobody asks where the largest values stand, they are max pools."""
    given, size = argument(node, 0, "self"), _pair(argument(node, 1, "output_size"), 1)
    length, rest = divmod(lifting.length(given), size[1])
    read = [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]
    if rest or len(read) < len(node.users):
        return False
    for user in read:
        lifting.becomes(user, aten.max_pool2d.default, lifting.taller(given), [1, length], [1, length])
    return True


LIFTS: dict[str, Callable[[Lifting, Node], bool]] = {
    "conv1d": _convolution,
    "conv_transpose1d": _transposed_convolution,
    "max_pool1d": _pool(aten.max_pool2d.default, (4, "dilation", 1), (5, "ceil_mode", False)),
    "avg_pool1d": _pool(aten.avg_pool2d.default, (4, "ceil_mode", False), (5, "count_include_pad", True)),
    "adaptive_avg_pool1d": _adaptive_average_pool,
    "adaptive_max_pool1d": _adaptive_max_pool,
}
"""The 1-D operators; each says whether it could be lifted."""


def _written_out(lifting: Lifting, node: Node) -> bool:
    """A 2-D convolution whose padding is a word: there are kernels for numbers only."""
    if isinstance(argument(node, 4, "padding", 0), str):
        stride, dilation = argument(node, 3, "stride", [1, 1]), argument(node, 5, "dilation", [1, 1])
        size = list(lifting.shape(argument(node, 1, "weight"))[2:])
        given, padding = _padded(lifting, node, argument(node, 0, "input"), size, dilation)
        rest = (stride, padding, dilation, argument(node, 6, "groups", 1))
        node.target, node.args, node.kwargs = aten.conv2d.default, (given, *node.args[1:3], *rest), {}
    return True


def _mean(lifting: Lifting, node: Node) -> bool:
    """The mean over all places is an adaptive pool, for which there is a kernel whatever the number of samples."""
    given, is_kept = argument(node, 0, "self"), argument(node, 2, "keepdim", False)
    rank = len(lifting.shape(given))
    axes = _axes(argument(node, 1, "dim"), rank)
    if axes != list(range(2, rank)) or "dtype" in node.kwargs or not (rank == 4 or given in lifting.tall):
        return False
    return _pooled(lifting, node, is_kept, aten.adaptive_avg_pool2d.default, given, [1, 1])


def _largest(lifting: Lifting, node: Node) -> bool:
    """The largest of all places is a max pool over them."""
    given, is_kept = argument(node, 0, "self"), argument(node, 2, "keepdim", False)
    if given not in lifting.tall or _axes(argument(node, 1, "dim"), 3) != [2]:
        return False
    size = [1, lifting.length(given)]
    return _pooled(lifting, node, is_kept, aten.max_pool2d.default, given, size, size)


def _pooled(lifting: Lifting, node: Node, is_kept: bool, target: Any, *args: Any) -> bool:
    """Let a node be a pool over all places; where the axes are not kept, it flattens what a new pool leaves."""
    if not is_kept:
        with lifting.graph.inserting_before(node):
            args, target = (lifting.graph.call_function(target, args), 1, 3), aten.flatten.using_ints
    node.target, node.args, node.kwargs = target, args, {}
    lifting.tall.update({node} if is_kept and len(lifting.shape(node)) == 3 else ())
    return True


def _axes(named: Any, rank: int) -> list[int]:
    """Axes counted from the front; all of them where none is named."""
    if named is None or named == []:
        return list(range(rank))
    return sorted({axis % rank for axis in (named if isinstance(named, list | tuple) else (named,))})


SPELLINGS: dict[str, Callable[[Lifting, Node], bool]] = {"conv2d": _written_out, "mean": _mean}
"""Other ways to write 2-D operators for which there are kernels; each says whether it is written anew."""


def _nothing(_lifting: Lifting, node: Node) -> bool:
    """A copy for another order in memory: the order of a lifted value is what the kernels read."""
    node.replace_all_uses_with(argument(node, 0, "self"))
    return True


def _in_order(_lifting: Lifting, node: Node) -> bool:
    """Elements are read in their order, which an axis of length 1 does not change."""
    node.target = aten.reshape.default  # a view would ask for a layout, too
    return True


def _flatten(lifting: Lifting, node: Node) -> bool:
    first, last = argument(node, 1, "start_dim", 0) % 3, argument(node, 2, "end_dim", -1) % 3
    if last != 2:
        return False
    node.args, node.kwargs = (node.args[0], first, 3), {}
    return True


def _squeeze(lifting: Lifting, node: Node) -> bool:
    """What is left of (N, C, 1, 1) or of (N, 1, 1, L) is the two axes that flattening leaves."""
    axes = _axes(argument(node, 1, "dim"), 3)
    if len(axes) > 1 or axes == [0] or lifting.shape(node.all_input_nodes[0])[axes[0]] != 1:
        return False
    node.target, node.args, node.kwargs = aten.flatten.using_ints, (node.args[0], 1, 3), {}
    return True


def _pad(lifting: Lifting, node: Node) -> bool:
    """Amounts are named from the last axis on; nothing is put above or below."""
    if operator_name(node) == "pad" and argument(node, 2, "mode", "constant") != "constant":
        return False
    amounts = argument(node, 1, "pad")
    amounts = [*amounts[:2], 0, 0, *amounts[2:]] if len(amounts) > 2 else amounts
    node.args = (node.args[0], amounts, *node.args[2:])
    lifting.tall.add(node)
    return True


CARRIES: dict[str, Callable[[Lifting, Node], bool]] = {
    "amax": _largest,
    "clone": _nothing,
    "constant_pad_nd": _pad,
    "contiguous": _nothing,
    "flatten": _flatten,
    "pad": _pad,
    "reshape": _in_order,
    "squeeze": _squeeze,
    "view": _in_order,
}
"""What computes the same on values with the new axis, besides element-wise operators; each says whether it does.

Others may compute the same, too, but their kernels refuse values whose channels lie last in memory.
"""
