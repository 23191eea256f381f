"""Labels: an integer for every element of every parameter axis, and what the operators say about them.

A *slot* is an integer tensor of a node's own shape that names the neuron each element belongs to (0: none). Axes on
which it does not vary are kept at stride 0, so that a slot costs what its varying axes cost. A parameter has a slot
for each axis, an activation usually one. An element is removed when any of its slots names a removed neuron.

Rules only append facts (`unite`, `freeze`, `read`); connected components are found once, at the end.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

MANY_PAIRS = 2**15
"""Beyond that many pairs, equal ones are dropped before they are kept."""

Slots = tuple[Tensor, ...]
Integers = NDArray[np.int64]


def compact(slot: Tensor) -> Tensor:
    """Return the same slot with every axis on which it is constant at stride 0."""
    for axis in varying(slot):
        small = dense(slot)
        if bool((small == small.narrow(axis, 0, 1)).all()):
            slot = slot.narrow(axis, 0, 1).expand_as(slot)
    return slot


def varying(slot: Tensor) -> tuple[int, ...]:
    """Return the axes on which a compact slot varies."""
    return tuple(axis for axis in range(slot.dim()) if slot.shape[axis] > 1 and slot.stride(axis) != 0)


def dense(slot: Tensor) -> Tensor:
    """Return the slot with its constant axes narrowed to one element: its values, each once."""
    for axis in set(range(slot.dim())) - set(varying(slot)):
        slot = slot.narrow(axis, 0, min(1, slot.shape[axis]))
    return slot


def along(axis: int, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a slot of that shape that varies on one axis only, with the given values there."""
    view = [1] * len(shape)
    view[axis] = len(values)
    return values.view(view).expand(shape)


def vector(slot: Tensor, axis: int) -> Tensor:
    """Return the labels along one axis, read at the first place of every other axis."""
    return slot[tuple(slice(None) if other == axis else 0 for other in range(slot.dim()))]


@dataclass(frozen=True, slots=True)
class Birth:
    """Where a run of labels was given out: one axis of one parameter, or (None) of a tensor made in the graph."""

    parameter: str | None
    axis: int
    start: int
    size: int


@dataclass(slots=True)
class LabelStore:
    """Everything the rules have said so far. The only thing in the graph package that changes while tracing."""

    births: list[Birth] = field(default_factory=list)
    edges: list[Integers] = field(default_factory=list)
    among_weights: list[Integers] = field(default_factory=list)
    frozen: list[tuple[Integers, str]] = field(default_factory=list)
    read: list[Integers] = field(default_factory=list)
    mixed: list[Integers] = field(default_factory=list)
    unwritten: list[Integers] = field(default_factory=list)
    num_labels: int = 0

    def fresh(self, parameter: str | None, axis: int, size: int) -> Tensor:
        """Give out `size` new labels for one axis of a parameter (None: of a tensor made in the graph)."""
        start = self.num_labels + 1
        self.births.append(Birth(parameter, axis, start, size))
        self.num_labels += size
        return torch.arange(start, start + size, dtype=torch.int64)

    def unite(self, one: Tensor, other: Tensor, reason: str) -> None:
        """Say that elements that meet belong to one neuron; whoever meets 0 is frozen for that reason."""
        one, other = torch.broadcast_tensors(one, other)
        for axis in range(one.dim()):
            if one.stride(axis) == 0 and other.stride(axis) == 0 and one.shape[axis] > 1:
                one, other = one.narrow(axis, 0, 1), other.narrow(axis, 0, 1)
        pairs = np.stack([one.flatten().numpy(), other.flatten().numpy()])
        if pairs.shape[1] > MANY_PAIRS:
            pairs = np.unique(pairs, axis=1)
        meets_none = (pairs == 0).any(axis=0)
        if meets_none.any():
            self.freeze(pairs[:, meets_none], reason)
            pairs = pairs[:, ~meets_none]
        self.edges.append(pairs)

    def freeze(self, labels: Tensor | Integers, reason: str) -> None:
        """Say that the neurons with these labels are never removed, and why."""
        values = names_in([labels]) if isinstance(labels, Tensor) else labels[labels > 0]
        if len(values):
            self.frozen.append((values, reason))

    def say(self, labels: Tensor) -> None:
        """Say that something is known about these labels: they were not forgotten."""
        values = names_in([labels])
        self.edges.append(np.stack([values, values]))

    def mark_mixed(self, labels: Tensor) -> None:
        """Say that these labels are read where neurons are mixed."""
        self.say(labels)
        self.mixed.append(names_in([labels]))

    def mark_unwritten(self, labels: Tensor) -> None:
        """Say that these labels are of neurons only where some parameter that they meet writes them."""
        self.unwritten.append(names_in([labels]))

    def mark_read(self, labels: Tensor) -> None:
        """Say that a parameter axis with these labels consumes neurons rather than produces them."""
        self.read.append(names_in([labels]))

    def forgotten_since(self, mark: tuple[int, int], given: Slots, out: Slots) -> Integers:
        """Return the labels of `given` that are not in `out`, and that nothing was said about since `mark`."""
        known = np.zeros(self.num_labels + 1, np.bool_)
        for edge in self.edges[mark[0] :]:
            known[edge] = True
        for labels, _ in self.frozen[mark[1] :]:
            known[labels] = True
        known[names_in(out)] = True
        labels = names_in(given)
        return labels[~known[labels]]

    @property
    def mark(self) -> tuple[int, int]:
        """A place in the record, for `forgotten_since`."""
        return len(self.edges), len(self.frozen)

    def components(self) -> Integers:
        """Return, for each label, the number of its class: its smallest label, a parameter's if there is one."""
        size, component = self.num_labels + 1, self._joined(self.edges)
        rank = np.arange(size)
        for birth in self.births:
            if birth.parameter is None:
                rank[birth.start : birth.start + birth.size] += size
        smallest = np.full(component.max() + 1, 2 * size, np.int64)
        np.minimum.at(smallest, component, rank)
        return np.asarray(smallest[component] % size, np.int64)

    def _joined(self, edges: list[Integers]) -> Integers:
        """Return a number for each label that says which labels some edges join it to."""
        size = self.num_labels + 1
        pairs = np.concatenate(edges, axis=1) if edges else np.empty((2, 0), np.int64)
        graph = scipy.sparse.coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(size, size))
        return np.asarray(scipy.sparse.csgraph.connected_components(graph, directed=False)[1], np.int64)

    @property
    def reading(self) -> set[int]:
        """The labels of parameter axes that consume neurons: those that were read, and those that they are made of."""
        read = np.concatenate(self.read) if self.read else np.empty(0, np.int64)
        joined = self._joined(self.among_weights)
        return set(np.flatnonzero(np.isin(joined, joined[read])).tolist())

    def reasons(self, components: Integers) -> dict[int, str]:
        """Return the first reason given for each frozen class."""
        first: dict[int, str] = {}
        for labels, reason in self.frozen:
            for name in set(components[labels].tolist()):
                first.setdefault(name, reason)
        return first


def names_in(slots: Iterable[Tensor]) -> Integers:
    """Return the labels in some slots, 0 left out (one may come twice)."""
    values = [dense(slot).flatten().numpy() for slot in slots]
    labels = np.concatenate(values) if values else np.empty(0, np.int64)
    return labels[labels > 0]
