"""Looking rows up: embeddings and indices. Rows (the vocabulary) are never removed, the width of a row is."""

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.graph.call import Call, resize, rule
from shrinknet.graph.labels import Slots, along, compact, varying
from shrinknet.graph.places import pick, whole_numbers
from shrinknet.graph.widths import Widths, shape_of


@rule("embedding")
def embedding(call: Call) -> Slots:
    """A row for each index: its columns are neurons."""
    table = call.argument(0)
    rows, columns = call.vector_along(table, 0), call.vector_along(table, 1)
    if rows is not None:
        call.freeze((rows,), f"rows are looked up at {call.where}")
    return () if columns is None else (along(len(call.shape) - 1, columns, call.shape),)


@rule("index", "index_select")
def index(call: Call) -> Slots:
    """Places along indexed axes are data; labels along the others pass as the operator moves them.

    Places that never change (a permutation of channels) move labels too.
    """
    x, (axis, places) = call.argument(0), _fixed(call.node)
    if places is not None:
        for slot in call.slots(x):
            call.store.say(slot)  # what is not picked is read by nobody here
        return tuple(compact(slot.index_select(axis, torch.tensor(places))) for slot in call.slots(x))
    if "index_select" in str(call.node.target):
        return call.passing(x, {axis})
    picks = call.argument(1)
    if any(isinstance(pick, Node) and pick.meta["val"].dtype == torch.bool for pick in picks):
        return ()
    indexed = {axis for axis, pick in enumerate(picks) if pick is not None}
    first = [pick if pick is None else torch.zeros(shape_of(pick.meta["val"]), dtype=torch.int64) for pick in picks]
    out = []
    for slot in call.slots(x):
        free = set(varying(slot)) - indexed
        if free:
            moved: Tensor = torch.ops.aten.index.Tensor(call.united(slot, free), first)
            out.append(compact(moved))
        else:
            call.freeze((slot,), f"rows are looked up at {call.where}")
    return tuple(out)


def _fixed(node: Node) -> tuple[int, list[int] | None]:
    """Return the axis along which an operator picks, and the places, where it picks along one and they never change."""
    x, given = node.args[0], node.args[1]
    size = shape_of(x.meta["val"])  # type: ignore[union-attr]
    if "index_select" in str(node.target):
        axis, index = int(given) % len(size), node.args[2]  # type: ignore[arg-type]
    else:
        picks = {axis: pick for axis, pick in enumerate(given) if pick is not None}  # type: ignore[arg-type]
        if len(picks) != 1:
            return 0, None
        ((axis, index),) = picks.items()
    places = whole_numbers(index)
    return axis, None if places is None else [place % size[axis] for place in places]


@resize("index", "index_select")
def resize_places(node: Node, widths: Widths) -> None:
    """Places that never change are counted in what is left before them."""
    x: Node = node.args[0]  # type: ignore[assignment]
    axis, places = _fixed(node)
    if places is not None and widths.is_cut(x, axis):
        pick(node, x, axis, [widths.before(x, axis, places[place]) for place in widths.kept(node, axis)])
