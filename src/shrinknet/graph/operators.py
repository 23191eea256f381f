"""What a node of the graph is, in words."""

import operator
from collections.abc import Set
from typing import Any

import torch
from torch.fx import Node

from shrinknet.core.units import names_in


def operators(text: str) -> frozenset[str]:
    """Return the set of operators that a text lists."""
    return frozenset(names_in(text))


ELEMENTWISE = operators("""
    hardswish, relu6, log_sigmoid, dropout, feature_dropout, alpha_dropout, detach, contiguous, type_as, rsub, to,
    where, masked_fill, zeros_like, ones_like, full_like, empty_like, floor_divide, fill
""")
"""Operators that treat every element alone (dropout does in eval mode) and that torch does not tag as such."""


REWRITTEN = operators("""
    stack, split, split_with_sizes, unsafe_split, unsafe_split_with_sizes, unbind, view, _unsafe_view, copy
""")
"""Operators without a rule that are written as others before labels ride (graph/rewrite.py)."""


ALIASES = operators("""
    view, _unsafe_view, reshape, flatten, unflatten, permute, transpose, t, numpy_T, mT, squeeze, unsqueeze, expand,
    expand_as, movedim, swapaxes, dropout, feature_dropout, alpha_dropout, detach, contiguous, to, type_as, slice,
    select, alias, diagonal
""")
"""Operators whose output shares its input's memory, or may (dropout does in eval mode)."""


LINEAR = ALIASES | operators("""
    add, sub, rsub, neg, cat, getitem, sum, mean, pad, constant_pad_nd, reflection_pad1d, reflection_pad2d,
    replication_pad1d, replication_pad2d, avg_pool1d, avg_pool2d, avg_pool3d, adaptive_avg_pool1d,
    adaptive_avg_pool2d, adaptive_avg_pool3d, roll, cumsum, slice_scatter, select_scatter, index, index_select,
    upsample_nearest2d, upsample_bilinear2d, pixel_shuffle, pixel_unshuffle, clone, repeat, tile, flip,
    lift_fresh_copy
""")
"""Operators that are linear (plus a constant) in all values that they are given, taken together."""

LINEAR_IN_EACH = operators("""
    mul, linear, addmm, mm, bmm, matmul, conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
""")
"""Operators that are linear in each value that they are given, the others held fast."""

LINEAR_IN_FIRST = frozenset({"div", "batch_norm"})
"""Operators that are linear in the first value that they are given, decomposed."""

TRAINING_ARGUMENT = 5

PIECEWISE_LINEAR = operators("""
    relu, relu6, leaky_relu, hardtanh, hardsigmoid, clamp, clamp_min, clamp_max, threshold, abs, max_pool1d,
    max_pool2d, max_pool3d, adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d, amax, amin, maximum,
    minimum
""")
"""Operators that are linear in pieces: their second derivative is 0 wherever it is anything."""


def is_linear_in_pieces(node: Node, given: Set[Node]) -> bool:
    """Whether a node's value is a piecewise linear function of some values that it is given, the others held fast.

    A second derivative then comes from nowhere but what follows. What is not known to be so is said not to be.
    """
    name, arguments = operator_name(node), [one for one in node.all_input_nodes if one in given]
    if name in LINEAR or name in PIECEWISE_LINEAR:
        return True
    if name in LINEAR_IN_EACH:
        return len(arguments) == 1 and sum(one in given for one in node.args) == 1
    is_plain = not node.kwargs and (name != "batch_norm" or not node.args[TRAINING_ARGUMENT])
    return name in LINEAR_IN_FIRST and is_plain and arguments == [node.args[0]]


def operator_name(node: Node) -> str:
    """Return the name of a node's ATen operator, without namespace and overload: "conv2d"."""
    if node.target is operator.getitem:
        return "getitem"
    return str(node.target).removeprefix("aten.").split(".")[0]


def returning(target: Any) -> Any:
    """Return the operator that returns what one in place writes into its first argument: `relu` of `relu_`."""
    name = target._schema.name.removeprefix("aten::")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    return next((other for other in overloads if _given(other) == _given(target)), None)


def _given(target: Any) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in target._schema.arguments]


def is_elementwise(node: Node) -> bool:
    """Whether a node's operator treats every element alone."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or operator_name(node) in ELEMENTWISE


def module_of(node: Node) -> str:
    """Return the name of the user's module that an operator stands in: "layer1.0" (the root: "")."""
    names = [name for name, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return next((name for name in reversed(names) if not name.startswith("_empty_nn_module_stack")), "")


def describe(node: Node) -> str:
    """Return an operator's name and the user's module it stands in: "conv2d (in 'layer1.0')"."""
    module = module_of(node)
    return f"{operator_name(node)} (in {module!r})" if module else operator_name(node)
