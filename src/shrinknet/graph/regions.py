"""Graphs inside a graph: their operators, put in the place of the node that stands for them."""

import operator
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from torch.fx import Graph, Node
from torch.fx.node import map_arg


def inline(node: Node, region: Graph, given: Sequence[Any]) -> None:
    """Put the operators of a region in a node's place; `given` are the values that the region is called with."""
    known: dict[Node, Any] = dict(zip(region.find_nodes(op="placeholder"), given, strict=True))
    with node.graph.inserting_before(node):
        for inner in region.nodes:
            if inner.op == "get_attr":
                known[inner] = _adopted(node.graph, inner)
            elif inner.op == "call_function":
                known[inner] = node.graph.node_copy(inner, known.__getitem__)
                known[inner].meta.setdefault("nn_module_stack", node.meta.get("nn_module_stack", {}))
    results: Any = map_arg(region.output_node().args[0], known.__getitem__)
    if isinstance(results, Node):
        node.replace_all_uses_with(results)
    else:
        for user in [user for user in node.users if user.target is operator.getitem]:
            user.replace_all_uses_with(results[user.args[1]])
            node.graph.erase_node(user)
    node.graph.erase_node(node)


def _adopted(graph: Graph, inner: Node) -> Node:
    """Give a constant, or a region inside the region, to the whole graph."""
    module, name = graph.owning_module, f"inner_{str(inner.target).replace('.', '_')}"
    assert module is not None
    while hasattr(module, name):
        name += "_"
    setattr(module, name, attrgetter(str(inner.target))(inner.graph.owning_module))
    adopted = graph.create_node("get_attr", name)
    adopted.meta = dict(inner.meta)
    return adopted
