"""From what the rules said to neurons and groups: solve, repair, number."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shrinknet.core.records import Frozen, Group, Slice
from shrinknet.graph.labels import Birth, Integers, LabelStore, Slots, compact, dense, varying, vector
from shrinknet.graph.names import owner_of

Ids = NDArray[np.int64]
Layout = tuple[Ids | None, ...]
"""For each axis of a tensor: the neuron id of each element (0: stays), or None where nothing is cut."""


Members = dict[tuple[Birth, int], list[int]]
"""The classes of each group: those born on one axis that lie on the same parameter axes (so that none runs empty)."""


@dataclass(frozen=True, slots=True)
class Numbering:
    """Every label's neuron id (1 to K; 0: never removed), the groups they form, and what is frozen."""

    ids: Ids
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]


def solve(store: LabelStore, slots: Mapping[str, Slots]) -> Numbering:
    """Find the classes of united labels and number those that can be removed, group by group.

    A class belongs to the group of the axis on which its smallest label was born. What would leave a tensor ragged
    is united first; a class that is alone on an axis is frozen, since an axis cannot become empty.
    """
    _repair_ragged(store, slots)
    _freeze_where_axes_would_clash(store, slots)
    components = store.components()
    _freeze_unmixed(store, components)
    _freeze_unwritten(store, components)
    _freeze_lone_classes(store, slots, components)
    reasons = store.reasons(components)
    ids, members = _number(store, components, reasons)
    groups = _groups(store, ids, members)
    return Numbering(ids, groups, _frozen(store, components, ids, reasons))


def layout_of(slots: Slots, ids: Ids, rank: int) -> Layout:
    """Return which neuron each element of each axis belongs to, once classes have numbers."""
    axes: list[Ids | None] = [None] * rank
    for slot in slots:
        named = compact(_mapped(slot, ids))
        for axis in varying(named):
            axes[axis] = dense(named).flatten().numpy()
    return tuple(axes)


def _mapped(slot: Tensor, ids: Integers) -> Tensor:
    """The slot with each label replaced by its number in `ids`."""
    small = dense(slot)
    return torch.from_numpy(ids[small.numpy()]).expand(slot.shape)


def _repair_ragged(store: LabelStore, slots: Mapping[str, Slots]) -> None:
    """Unite what varies on two axes along all but the one with most classes, until nothing does."""
    changed = True
    while changed:
        changed, components = False, store.components()
        for node_slots in slots.values():
            for slot in node_slots:
                named = compact(_mapped(slot, components))
                axes = varying(named)
                if len(axes) > 1:
                    changed = True
                    _unite_all_but_one(store, named, axes)


def _unite_all_but_one(store: LabelStore, slot: Tensor, axes: tuple[int, ...]) -> None:
    keep = max(axes, key=lambda axis: len(torch.unique(vector(slot, axis))))
    for axis in set(axes) - {keep}:
        store.unite(slot, slot.narrow(axis, 0, 1).expand_as(slot), "a ragged tensor cannot be cut")


def _freeze_where_axes_would_clash(store: LabelStore, slots: Mapping[str, Slots]) -> None:
    """Two families of neurons on one axis cannot both be cut there: the second is frozen."""
    components = store.components()
    for name, node_slots in slots.items():
        taken: dict[int, Tensor] = {}
        for slot in node_slots:
            named = compact(_mapped(slot, components))
            for axis in varying(named):
                if axis in taken and not torch.equal(taken[axis], named):
                    store.freeze(slot, f"shares an axis with other neurons at {name}")
                taken.setdefault(axis, named)


def _freeze_unmixed(store: LabelStore, components: Integers) -> None:
    """What is mixed with nothing is no neuron: an unused row of a table, a channel that is sliced away."""
    is_mixed = np.zeros(store.num_labels + 1, np.bool_)
    for labels in store.mixed:
        is_mixed[components[labels]] = True
    store.freeze(np.flatnonzero(~is_mixed[components]), "read by nobody")


def _freeze_unwritten(store: LabelStore, components: Integers) -> None:
    """Places of a window's output that meet no neuron hold what is beside them too: they stay, whoever goes."""
    reading, is_written = store.reading, np.zeros(store.num_labels + 1, np.bool_)
    for birth in store.births:
        if birth.parameter is not None and birth.start not in reading:
            is_written[components[birth.start : birth.start + birth.size]] = True
    for labels in store.unwritten:
        store.freeze(labels[~is_written[components[labels]]], "what a window gives, neighbours included")


