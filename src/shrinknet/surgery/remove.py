"""Remove: take the slices of removed neurons out of the tensors (`mask` only multiplies by zero)."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from shrinknet.core.turns import leaving_out
from shrinknet.graph.call import RESIZES
from shrinknet.graph.operators import operator_name
from shrinknet.graph.trace import Trace, named_tensors
from shrinknet.graph.widths import Present

Module = TypeVar("Module", bound=nn.Module)

Kept = dict[str, dict[int, tuple[int, ...]]]
"""For each tensor that is cut, the indices kept along each cut axis: what rebuilds it from the original."""


def kept_indices(trace: Trace, present: Present) -> Kept:
    """Return what is kept of every tensor that loses something."""
    kept: Kept = {}
    for name, layout in trace.tensor_layouts.items():
        axes = {
            axis: tuple(np.flatnonzero(present[ids]).tolist())
            for axis, ids in enumerate(layout)
            if ids is not None and not present[ids].all()
        }
        if axes:
            kept[name] = axes
    return kept


def cut_graph(trace: Trace, present: Present, tensors: Mapping[str, Tensor] | None = None) -> GraphModule:
    """Return a new graph module without the removed neurons; the trace is not touched.

    `tensors` stand in for the network's own, by name: weights that were refit. Tensors are sliced, and the sizes that
    the graph writes down (views, channel groups) become those of what is left.
    """
    module = cut_copy(trace.module, kept_indices(trace, present), tensors)
    widths = trace.widths(present)
    for node in list(module.graph.nodes):
        if node.op == "call_function" and operator_name(node) in RESIZES:
            RESIZES[operator_name(node)](node, widths)
    module.recompile()
    return module


def cut_copy(module: Module, kept: Kept, tensors: Mapping[str, Tensor] | None = None) -> Module:
    """Return a copy of a module with every cut tensor replaced by what is kept of it; shared tensors stay shared.

    `tensors` stand in for the module's own, by name.
    """
    own, memo = named_tensors(module), _stale(module)
    others = {name: _in_place_of(own[name], tensor) for name, tensor in (tensors or {}).items() if name in own}
    for name in (kept.keys() | others.keys()) & own.keys():
        memo.setdefault(id(own[name]), _sliced(others.get(name, own[name]), kept.get(name, {})))
    with leaving_out(FutureWarning):  # torch's own pytree, copied by torch's own graph module
        return copy.deepcopy(module, memo)


def _stale(module: nn.Module) -> dict[int, Any]:
    """What the last forward pass left on its modules (a computed weight), which is computed anew in the next: torch
    copies none that autograd made."""
    attributes = (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor))
    return {id(value): value.detach() for value in attributes if not value.is_leaf}


def _in_place_of(own: Tensor, other: Tensor) -> Tensor:
    value = other.detach().to(own)
    return nn.Parameter(value, own.requires_grad) if isinstance(own, nn.Parameter) else value


def _sliced(tensor: Tensor, axes: Mapping[int, tuple[int, ...]]) -> Tensor:
    smaller = tensor.detach()
    for axis, indices in axes.items():
        smaller = smaller.index_select(axis, torch.tensor(indices, device=tensor.device))
    smaller = smaller.contiguous()
    return nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller
