"""Products with a matrix of parameters: the last axis of the input is mixed."""

import math
from collections.abc import Callable

from torch.fx import Node

from shrinknet.graph.call import Call, macs, rule
from shrinknet.graph.labels import Slots, along, varying


@rule("linear")
def linear(call: Call) -> Slots:
    """`x W^T + b`: the weight's columns read, its rows write."""
    return _dense(call, 0, 1, reads=1, bias=call.argument(2, "bias"))


@rule("addmm")
def addmm(call: Call) -> Slots:
    """`b + x W`."""
    return _dense(call, 1, 2, reads=0, bias=call.argument(0))


def _dense(call: Call, data: int, weight: int, *, reads: int, bias: Node | None) -> Slots:
    x, matrix = call.argument(data), call.argument(weight)
    inputs, columns = call.vector_along(x, -1), call.vector_along(matrix, reads)
    if columns is not None:
        call.store.mark_read(columns)
    if call.unite_all(inputs, columns, how="reads") is not None:
        call.gate(data, -1)
    out = call.vector_along(matrix, 1 - reads)
    if bias is not None:
        out = call.unite_all(out, call.vector_along(bias, -1))
    passing = tuple(
        slot.narrow(-1, 0, 1).expand(call.shape) for slot in call.slots(x) if slot.dim() - 1 not in varying(slot)
    )
    return passing if out is None else (*passing, along(len(call.shape) - 1, out, call.shape))


@macs("linear", "addmm")
def dense_macs(node: Node, shape: Callable[[Node], tuple[int, ...]]) -> int:
    """Each output takes as many as there are inputs."""
    data: Node = node.args[1 if "addmm" in str(node.target) else 0]  # type: ignore[assignment]
    return math.prod(shape(node)) * shape(data)[-1]
