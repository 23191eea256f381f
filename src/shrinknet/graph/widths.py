"""Widths: how long each axis is once some neurons are gone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from shrinknet.graph.groups import Layout

Present = NDArray[np.bool_]
"""One truth value for each neuron id: still there? Element 0 stands for all that is never removed."""

EXAMPLE_BATCH = 2
"""The number of samples that a network is traced with."""


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the traced shape of a node's value, the batch at its traced size."""
    return tuple(size_of(size) for size in value.shape)


def size_of(size: int | torch.SymInt) -> int:
    """Return a traced size as a number."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def kept_shape(shape: tuple[int, ...], layout: Layout, present: Present) -> tuple[int, ...]:
    """Return a shape with each axis as long as what is kept of it."""
    kept = list(shape)
    for axis, ids in enumerate(layout):
        if ids is not None:
            kept[axis] = kept[axis] * int(np.count_nonzero(present[ids])) // len(ids)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class Widths:
    """The widths of every value of a graph once only `present` neurons are there."""

    layouts: Mapping[str, Layout]
    present: Present

    def is_cut(self, node: Node, axis: int) -> bool:
        """Whether an axis of a node's value loses something."""
        return self.share(node, axis) != 1

    def share(self, node: Node, axis: int) -> Fraction:
        """Return which part of an axis is kept."""
        ids = self._ids(node, axis)
        return Fraction(1) if ids is None else Fraction(int(np.count_nonzero(self.present[ids])), len(ids))

    def of(self, node: Node, axis: int) -> int:
        """Return the new length of an axis (of traced size where it is the samples')."""
        return math.floor(shape_of(node.meta["val"])[axis] * self.share(node, axis))

    def before(self, node: Node, axis: int, position: int) -> int:
        """Return how many elements are kept before a position of an axis."""
        ids = self._ids(node, axis)
        return position if ids is None else int(np.count_nonzero(self.present[ids[:position]]))

    def kept(self, node: Node, axis: int) -> list[int]:
        """Return the places of an axis that are kept."""
        ids = self._ids(node, axis)
        size = shape_of(node.meta["val"])[axis]
        return list(range(size)) if ids is None else np.flatnonzero(self.present[ids]).tolist()

    def _ids(self, node: Node, axis: int) -> Any:
        layout = self.layouts.get(node.name)
        return None if layout is None else layout[axis]
