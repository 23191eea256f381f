"""Regions of a graph that set autocast or gradients, written as their operators.

Autocast is written down: where torch would cast an argument first, the graph does.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shrinknet.core.turns import leaving_out
from shrinknet.graph.decompose import pieces
from shrinknet.graph.operators import operator_name
from shrinknet.graph.regions import inline
from shrinknet.graph.widths import shape_of

aten = torch.ops.aten

Casts = dict[Node, torch.dtype]
"""Which arguments of an operator are cast before it runs, and to what."""

FIRST_VALUE = {"wrap_with_autocast": 5, "wrap_with_set_grad_enabled": 2}
"""Nodes that stand for a region: at which place the values begin that it is called with (the region is before them)."""

RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
"""Operators that choose another kernel under autocast, which casts inside itself."""


def inline_regions(graph: Graph) -> None:
    """Put the operators of every region in its place, and of those inside it.

    A region stays as it is where an operator casts inside itself, and its pieces have no rule.
    """
    left: set[Node] = set()
    while regions := [node for node in graph.nodes if _is_region(node) and node not in left]:
        for node in regions:
            first = FIRST_VALUE[operator_name(node)]
            region = getattr(graph.owning_module, node.args[first - 1].target).graph
            if (
                operator_name(node) == "wrap_with_autocast"
                and node.args[2]
                and not _write_casts(region, *node.args[:2])
            ):
                left.add(node)
                continue
            inline(node, region, node.args[first:])


def _is_region(node: Node) -> bool:
    return node.op == "call_function" and operator_name(node) in FIRST_VALUE


def _write_casts(region: Graph, device: Any, dtype: Any) -> bool:
    """Cast what autocast casts: torch itself is asked, operator by operator, on values that are not there.

    Returns:
        Whether the region's operators now give what they gave under autocast.
    """
    for node in list(region.nodes):
        is_asked = node.op == "call_function" and operator_name(node) != "getitem" and not _is_region(node)
        if not is_asked or not node.all_input_nodes or not _types(node.meta.get("val")):
            continue
        if operator_name(node) in RECURRENT:
            return False
        with _autocast(device, dtype):
            casts = next((casts for casts in ({}, _casts(node)) if _explains(casts, node)), None)
            parts = pieces(node, {}, pre_dispatch=False) if casts is None else None
        if casts is not None:
            _cast(node, casts)
        elif parts is not None:
            inline(node, parts.graph, node.all_input_nodes)
        else:
            return False
    return True


def _cast(node: Node, casts: Casts) -> None:
    for given, wanted in casts.items():
        with node.graph.inserting_before(node):
            cast = node.graph.call_function(aten.to.dtype, (given, wanted))
        cast.meta = {**node.meta, "val": given.meta["val"].to(wanted)}
        node.replace_input_with(given, cast)


@contextmanager
def _autocast(device: Any, dtype: Any) -> Iterator[None]:
    with leaving_out(Warning), torch.autocast(device, dtype, cache_enabled=False):  # of a device that is not there
        yield


class _Recorder(TorchDispatchMode):
    """Remembers which tensors are cast to which type before anything else is done."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[Tensor, torch.dtype]] = []
        self.has_begun = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        is_cast = func is aten._to_copy.default and kwargs.get("dtype") is not None
        self.has_begun |= not is_cast and bool(_types(out))
        if is_cast and not self.has_begun:
            self.found.append((args[0], kwargs["dtype"]))
        return out


def _casts(node: Node) -> Casts:
    """Which arguments of a node are cast before it runs, and to what."""
    values = {given: _example(given.meta["val"]) for given in node.all_input_nodes}
    with _Recorder() as recorder:
        _run(node, values)
    return {given: to for value, to in recorder.found for given in values if values[given] is value}


def _explains(casts: Casts, node: Node) -> bool:
    """Whether an operator gives what was recorded without autocast, once its arguments are cast."""
    values = {given: _example(given.meta["val"]) for given in node.all_input_nodes}
    with torch.autocast(next(iter(_devices(node)), "cpu"), enabled=False):
        out = _run(
            node, {given: value.to(casts[given]) if given in casts else value for given, value in values.items()}
        )
    return out is not None and _types(out) == _types(node.meta["val"])


def _example(value: Any) -> Any:
    """A value like a traced one, with numbers for sizes: some operators take no symbols."""
    if isinstance(value, list | tuple):
        return [_example(one) for one in value]
    if not isinstance(value, Tensor):
        return int(value)
    with value.fake_mode:  # type: ignore[attr-defined]
        return torch.empty(shape_of(value), dtype=value.dtype, device=value.device)


def _devices(node: Node) -> set[str]:
    return {value.device.type for value in tree_leaves(node.meta["val"]) if isinstance(value, Tensor)}


def _types(values: Any) -> list[torch.dtype]:
    return [value.dtype for value in tree_leaves(values) if isinstance(value, Tensor)]


def _run(node: Node, values: Mapping[Node, Any]) -> Any:
    """Run a node on values that are not there; None where it cannot."""
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was_silent, logger.disabled = logger.disabled, True  # it would print what is expected here
    try:
        return node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, TypeError, NotImplementedError):  # types that do not meet; no kernel for symbols
        return None
    finally:
        logger.disabled = was_silent
