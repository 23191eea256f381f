"""Operators that put tensors side by side."""

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.graph.call import Call, rule
from shrinknet.graph.labels import Slots, compact, varying
from shrinknet.graph.widths import shape_of


@rule("cat")
def cat(call: Call) -> Slots:
    """Along the joined axis labels stand one behind another; along the others they meet, and every part has some."""
    parts: list[Node] = [node for node in call.argument(0) if shape_of(node.meta["val"]) != (0,)]
    axis, joined = call.argument(1, "dim", 0) % len(call.shape), list[Tensor]()
    ahead = [call.slot_along(node, axis) for node in parts]
    if any(slot is not None for slot in ahead):
        whole = [_or_none(slot, node) for slot, node in zip(ahead, parts, strict=True)]
        joined.append(compact(torch.cat(whole, axis)))
    beside = [[slot for slot in call.slots(node) if axis not in varying(slot)] for node in parts]
    for slot in beside[0]:
        partners = [next((other for other in others if varying(other) == varying(slot)), None) for others in beside[1:]]
        if any(partner is None for partner in partners):
            continue  # forgotten here, frozen by the engine
        first = slot.narrow(axis, 0, 1)
        for partner in partners:
            call.unite(first, partner.narrow(axis, 0, 1))  # type: ignore[union-attr]
        joined.append(first.expand(call.shape))
    return tuple(joined)


def _or_none(slot: Tensor | None, node: Node) -> Tensor:
    """Elements without labels are of no neuron: 0."""
    return torch.zeros((), dtype=torch.int64).expand(shape_of(node.meta["val"])) if slot is None else slot
