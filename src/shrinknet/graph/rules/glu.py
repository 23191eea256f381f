"""The gated linear unit: one half of an axis, times the sigmoid of the other."""

from shrinknet.graph.call import Call, rule
from shrinknet.graph.labels import Slots, along


@rule("glu")
def glu(call: Call) -> Slots:
    """`a * sigmoid(b)` with `a, b` the halves of an axis: unit j of a and unit j of b are one neuron."""
    x, axis = call.argument(0), call.argument(1, "dim", -1) % len(call.shape)
    labels = call.vector_along(x, axis)
    if labels is None:
        return call.passing(x, {axis})
    first, second = labels.chunk(2)
    call.unite(first, second)
    return (along(axis, first, call.shape),)
