"""Operators that only move elements: each is run, as it is, on the labels."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from shrinknet.graph.labels import Slots, compact, varying
from shrinknet.graph.rules.base import Call, rule, shape_of

AS_RESHAPE = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}


@rule(
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "squeeze",
    "unsqueeze", "expand", "movedim",
)  # fmt: skip
def movement(call: Call) -> Slots:
    """Whatever the operator does to the elements, it does to their labels."""
    out = []
    for slot in call.slots(call.argument(0)):
        moved = compact(_run(call.node, slot))
        if varying(slot) and not varying(moved):
            call.freeze((slot,), f"a single neuron is picked at {call.where}")
        else:
            out.append(moved)
    return tuple(out)


def _run(node: Node, slot: Tensor) -> Tensor:
    target: Any = torch.ops.aten.reshape.default if node.target in AS_RESHAPE else node.target

    def value(argument: Node) -> Any:
        return slot if argument is node.args[0] else int(argument.meta["val"].node.hint)

    moved = target(*map_arg(node.args, value), **map_arg(node.kwargs, value))
    assert moved.shape == shape_of(node.meta["val"]), (node, moved.shape)
    return moved if isinstance(moved, Tensor) else moved[0]