def _freeze_lone_classes(store: LabelStore, slots: Mapping[str, Slots], components: Integers) -> None:
    for node_slots in slots.values():
        for slot in node_slots:
            if varying(slot) and not varying(compact(_mapped(slot, components))):
                store.freeze(slot, "one neuron alone spans an axis")


def _number(store: LabelStore, components: Integers, reasons: dict[int, str]) -> tuple[Ids, Members]:
    """Give the free classes numbers from 1, group by group, in the order of their births."""
    starts = np.array([birth.start for birth in store.births])
    axes = _axes_of_classes(store, components)
    members: Members = defaultdict(list)
    names = np.unique(components[1:])
    for name, place in zip(names.tolist(), np.searchsorted(starts, names, side="right").tolist(), strict=True):
        birth = store.births[place - 1]
        if name not in reasons and birth.parameter is not None:
            members[birth, int(axes[name])].append(name)
    for family in [family for family, classes in members.items() if len(classes) == 1]:
        reasons[members.pop(family)[0]] = "the only neuron of its group"
    number = np.zeros(store.num_labels + 1, np.int64)
    count = 0
    for classes in members.values():
        number[classes] = np.arange(count + 1, count + len(classes) + 1)
        count += len(classes)
    return number[components], members


def _axes_of_classes(store: LabelStore, components: Integers) -> NDArray[np.uint64]:
    """Return a number for each class that tells on which parameter axes it lies: a sum of random ones."""
    random = np.random.default_rng(0).integers(0, 2**64, len(store.births), np.uint64)
    axes = np.zeros(store.num_labels + 1, np.uint64)
    for birth, number in zip(store.births, random, strict=True):
        if birth.parameter is not None:
            axes[np.unique(components[birth.start : birth.start + birth.size])] += number
    return axes


def _groups(store: LabelStore, ids: Ids, members: Members) -> tuple[Group, ...]:
    read = store.reading
    slices: dict[int, list[Slice]] = defaultdict(list)
    bounds = np.cumsum([0] + [len(names) for names in members.values()])
    for birth in store.births:
        axis_ids = ids[birth.start : birth.start + birth.size]
        role = "reads" if birth.start in read else "writes"
        for group in np.unique(np.searchsorted(bounds, axis_ids[axis_ids > 0]) - 1).tolist():
            inside = (axis_ids > bounds[group]) & (axis_ids <= bounds[group + 1])
            owners = np.where(inside, axis_ids - bounds[group] - 1, -1)
            if birth.parameter is not None:
                slices[group].append(Slice(birth.parameter, birth.axis, role, tuple(owners.tolist())))
    names = _names([birth for birth, _ in members])
    widths = [len(classes) for classes in members.values()]
    return tuple(Group(name, widths[place], tuple(slices[place])) for place, name in enumerate(names))


def _names(births: list[Birth]) -> list[str]:
    """Call each group by the module that it is born in, "layer1.0.conv1"; by parameter and axis where several axes of
    one module give birth to groups; and a second group of the same axis "layer1.0.conv1/2"."""
    axes: dict[str, set[Birth]] = defaultdict(set)
    for birth in births:
        axes[owner_of(str(birth.parameter))].add(birth)
    names, seen = list[str](), defaultdict[str, int](int)
    for birth in births:
        module = owner_of(str(birth.parameter))
        name = module if module and len(axes[module]) == 1 else f"{birth.parameter}[{birth.axis}]"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}/{seen[name]}")
    return names


def _frozen(store: LabelStore, components: Integers, ids: Ids, reasons: dict[int, str]) -> tuple[Frozen, ...]:
    frozen = []
    for birth in store.births:
        if birth.parameter is None:
            continue
        labels = np.arange(birth.start, birth.start + birth.size)
        kept = labels[ids[labels] == 0]
        counts: dict[str, int] = defaultdict(int)
        for name in components[kept].tolist():
            counts[reasons.get(name, "not reached by any rule")] += 1
        frozen += [Frozen(birth.parameter, birth.axis, count, reason) for reason, count in counts.items()]
    return tuple(frozen)
