"""Tensors made of nothing but a size: their widths follow what they meet."""

from typing import Any

import torch
from torch.fx import Node

from shrinknet.graph.call import FACTORIES, Call, resize, rule
from shrinknet.graph.labels import Slots, along
from shrinknet.graph.operators import operator_name
from shrinknet.graph.widths import Widths


@rule(*FACTORIES)
def factory(call: Call) -> Slots:
    """Each axis of fixed length gets labels of its own."""
    for slot in (slot for node in call.tensors for slot in call.slots(node)):
        call.store.say(slot)  # of the tensor that it is made beside, only the type is read
    fixed = [axis for axis, size in enumerate(call.node.meta["val"].shape) if isinstance(size, int) and size > 1]
    return tuple(along(axis, call.store.fresh(None, axis, call.shape[axis]), call.shape) for axis in fixed)


@resize(*FACTORIES)
def resize_factory(node: Node, widths: Widths) -> None:
    """The size that it is made with."""
    position = 1 if operator_name(node).startswith("new_") else 0
    sizes: Any = node.args[position]
    fixed = node.meta["val"].shape
    node.update_arg(
        position,
        [size if isinstance(fixed[axis], torch.SymInt) else widths.of(node, axis) for axis, size in enumerate(sizes)],
    )
