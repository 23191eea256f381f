"""Operators that treat every element alone: activations, sums, products, dropout in eval mode."""

import torch

from shrinknet.graph.labels import Slots, varying
from shrinknet.graph.rules.base import Call, rule, shape_of


@rule("elementwise")
def elementwise(call: Call) -> Slots:
    """Elements that meet belong to one neuron; whoever meets values of fixed width is frozen."""
    shape = call.shape
    carried = [(node, compact_slot.expand(shape)) for node in call.tensors for compact_slot in call.slots(node)]
    out: list[torch.Tensor] = []
    for node, slot in carried:
        if _meets_fixed_width(call, node, slot):
            call.freeze((slot,), f"meets values of fixed width at {call.where}")
            continue
        partner = next((other for other in out if set(varying(other)) & set(varying(slot))), None)
        if partner is None:
            out.append(slot)
        else:
            call.unite(partner, slot)
    return tuple(out)


def _meets_fixed_width(call: Call, owner: torch.fx.Node, slot: torch.Tensor) -> bool:
    """Whether another operand spans an axis of the slot without carrying labels there."""
    axes = varying(slot)
    for other in call.tensors:
        shape = shape_of(other.meta["val"])
        offset = len(call.shape) - len(shape)
        covered = {axis + offset for labels in call.slots(other) for axis in varying(labels)}
        spanned = {axis + offset for axis, size in enumerate(shape) if size > 1}
        if other is not owner and (spanned - covered) & set(axes):
            return True
    return False


@rule("prelu")
def prelu(call: Call) -> Slots:
    """A slope for each channel (axis 1), or one for all."""
    x, slope = call.argument(0), call.argument(1)
    channels, labels = call.vector_along(x, 1), call.vector_along(slope, 0)
    if labels is not None and channels is not None:
        call.unite(channels, labels)
    return call.slots(x)
