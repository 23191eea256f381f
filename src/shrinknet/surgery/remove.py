"""Remove: take the slices of removed neurons out of the tensors (`mask` only multiplies by zero)."""

import copy
import operator
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from shrinknet.graph.groups import Layout
from shrinknet.graph.operators import operator_name
from shrinknet.graph.trace import Present, Trace, named_tensors

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


def cut_graph(trace: Trace, present: Present) -> GraphModule:
    """Return a new graph module without the removed neurons; the trace is not touched.

    Tensors are sliced, and the sizes that the graph writes down (views, channel groups) become those of what is left.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own pytree, copied by torch's own graph module
        module = copy.deepcopy(trace.module)
    slice_tensors(module, kept_indices(trace, present))
    for node in module.graph.nodes:
        if node.op == "call_function":
            _resize_arguments(node, trace.layouts, present)
    module.recompile()
    return module


def slice_tensors(module: nn.Module, kept: Kept) -> None:
    """Replace every cut tensor of a module by what is kept of it; a shared tensor stays shared."""
    sliced: dict[int, Tensor] = {}
    for name, tensor in named_tensors(module).items():
        if name not in kept:
            continue
        if id(tensor) not in sliced:
            sliced[id(tensor)] = _sliced(tensor, kept[name])
        owner, _, leaf = name.rpartition(".")
        setattr(operator.attrgetter(owner)(module) if owner else module, leaf, sliced[id(tensor)])


def _sliced(tensor: Tensor, axes: Mapping[int, tuple[int, ...]]) -> Tensor:
    smaller = tensor.detach()
    for axis, indices in axes.items():
        smaller = smaller.index_select(axis, torch.tensor(indices, device=tensor.device))
    smaller = smaller.contiguous()
    return nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller


def _resize_arguments(node: Node, layouts: Mapping[str, Layout], present: Present) -> None:
    """Rewrite the sizes in a node's arguments that follow a width."""
    name = operator_name(node)
    if name in {"view", "_unsafe_view", "reshape", "expand"}:
        _resize_sizes(node, 1, layouts.get(node.name, ()), present, first_axis=0)
    elif name == "unflatten":
        _resize_sizes(node, 2, layouts.get(node.name, ()), present, first_axis=_unflattened_axis(node))
    elif name in {"conv1d", "conv2d", "conv3d"} and len(node.args) > 6 and node.args[6] != 1:
        layout = layouts.get(node.args[0].name, ())  # type: ignore
        if len(layout) > 1 and layout[1] is not None:
            node.update_arg(6, int(np.count_nonzero(present[layout[1]])))


def _unflattened_axis(node: Node) -> int:
    source, axis = node.args[0], int(node.args[1])  # type: ignore[arg-type]
    return axis % source.meta["val"].dim()  # type: ignore[union-attr, no-any-return]


def _resize_sizes(node: Node, position: int, layout: Layout, present: Present, first_axis: int) -> None:
    sizes: list[Any] = list(node.args[position])  # type: ignore[arg-type]
    for place, size in enumerate(sizes):
        axis = first_axis + place
        ids = layout[axis] if axis < len(layout) else None
        if ids is not None and isinstance(size, int) and size != -1:
            sizes[place] = int(np.count_nonzero(present[ids]))
    node.update_arg(position, sizes)
