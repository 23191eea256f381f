"""Dense layers: the last axis of the input is mixed by a matrix."""

from torch.fx import Node

from shrinknet.graph.labels import Slots, along, varying
from shrinknet.graph.rules.base import Call, rule


@rule("linear")
def linear(call: Call) -> Slots:
    """`x W^T + b`: the weight's columns read, its rows write."""
    return _dense(call, 0, 1, reads=1, writes=0, bias=call.argument(2))


@rule("matmul", "mm")
def matmul(call: Call) -> Slots:
    """`x W` with a matrix W that holds parameters."""
    return _dense(call, 0, 1, reads=0, writes=1, bias=None)


@rule("addmm")
def addmm(call: Call) -> Slots:
    """`b + x W`."""
    return _dense(call, 1, 2, reads=0, writes=1, bias=call.argument(0))


def _dense(call: Call, data: int, weight: int, *, reads: int, writes: int, bias: Node | None) -> Slots:
    x, matrix = call.argument(data), call.argument(weight)
    if matrix.meta["val"].dim() != 2 or not call.slots(matrix):
        call.freeze(call.slots(x) + call.slots(matrix), f"no rule for {call.where} of two activations")
        return ()
    _contract(call, data, x, matrix, reads)
    out = call.vector_along(matrix, writes)
    if bias is not None and out is not None:
        bias_labels = call.vector_along(bias, -1)
        if bias_labels is None:
            call.freeze((out,), f"its bias has a fixed width at {call.where}")
        else:
            call.unite(out, bias_labels)
    passing = tuple(
        slot.narrow(-1, 0, 1).expand(call.shape) for slot in call.slots(x) if slot.dim() - 1 not in varying(slot)
    )
    return passing if out is None else (*passing, along(len(call.shape) - 1, out, call.shape))


def _contract(call: Call, data: int, x: Node, matrix: Node, reads: int) -> None:
    inputs, columns = call.vector_along(x, -1), call.vector_along(matrix, reads)
    if columns is not None:
        call.store.mark_read(columns)
    if inputs is not None and columns is not None:
        call.unite(inputs, columns)
        call.gate(data, -1)
    elif columns is not None:
        call.freeze((columns,), f"reads values of fixed width at {call.where}")
    elif inputs is not None:
        call.freeze((inputs,), f"read by a weight of fixed width at {call.where}")
