"""Operators without a rule, written as operators that have one, by torch's own decompositions.

So aliases (`concat`, `hstack`, `narrow`, `multiply`), cells of recurrent networks and whatever else torch calls
composite need no rule. An operator whose pieces have no rule either stays as it is, and freezes what it touches.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from shrinknet.graph.call import RULES, load_rules
from shrinknet.graph.operators import ELEMENTWISE, REWRITTEN, returning
from shrinknet.graph.regions import inline

aten = torch.ops.aten


def decompose(graph: Graph) -> None:
    """Write every operator that no rule follows as operators that rules follow, where torch knows how."""
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(node.target, OpOverload) and not is_followed(node.target):
            parts = pieces(node, _decompositions()) if node.target in _decompositions() else None
            if parts is not None:
                inline(node, parts.graph, node.all_input_nodes)


def is_followed(target: Any) -> bool:
    """Whether a rule follows an operator, or the one that it is in place, or that it is written as later."""
    if not isinstance(target, OpOverload):
        return True  # getitem, and arithmetic of sizes
    target = returning(target) or target
    name = target._schema.name.removeprefix("aten::")
    return name in RULES or name in ELEMENTWISE or name in REWRITTEN or torch.Tag.pointwise in target.tags


def _extremes(x: Tensor, axis: int, keepdim: bool = False, *, largest: bool) -> tuple[Tensor, Tensor]:
    values, places = (aten.amax, aten.argmax) if largest else (aten.amin, aten.argmin)
    return values(x, [axis], keepdim), places(x, axis, keepdim)


def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = (given.reshape(-1, given.shape[-1]) for given in (x, y))
    out: Tensor = aten.einsum("ni,oij,nj->no", [next(rows), weight, next(rows)]).reshape(*x.shape[:-1], weight.shape[0])
    return out if bias is None else out + bias


OWN: dict[Any, Callable[..., Any]] = {
    aten.max.dim: partial(_extremes, largest=True),
    aten.min.dim: partial(_extremes, largest=False),
    aten.max.default: lambda x: aten.amax(x),
    aten.min.default: lambda x: aten.amin(x),
    aten.var_mean.correction: lambda x, axes=None, **how: (
        aten.var(x, axes, **how),
        aten.mean(x, axes, how.get("keepdim", False)),
    ),
    aten.bilinear.default: _bilinear,
    aten.narrow_copy.default: lambda x, axis, start, length: x.narrow(axis, start, length).clone(),
    aten.dist.default: lambda x, y, p=2: aten.linalg_vector_norm(x - y, p),
}
"""Decompositions that torch lacks, or has in operators that no rule follows. What nobody reads of one is left out."""


@cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """How each operator without a rule is written in others: core decompositions, composite kernels, our own."""
    load_rules()
    core = core_aten_decompositions().items()
    table = {target: how for target, how in core if not (is_followed(target) or target._schema.is_mutable)}
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"):
        namespace, _, packet = name.partition("::")
        packet, _, overload = packet.partition(".")
        if namespace == "aten" and hasattr(aten, packet):
            target = getattr(getattr(aten, packet), overload or "default")
            if not is_followed(target):
                table[target] = target.decompose
    return table | OWN


def pieces(node: Node, table: Mapping[Any, Callable[..., Any]], *, pre_dispatch: bool = True) -> GraphModule | None:
    """Return the graph of what an operator is made of; None where torch does not know, or no rule follows a piece.

    Args:
        node: the operator, with the traced values that it is given.
        table: how operators are written in others.
        pre_dispatch: stop at operators that torch calls composite, where the table does not have them.
    """
    target = node.target
    given = node.all_input_nodes

    def call(*values: Any) -> Any:
        known = dict(zip(given, values, strict=True))
        args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
        return target(*args, **kwargs)  # type: ignore[operator]

    examples = [one.meta["val"] for one in given]
    try:
        parts = make_fx(call, table, "symbolic", pre_dispatch=pre_dispatch)(*examples)
    except Exception:  # whatever a decomposition raises on values that are not there
        return None
    is_known = all(_is_known(piece) for piece in parts.graph.nodes)
    return parts if is_known and _alike(node.meta["val"], _result(parts)) else None


def _is_known(piece: Node) -> bool:
    """Whether labels get past a piece: a rule follows it, or no tensor goes in."""
    if piece.op != "call_function" or not isinstance(piece.target, OpOverload):
        return piece.op != "get_attr"
    if piece.target._schema.is_mutable and returning(piece.target) is None:
        return False
    return is_followed(piece.target) or not any(isinstance(one.meta["val"], Tensor) for one in piece.all_input_nodes)


def _result(parts: GraphModule) -> Any:
    """The traced value of a graph's output."""
    return map_arg(parts.graph.output_node().args[0], lambda node: node.meta["val"])


def _alike(one: Any, other: Any) -> bool:
    """Whether traced values have the same types and sizes, those that follow the samples included."""
    pairs = list(zip(tree_leaves(one), tree_leaves(other), strict=True))
    is_tensors = all(isinstance(value, Tensor) for pair in pairs for value in pair)
    return is_tensors and all(str(a.shape) == str(b.shape) and a.dtype == b.dtype for a, b in pairs)
