"""Looking rows up: embeddings and indices. Rows (the vocabulary) are never removed, the width of a row is."""

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.graph.call import Call, rule
from shrinknet.graph.labels import Slots, along, compact, varying
from shrinknet.graph.widths import shape_of


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
    """Places along indexed axes are data; labels along the others pass as the operator moves them."""
    x = call.argument(0)
    if "index_select" in str(call.node.target):
        return call.passing(x, {call.argument(1)})
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
