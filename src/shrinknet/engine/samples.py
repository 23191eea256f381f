"""Where the samples lie in each value of a graph: on an axis of their own, or with something else on one axis.

Attention and dense layers merge samples with positions, heads or windows: `[N, T, C]` becomes `[N T, C]`. Only a view
does that, and from the sizes before and after it follows how many elements of the new axis lie outside of the samples,
and how many inside each.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.graph.operators import ALIASES, LINEAR_IN_EACH, is_elementwise, operator_name
from shrinknet.graph.widths import shape_of

VIEWS = frozenset({"view", "_unsafe_view", "reshape", "flatten", "unflatten"})

ORDERLY = (ALIASES | LINEAR_IN_EACH | frozenset({
    "getitem", "split", "split_with_sizes", "chunk", "unbind", "cat", "clone", "pad", "constant_pad_nd",
    "softmax", "log_softmax", "layer_norm", "rms_norm", "group_norm", "batch_norm", "scaled_dot_product_attention",
    "sum", "mean", "amax", "amin", "var", "std", "linalg_vector_norm", "embedding", "glu",
})) - VIEWS  # fmt: skip
"""Operators, beside the element-wise ones, that leave the order of an axis whose length they leave. Of others it is not
known, and no row of theirs is taken for a sample's."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The axis of a value on which the samples lie, element `(o N + n) each + i` being one of sample n.

    Attributes:
        axis: which one.
        outer: how many times all samples stand there, one after the other.
        each: how many elements of each sample stand together.
    """

    axis: int
    outer: int = 1
    each: int = 1

    @property
    def are_alone(self) -> bool:
        """Whether the axis counts nothing but samples."""
        return self.outer == self.each == 1

    @property
    def lead(self) -> bool:
        """Whether the first axis begins with the first sample and ends with the last."""
        return self.axis == 0 and self.outer == 1

    def without(self, axis: int) -> "Samples":
        """Return where the samples lie once another axis was moved to the end."""
        return replace(self, axis=self.axis - (axis < self.axis))

    def spread(self, rows: Tensor) -> Tensor:
        """Return rows [samples, ...] as they stand on the axis: [elements, ...].

        >>> Samples(0, outer=2, each=2).spread(torch.tensor([5, 6])).tolist()
        [5, 5, 6, 6, 5, 5, 6, 6]
        """
        if self.are_alone:
            return rows
        shape = (self.outer, len(rows), self.each, *rows.shape[1:])
        return rows[None, :, None].expand(shape).flatten(0, 2)

    def gathered(self, value: Tensor) -> Tensor:
        """Return a value with the samples alone on the first axis, what else is on theirs on the second.

        >>> Samples(0, outer=2, each=2).gathered(torch.tensor([5, 5, 6, 6, 5, 5, 6, 6])).tolist()
        [[5, 5, 5, 5], [6, 6, 6, 6]]
        """
        first: Tensor = value.movedim(self.axis, 0)
        return first.reshape(self.outer, -1, self.each, *first.shape[1:]).transpose(0, 1).flatten(1, 2)

    def in_lanes(self, value: Tensor) -> Tensor:
        """Return a value [lanes, ...] as that of all lanes' samples, one lane after another: without the first axis."""
        apart = _unflattened(value, self.axis + 1, self.outer)
        return apart.movedim(0, self.axis + 1).flatten(self.axis, self.axis + 2)

    def repeated(self, value: Tensor, num_lanes: int) -> Tensor:
        """Return a value as that of so many lanes, each with the same samples."""
        if self.outer == 1:  # images keep their channels last: with an axis more they would not
            return torch.cat([value] * num_lanes, self.axis)
        apart = _unflattened(value, self.axis, self.outer)
        return torch.cat([apart] * num_lanes, self.axis + 1).flatten(self.axis, self.axis + 1)


def samples_in(nodes: Iterable[Node], counted: int | torch.SymInt) -> Mapping[Node, Samples]:
    """Return where the samples lie in each value that has them; left out where that is not known.

    Args:
        nodes: the graph's inputs and operators, in the order in which they run.
        counted: the symbol that counts the samples.
    """
    found: dict[Node, Samples] = {}
    if not isinstance(counted, torch.SymInt):
        return found
    for node in nodes:
        axes = _counting_axes(node)
        if len(axes) == 1 and (share := first_of(node).shape[axes[0]].node.expr / counted.node.expr).is_Integer:
            outer = 1 if share == 1 else _outer(node, axes[0], found)
            if outer is not None and int(share) % outer == 0:
                found[node] = Samples(axes[0], outer, int(share) // outer)
    return found


def first_of(node: Node) -> Any:
    """Return a node's traced value, or the first of them where there are several; None where it is no tensor."""
    value = node.meta.get("val")
    value = value[0] if isinstance(value, tuple | list) and value else value
    return value if isinstance(value, Tensor) else None


def _outer(node: Node, axis: int, found: Mapping[Node, Samples]) -> int | None:
    """How many times all samples stand on an axis with something else; None where that is not known."""
    shape, name = shape_of(first_of(node)), operator_name(node)
    if name in VIEWS:
        (seen,) = [one for one in node.all_input_nodes if first_of(one) is not None]
        if seen not in found:
            return None
        before = math.prod(shape_of(first_of(seen))[: found[seen].axis]) * found[seen].outer
        outer, rest = divmod(before, math.prod(shape[:axis]))
        return outer if outer and not rest else None
    if name not in ORDERLY and not is_elementwise(node):
        return None
    given = [one for one in node.all_input_nodes if _counting_axes(one)]
    outers = {
        found[one].outer if one in found and _size(one, found[one].axis) == shape[axis] else None for one in given
    }
    return outers.pop() if len(outers) == 1 else None


def _unflattened(value: Tensor, axis: int, outer: int) -> Tensor:
    shape = (*value.shape[:axis], outer, value.shape[axis] // outer, *value.shape[axis + 1 :])
    return value.reshape(shape)


def _counting_axes(node: Node) -> list[int]:
    """The axes of a value whose lengths depend on the batch."""
    value = first_of(node)
    sizes = () if value is None else value.shape
    return [axis for axis, size in enumerate(sizes) if isinstance(size, torch.SymInt)]


def _size(node: Node, axis: int) -> int:
    return shape_of(first_of(node))[axis]
