"""Operators that treat every element alone: activations, sums, products, dropout in eval mode."""

from torch import Tensor
from torch.fx import Node

from shrinknet.graph.call import Call, rule
from shrinknet.graph.labels import Slots, varying
from shrinknet.graph.widths import shape_of


@rule("elementwise")
def elementwise(call: Call) -> Slots:
    """Elements that meet belong to one neuron; whoever meets values of fixed width is frozen."""
    out: list[Tensor] = []
    carried = [(owner, given.expand(call.shape)) for owner in call.tensors for given in call.slots(owner)]
    for node, slot in carried:
        free = set(varying(slot)) - _rigid_axes(call, node, slot)
        if not free:
            call.freeze((slot,), f"meets values of fixed width at {call.where}")
            continue
        slot = call.united(slot, free)
        partner = next((other for other in out if set(varying(other)) & free), None)
        if partner is None:
            out.append(slot)
        else:
            call.unite(partner, slot)
    return tuple(out)


def _rigid_axes(call: Call, owner: Node, slot: Tensor) -> set[int]:
    """The axes along which another operand keeps elements of this slot together.

    It spans them without labels; or it has labels there, but is the same along another axis of the slot (a weight for
    each place of a head, the same in every head): then the slot's neurons are the heads, and the weight stays whole.
    """
    axes, rigid = set(varying(slot)), set[int]()
    for other in call.tensors:
        if other is owner:
            continue
        span, labelled = _spanned(call, other), [set(varying(given.expand(call.shape))) for given in call.slots(other)]
        rigid |= span - set[int]().union(*labelled)
        for covered in labelled:
            if covered & axes and axes - span:
                rigid |= covered
            if covered & axes and covered - _spanned(call, owner):
                rigid |= axes
    return rigid


def _spanned(call: Call, node: Node) -> set[int]:
    """The axes of the output along which an operand has more than one element."""
    shape = shape_of(node.meta["val"])
    offset = len(call.shape) - len(shape)
    return {axis + offset for axis, size in enumerate(shape) if size > 1}


@rule("to", "type_as", "_to_copy")
def cast(call: Call) -> Slots:
    """Of a second tensor only the type is read, whatever its shape."""
    for slot in (slot for node in call.tensors[1:] for slot in call.slots(node)):
        call.store.say(slot)
    return call.slots(call.argument(0))


@rule("prelu")
def prelu(call: Call) -> Slots:
    """A slope for each channel (axis 1), or one for all."""
    x, slope = call.argument(0), call.argument(1)
    if call.slots(slope):
        call.unite_all(call.vector_along(x, 1), call.vector_along(slope, 0))
    return call.slots(x)
