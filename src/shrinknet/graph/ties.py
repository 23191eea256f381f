"""Ties: groups that shrink together, so that the user's own class can hold what is left.

A class that says a width once has several axes of that width: the layers and directions of an `nn.LSTM`, the heads of
an `nn.MultiheadAttention` and what it reads and writes, the pieces of a `chunk`. The same share of each must stay.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.fx import GraphModule, Node

from shrinknet.core.records import Tie
from shrinknet.graph.configs import axes_by_number
from shrinknet.graph.groups import Ids
from shrinknet.graph.operators import module_of
from shrinknet.graph.rewrite import PIECE
from shrinknet.graph.trace import Trace

Axis = tuple[str, int]
"""A parameter and one of its axes."""

STAYS: Axis = ("", 0)
"""Stands among axes of one width where that width is not to change."""


@dataclass(frozen=True, slots=True)
class OneWidth:
    """Axes of which the same share must stay: for each, the neuron of each element (None: all of it stays)."""

    by: str
    axes: Sequence[Ids | None]


def ties_of(trace: Trace, model: nn.Module, *, of_config: bool = False) -> tuple[Tie, ...]:
    """Return which groups shrink together where a model's own classes (or its Hugging Face config) say a width once.

    Groups that lie along axes of one width, or beside one another along one of them, are tied, and so are those that
    are tied to the same group. An axis with elements that never go fixes them; so do widths without a common divisor.
    A graph (of a `.pt2` file) is no class of anybody's: it ties nothing.

    >>> import torch
    >>> from shrinknet.graph.trace import trace
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.lstm, self.head = nn.LSTM(4, 6, num_layers=2, batch_first=True), nn.Linear(6, 3)
    ...     def forward(self, x):
    ...         return self.head(self.lstm(x)[0][:, -1])
    >>> model = Net()
    >>> [tie.groups for tie in ties_of(trace(model, torch.randn(2, 5, 4)), model)]
    [('lstm.weight_ih_l0[0]', 'lstm.weight_ih_l1[0]')]
    """
    if isinstance(model, GraphModule):
        return ()
    names = np.array(["", *(group.name for group in trace.groups for _ in range(group.width))])
    found: list[tuple[set[str], set[str]]] = []
    for one in [*_of_classes(trace, model), *_of_splits(trace), *(_of_config(trace, model) if of_config else ())]:
        along = {str(name) for ids in one.axes for name in ([""] if ids is None else np.unique(names[ids]))}
        found = _merged(found, along, {one.by}) if along - {""} else found
    order = {group.name: place for place, group in enumerate(trace.groups)}
    widths = {group.name: group.width for group in trace.groups}
    ties = []
    for along, by in found:
        groups = tuple(sorted(along - {""}, key=order.__getitem__))
        is_fixed = "" in along or math.gcd(*(widths[name] for name in groups)) == 1
        if is_fixed or len(groups) > 1:
            ties.append(Tie(groups, tuple(sorted(by)), is_fixed))
    return tuple(sorted(ties, key=lambda tie: order[tie.groups[0]]))


def _merged(found: list[tuple[set[str], set[str]]], along: set[str], by: set[str]) -> list[tuple[set[str], set[str]]]:
    """Put one set of groups to those that it shares a group with; "" stands for what stays, and is shared by nobody."""
    apart = [one for one in found if not (one[0] & along) - {""}]
    met = [one for one in found if (one[0] & along) - {""}]
    return [*apart, (along.union(*(groups for groups, _ in met)), by.union(*(who for _, who in met)))]


def _of_classes(trace: Trace, model: nn.Module) -> Iterator[OneWidth]:
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        for axes in _axes_of_one_width(module):
            own = [one if one is STAYS else (prefix + one[0], one[1]) for one in axes]
            yield _along(trace, f"{name!r} (nn.{type(module).__name__})", own)


def _of_config(trace: Trace, model: nn.Module) -> Iterator[OneWidth]:
    for path, axes in axes_by_number(model).items():
        yield _along(trace, f"{'.'.join(path)} (of {type(model.config).__name__})", axes)


def _along(trace: Trace, by: str, axes: Sequence[Axis]) -> OneWidth:
    """What lies along some axes of parameters, those that the graph knows."""
    known = {*trace.tensors, STAYS[0]}
    layouts = [trace.tensor_layouts.get(name, (None,) * (axis + 1))[axis] for name, axis in axes if name in known]
    return OneWidth(by, layouts)


def _axes_of_one_width(module: nn.Module) -> Iterator[list[Axis]]:
    """Yield the axes that have one width between them, as torch's own classes say it.

    A recurrent layer has one `hidden_size` for all layers and directions, and a `proj_size` that must stay below it:
    the same share of both stays or, where no share of both is whole, `proj_size` alone shrinks. Attention reads and
    writes as many values as its heads have together.
    """
    if isinstance(module, nn.RNNBase):
        names = [name for name, _ in module.named_parameters(recurse=False)]
        projections = [name for name in names if name.startswith("weight_hr")]
        if not projections:
            yield [(name, 1) for name in names if name.startswith("weight_hh")]
        elif math.gcd(module.hidden_size, module.proj_size) > 1:
            yield [(name, axis) for name in projections for axis in (0, 1)]
        else:
            yield [(name, 0) for name in projections]
            yield [STAYS, *((name, 1) for name in projections)]
    elif isinstance(module, nn.MultiheadAttention):
        of_inputs = [("in_proj_weight", 0), ("in_proj_weight", 1)]
        apart = [("q_proj_weight", 0), ("q_proj_weight", 1), ("k_proj_weight", 0), ("v_proj_weight", 0)]
        yield [*of_inputs, *apart, ("out_proj.weight", 0), ("out_proj.weight", 1)]


def _of_splits(trace: Trace) -> Iterator[OneWidth]:
    """Yield the axis of each value that code of the user's splits into equal pieces."""
    for node in trace.nodes:
        x, axis = node.args[:2] if node.meta.get(PIECE) else (None, None)
        if isinstance(x, Node) and isinstance(axis, int) and trace.layouts.get(x.name):
            where = repr(module_of(node)) if module_of(node) else "the model's own forward"
            yield OneWidth(f"a split in {where}", [trace.layouts[x.name][axis]])
