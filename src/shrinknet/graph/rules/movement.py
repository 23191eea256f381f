"""Operators that only move elements: each is run, as it is, on the labels."""

import operator
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from shrinknet.core.units import names_in
from shrinknet.graph.call import Call, argument, decomposed, resize, rule
from shrinknet.graph.labels import Slots, along, compact, varying
from shrinknet.graph.operators import operator_name
from shrinknet.graph.places import pick
from shrinknet.graph.widths import Widths, shape_of, size_of

RESHAPES = ("reshape", "unflatten")

MOVEMENTS = names_in("""
    flatten, permute, transpose, t, numpy_T, mT, squeeze, unsqueeze, movedim, swapaxes, repeat, tile,
    repeat_interleave, clone, alias, pixel_shuffle, pixel_unshuffle, diagonal, flip, contiguous, lift_fresh_copy,
    slice
""")


@rule(*RESHAPES, *MOVEMENTS)
def movement(call: Call) -> Slots:
    """Whatever the operator does to the elements, it does to their labels."""
    slots = call.slots(call.argument(0))
    for slot in slots:
        call.store.say(slot)  # what a slice leaves behind is read by nobody here
    return tuple(compact(_run(call.node, slot)) for slot in slots)


@rule("expand")
def expand(call: Call) -> Slots:
    """Repeats of one element get labels of their own: how many there are follows what they meet."""
    x, fixed = call.argument(0), call.node.meta["val"].shape
    before = (1,) * (len(fixed) - len(shape_of(x.meta["val"]))) + shape_of(x.meta["val"])
    repeats = [axis for axis, size in enumerate(fixed) if isinstance(size, int) and size > 1 == before[axis]]
    fresh = (along(axis, call.store.fresh(None, axis, call.shape[axis]), call.shape) for axis in repeats)
    return (*movement(call), *fresh)


@rule("getitem")
def getitem(call: Call) -> Slots:
    """One output of several: what has the shape of the first has its labels; a last state, those of its last axis."""
    whole, place = call.argument(0), call.argument(1)
    slots = call.slots(whole)
    if operator_name(whole) == "lstm" and place == 2 and len(whole.args[2]) % 2:  # cells, of which others are projected
        cells = call.vector_along(whole.args[2][-1], 1)
        return () if cells is None else (along(len(call.shape) - 1, cells, call.shape),)
    if all(slot.shape == call.shape for slot in slots):
        return slots
    units = call.vector_along(call.argument(0), -1)
    return () if units is None else (along(len(call.shape) - 1, units, call.shape),)


@rule("slice_scatter", "select_scatter")
def scatter(call: Call) -> Slots:
    """Elements of one tensor in the place of some of another's."""
    whole, part = call.argument(0), call.argument(1)
    is_run, out = "slice" in operator_name(call.node) and call.argument(5, "step", 1) == 1, []
    for slot in call.slots(whole):
        partner = next((given for given in call.slots(part) if is_run and varying(given) == varying(slot)), None)
        if partner is None:
            call.freeze((slot,), f"partly written over at {call.where}")
            continue
        call.store.say(slot)
        out.append(compact(_run(call.node, slot, partner)))
    return tuple(out)


@rule("select")
def select(call: Call) -> Slots:
    """One place of an axis: neurons that lie along that axis alone stay, others span it."""
    axis = call.argument(1) % len(shape_of(call.argument(0).meta["val"]))
    out = []
    for slot in call.slots(call.argument(0)):
        if varying(slot) == (axis,):
            call.freeze((slot,), f"a single neuron is picked at {call.where}")
        else:
            out.append(compact(_run(call.node, call.united(slot, set(varying(slot)) - {axis}))))
    return tuple(out)


@rule("sym_size")
def size(call: Call) -> Slots:
    """A length that the graph reads: where it would change, it must not."""
    x, axis = call.argument(0), call.argument(1)
    for slot in call.slots(x):
        if axis % slot.dim() in varying(slot):
            call.freeze((slot,), f"its width is read at {call.where}")
        call.store.say(slot)
    return ()


@decomposed("sym_size")
def size_of_one(x: Tensor, axis: int) -> int:
    """The length of an axis; torch's operator does not see it of many candidates at once."""
    return x.shape[axis]


def _run(node: Node, slot: Tensor, other: Tensor | None = None) -> Tensor:
    """Run the operator on the labels of its first argument (and its second); one that only views, as a reshape."""
    name, shape = operator_name(node), shape_of(node.meta["val"])
    if name in {"contiguous", "clone", "alias", "lift_fresh_copy"}:
        return slot.reshape(shape)

    def value(given: Node) -> Any:
        if other is not None and given is node.args[1]:
            return other
        return slot if given is node.args[0] else size_of(given.meta["val"])

    target: Any = node.target
    moved = target(*map_arg(node.args, value), **map_arg(node.kwargs, value))
    assert moved.shape == shape, (node, moved.shape)
    return moved if isinstance(moved, Tensor) else moved[0]


@resize(*RESHAPES, "expand")
def resize_sizes(node: Node, widths: Widths) -> None:
    """Sizes that the graph writes down become those of what is left."""
    position = 2 if operator_name(node) == "unflatten" else 1
    first = int(argument(node, 1)) % node.args[0].meta["val"].dim() if position == 2 else 0  # type: ignore
    sizes: Any = node.args[position]
    resized = [
        size if size == -1 else resized_to(node, size, widths, first + place) for place, size in enumerate(sizes)
    ]
    node.update_arg(position, resized)


def resized_to(node: Node, size: int | Node, widths: Widths, axis: int) -> int | Node:
    """Return the new size of an axis of a node; samples mixed with neurons are counted when the graph runs."""
    share = widths.share(node, axis)
    if share == 1:
        return size
    if isinstance(size, int):
        return widths.of(node, axis)
    with node.graph.inserting_before(node):
        product = node.graph.call_function(operator.mul, (size, share.numerator))
        return node.graph.call_function(operator.floordiv, (product, share.denominator))


@resize("slice", "slice_scatter")
def resize_slice(node: Node, widths: Widths) -> None:
    """Where a run begins and ends, counted in what is left before it; of every n-th element, the places."""
    x: Node = node.args[0]  # type: ignore[assignment]
    first = 1 if operator_name(node) == "slice" else 2
    axis = int(argument(node, first, "dim", 0))
    size = shape_of(x.meta["val"])[axis]
    if not widths.is_cut(x, axis):
        return
    if (step := argument(node, first + 3, "step", 1)) != 1:
        places = range(size)[argument(node, first + 1) : argument(node, first + 2) : step]
        pick(node, x, axis, [widths.before(x, axis, places[place]) for place in widths.kept(node, axis)])
        return
    for position, default in ((first + 1, 0), (first + 2, size)):
        given: Any = argument(node, position, default=default)
        place = default if given is None else min(given + size if given < 0 else given, size)
        if position < len(node.args):
            node.update_arg(position, widths.before(x, axis, place))
