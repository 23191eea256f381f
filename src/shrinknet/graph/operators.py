"""What a node of the graph is, in words."""

import operator

import torch
from torch.fx import Node

ELEMENTWISE = frozenset({
    "hardswish", "relu6", "log_sigmoid", "dropout", "feature_dropout", "alpha_dropout", "detach", "contiguous",
    "type_as", "rsub", "to", "where", "masked_fill", "copy", "zeros_like", "ones_like", "full_like", "empty_like",
})  # fmt: skip
"""Operators that treat every element alone (dropout does in eval mode) and that torch does not tag as such."""


ALIASES = frozenset({
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "mT", "squeeze",
    "unsqueeze", "expand", "expand_as", "movedim", "swapaxes", "dropout", "feature_dropout", "alpha_dropout", "detach",
    "contiguous", "to", "slice", "select", "alias", "diagonal",
})  # fmt: skip
"""Operators whose output shares its input's memory, or may (dropout does in eval mode)."""


def operator_name(node: Node) -> str:
    """Return the name of a node's ATen operator, without namespace and overload: "conv2d"."""
    if node.target is operator.getitem:
        return "getitem"
    return str(node.target).removeprefix("aten.").split(".")[0]


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
