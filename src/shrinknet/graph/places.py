"""Places that the graph itself names: those that an operator picks, and those that neurons had before others went."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from shrinknet.graph.widths import shape_of

aten = torch.ops.aten


def constant(node: Any) -> Tensor | None:
    """Return the value of a node that depends on no input and on no chance; None for any other."""
    if not isinstance(node, Node) or node.op == "placeholder":
        return None
    if node.op == "get_attr":
        value = attrgetter(str(node.target))(node.graph.owning_module)
        return value if isinstance(value, Tensor) else None
    is_random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    known = {given: constant(given) for given in node.all_input_nodes}
    if is_random or node.op != "call_function" or any(value is None for value in known.values()):
        return None
    args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
    value = node.target(*args, **kwargs)  # type: ignore[operator]
    return value if isinstance(value, Tensor) else None


def whole_numbers(node: Any) -> list[int] | None:
    """Return the places that an index picks, where it is one list of them that never changes."""
    shape = getattr(node.meta.get("val"), "shape", ()) if isinstance(node, Node) else ()
    value = constant(node) if len(shape) == 1 else None
    is_index = value is not None and not (value.is_floating_point() or value.dtype == torch.bool)
    return value.tolist() if value is not None and is_index else None


def written(before: Node, places: Sequence[int]) -> Node:
    """Return a new constant of the graph that holds some places, in front of a node."""
    module, name = before.graph.owning_module, f"{before.name}_places"
    assert module is not None
    while hasattr(module, name):
        name += "_"
    setattr(module, name, torch.tensor(list(places), dtype=torch.int64, device=before.meta["val"].device))
    with before.graph.inserting_before(before):  # as torch.export keeps constants: no buffer, so that no file has it
        return before.graph.create_node("get_attr", name)


def pick(node: Node, x: Node, axis: int, places: Sequence[int]) -> None:
    """Turn a node into the one that picks these places of an axis of x."""
    node.args, node.kwargs = (x, axis % len(shape_of(x.meta["val"])), written(node, places)), {}
    node.target = aten.index_select.default
