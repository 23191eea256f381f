"""The arena: where a planner puts the activations, and how long it is once neurons are gone.

The rule is ExecuTorch's greedy one (`executorch.exir.memory_planning.greedy`), for one memory: the largest value first;
each goes into the first buffer where nothing that lives at the same time is, else behind those that do if the buffer is
long enough, else into a new buffer as long as itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node
from torch.fx.node import map_arg

from shrinknet.graph.trace import Trace
from shrinknet.graph.widths import Present

ALIGNMENT = 16
"""Every value's length is rounded up to this many bytes."""

Axis = tuple[NDArray[np.int64] | None, int]
"""The neurons that an axis of a value runs over (None: none), and its length in the whole network."""


def length(axis: Axis, present: Present) -> int:
    """Return how long an axis is once only `present` neurons are there."""
    ids, size = axis
    return size if ids is None else size * int(np.count_nonzero(present[ids])) // len(ids)


@dataclass(frozen=True, eq=False)
class Value:
    """A value in the arena: its size, and the first and last step at which it must be there."""

    name: str
    axes: tuple[Axis, ...]
    element_size: int
    first: int
    last: int

    def num_bytes(self, present: Present) -> int:
        """Return its length once only `present` neurons are there, rounded up."""
        sizes = math.prod(length(axis, present) for axis in self.axes)
        return -(-sizes * self.element_size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Arena:
    """The values that a planner places, in the order in which it is given them, and how much it found they need."""

    num_bytes: int
    values: tuple[Value, ...] = ()

    def forecast(self, present: Present) -> int:
        """Return the length of the arena once only `present` neurons are there, by the planner's rule."""
        return planned([(value.num_bytes(present), value.first, value.last) for value in self.values])

    def at_peak(self, present: Present) -> list[tuple[Value, int]]:
        """Return the values that are there when most bytes are, with their lengths, the longest first."""
        sizes = [value.num_bytes(present) for value in self.values]
        moments = {value.first for value in self.values}

        def alive(moment: int) -> list[tuple[Value, int]]:
            pairs = zip(self.values, sizes, strict=True)
            return [(value, size) for value, size in pairs if value.first <= moment <= value.last and size]

        peak = max((alive(moment) for moment in sorted(moments)), key=lambda found: sum(size for _, size in found))
        return sorted(peak, key=lambda pair: -pair[1])


def planned(values: Sequence[tuple[int, int, int]]) -> int:
    """Return the length of an arena for (length, first, last) values, in the order in which the planner gets them.

    >>> planned([(64, 0, 1), (32, 1, 2), (64, 2, 3)])
    96
    """
    buffers: list[tuple[int, list[tuple[int, int, int, int]]]] = []
    largest_first = sorted(values, key=lambda value: value[0])
    largest_first.reverse()  # of equal lengths the last comes first
    for size, first, last in largest_first:
        for _, placed in buffers:
            if not any(first <= end and last >= begin for _, _, begin, end in placed):
                placed.append((0, size, first, last))
                break
        else:
            for room, placed in buffers:
                after = max(
                    (offset + length for offset, length, begin, end in placed if first <= end and last >= begin),
                    default=0,
                )
                if after > 0 and after + size <= room:
                    placed.append((after, size, first, last))
                    break
            else:
                buffers.append((size, [(0, size, first, last)]))
    return sum(room for room, _ in buffers)


def axes_of(shape: tuple[int, ...], node: Node | None, trace: Trace) -> tuple[Axis, ...]:
    """Return which neurons each axis of a lowered value runs over, found in the operator that it was made for.

    A value of that operator's own shape has its layout (axes of length 1 apart, in whatever order: weights may lie
    otherwise in memory); one that is longer where no neuron is, as padding makes it, too. Others, such as what an LSTM
    is taken apart into, are read axis by axis: an axis as long as one of the operator's values or weights, or a
    multiple.
    """
    if node is None:
        return tuple((None, size) for size in shape)
    known = [axes for given in (node, *_arguments(node)) if (axes := _axes(given, trace))]
    long = tuple(size for size in shape if size != 1)
    for axes in known:
        if tuple(size for _, size in axes) == long:
            return axes
    for axes in known:
        if are_those(axes, shape):
            return axes
    for axes in known:
        places = [place for place, (ids, _) in enumerate(axes) if ids is not None]
        if places and len(axes) == len(long) and all(axes[place][1] == long[place] for place in places):
            return tuple((ids, size) for (ids, _), size in zip(axes, long, strict=True))
    followed = [axis for axes in known for axis in axes if axis[0] is not None]
    return tuple((one_like(size, followed), size) for size in shape)


def are_those(axes: tuple[Axis, ...], shape: tuple[int, ...]) -> bool:
    """Whether a value of some shape has these axes, in whatever order; those of length 1 do not count."""
    return sorted(size for _, size in axes if size != 1) == sorted(size for size in shape if size != 1)


def tensors_of(node: Node | None, trace: Trace) -> list[tuple[Axis, ...]]:
    """Return the axes of each tensor of the network that an operator reads."""
    read = [] if node is None else [given for given in _arguments(node) if given.op == "get_attr"]
    return [_axes(given, trace) for given in read]


def one_like(size: int, axes: Sequence[Axis]) -> NDArray[np.int64] | None:
    """Return the neurons of the first axis of that length, else of the first whose length is a part of it."""
    equal = [ids for ids, length in axes if length == size]
    parts = [ids for ids, length in axes if size % length == 0]
    return next(iter(equal + parts), None)


def _axes(node: Node, trace: Trace) -> tuple[Axis, ...]:
    value = node.meta.get("val")
    if not hasattr(value, "shape"):
        return ()
    shape = trace.shape(node, trace.present())
    layout = trace.layouts.get(node.name) or trace.tensor_layouts.get(str(node.target)) or (None,) * len(shape)
    return tuple((ids, size) for ids, size in zip(layout, shape, strict=True) if size != 1)


def _arguments(node: Node) -> list[Node]:
    found: list[Node] = []
    map_arg((node.args, node.kwargs), found.append)
    return found
