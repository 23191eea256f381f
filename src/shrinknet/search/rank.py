"""Rank: the one order that everything else follows."""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shrinknet.core.records import Group, Neuron, RaceResult, Tie
from shrinknet.core.scores import Scores
from shrinknet.engine.gates import GatedNetwork

Ranked = list[tuple[Neuron, float]]


@dataclass(frozen=True, slots=True)
class Choice:
    """The order in which neurons should go, and the race that it comes from, if it does.

    After a race only the first of the order are sure, as many as were asked for. Of those chosen in several rounds
    each was scored without the ones before it: they go as they stand (`is_settled`).
    """

    order: Ranked
    race: RaceResult | None = None
    is_settled: bool = False

    def first(
        self, network: GatedNetwork, count: int, limits: "Limits", prices: Mapping[str, float] | None = None
    ) -> Ranked:
        """Return the neurons that go next, `count` of them, while the limits hold (see `takeable`)."""
        if not self.is_settled:
            return takeable(network, self.order, count, limits, prices)
        places = [(neuron, float(place)) for place, (neuron, _) in enumerate(self.order)]
        scores = dict(self.order)
        return [(neuron, scores[neuron]) for neuron, _ in takeable(network, places, count, limits)]


def ranked(network: GatedNetwork, scores: Scores) -> Ranked:
    """Return the neurons that are still there with their scores, lowest first; ties by (group, index), NaN last.

    Groups count in the order of the graph. Dead ReLU neurons tie at zero, so ties are the common case.
    """
    alive = [(group, network.alive(group)) for group in network.groups]
    neurons = [Neuron(group.name, index) for group, indices in alive for index in indices.tolist()]
    values = np.concatenate([scores.values[group.name][indices] for group, indices in alive])
    return [(neurons[place], float(values[place])) for place in np.argsort(values, kind="stable").tolist()]


@dataclass(frozen=True, slots=True)
class Limits:
    """What every group keeps.

    Args:
        multiple_of: the length of every axis that shrinks with a group stays a multiple of this (8: SIMD), so that
            neurons go in blocks.
        min_neurons: at least so many neurons of each group stay.
        ties: groups that shrink together.
    """

    multiple_of: int = 1
    min_neurons: int = 1
    ties: tuple[Tie, ...] = ()

    def bundles(self, groups: Iterable[Group]) -> list[tuple[Group, ...]]:
        """Return the groups, those together that shrink together; none of those that stay whole."""
        found = {group.name: group for group in groups}
        tied = [tuple(found[name] for name in tie.groups if name in found) for tie in self.ties if not tie.is_fixed]
        alone = found.keys() - {name for tie in self.ties for name in tie.groups}
        together = [*tied, *((group,) for group in found.values() if group.name in alone)]
        places = {name: place for place, name in enumerate(found)}
        return sorted(filter(None, together), key=lambda bundle: places[bundle[0].name])

    def block(self, bundle: Sequence[Group], alive: Mapping[str, int]) -> dict[str, int]:
        """Return how many neurons of each group have to go together, `alive` being there (none where they cannot).

        Of groups that shrink together the same share stays: with g the greatest common divisor of their widths,
        width / g of each go at once. A neuron that spans s elements of an axis keeps that axis a multiple of m where
        m / gcd(m, s) go at once.
        """
        each, left, step = self._parts(bundle, alive)
        target = (left - 1) // step * step
        if target < self._least(each):
            return {}
        return {name: (left - target) * count for name, count in each.items()}

    def smallest(self, bundle: Sequence[Group], alive: Mapping[str, int]) -> dict[str, int]:
        """Return how many neurons of each group are left, `alive` being there, once no block can go any more."""
        each, left, step = self._parts(bundle, alive)
        target = min(left, -(-self._least(each) // step) * step)
        return {name: alive[name] - (left - target) * count for name, count in each.items()}

    def _parts(self, bundle: Sequence[Group], alive: Mapping[str, int]) -> tuple[dict[str, int], int, int]:
        """How many of each group go at once, how many times they still can, and at how many times widths are right."""
        parts = math.gcd(*(group.width for group in bundle))
        each = {group.name: group.width // parts for group in bundle}
        left = min(alive[name] // count for name, count in each.items())
        return each, left, math.lcm(*(self._step(group, each[group.name]) for group in bundle))

    def _least(self, each: Mapping[str, int]) -> int:
        """How many times what goes at once has to stay."""
        return max(1, *(-(-self.min_neurons // count) for count in each.values()))

    def _step(self, group: Group, at_once: int) -> int:
        if self.multiple_of == 1:  # counting owners takes as long as the group is wide
            return 1
        spans = {sum(owner >= 0 for owner in part.owners) // group.width * at_once for part in group.slices}
        return math.lcm(*(self.multiple_of // math.gcd(self.multiple_of, span) for span in spans))

    @property
    def in_blocks(self) -> bool:
        """Whether several neurons may have to go together."""
        return self.multiple_of > 1 or any(not tie.is_fixed for tie in self.ties)

    def __str__(self) -> str:
        ties = (f", {', '.join(tie.by)} tied" for tie in self.ties)
        return f"multiple_of={self.multiple_of}, min_neurons={self.min_neurons}{''.join(ties)}"


def takeable(
    network: GatedNetwork,
    order: Iterable[tuple[Neuron, float]],
    count: int,
    limits: Limits | None = None,
    prices: Mapping[str, float] | None = None,
) -> Ranked:
    """Return the neurons that go next, `count` of them, while the limits hold.

    Of each group the next block (one neuron, unless widths stay multiples or groups shrink together) is the first of
    the order. The block goes whose scores, added up, rise least for each unit that it frees; ties by the order. With
    blocks, at least `count` go.

    Args:
        network: the masked network.
        order: its neurons with their scores, lowest first.
        count: how many go.
        limits: what every group keeps.
        prices: for each group, the units that one of its neurons frees; every neuron counts the same where left out.
    """
    limits, prices = limits or Limits(), prices or {}
    bundles = limits.bundles(network.groups)
    alive = {group.name: len(network.alive(group)) for group in network.groups}
    queues: dict[str, list[tuple[int, Neuron, float]]] = {name: [] for name in alive}
    for place, (neuron, score) in enumerate(order):
        queues[neuron.group].append((place, neuron, score))
    starts = dict.fromkeys(alive, 0)
    waiting: list[tuple[float, int, int, dict[str, int]]] = []

    def of(block: dict[str, int]) -> list[tuple[int, Neuron, float]]:
        return [one for name, size in block.items() for one in queues[name][starts[name] : starts[name] + size]]

    def offer(which: int) -> None:
        block = limits.block(bundles[which], alive)
        some = of(block)
        if block and len(some) == sum(block.values()):
            total = sum(score for _, _, score in some)
            key = for_each_unit(total, sum(size * prices.get(name, 1.0) for name, size in block.items()))
            heapq.heappush(waiting, (key, max(place for place, _, _ in some), which, block))

    for which in range(len(bundles)):
        offer(which)
    taken: Ranked = []
    while waiting and len(taken) < count:
        _, _, which, block = heapq.heappop(waiting)
        taken += [(neuron, score) for _, neuron, score in of(block)]
        for name, size in block.items():
            starts[name] += size
            alive[name] -= size
        offer(which)
    return taken


def for_each_unit(rise: float, units: int | float) -> float:
    """Return what decides between removals: the rise of the loss for each unit freed; a fall counts once for each unit.

    What frees nothing goes last of all that raises the loss; NaN behind everything.

    >>> for_each_unit(0.2, 4), for_each_unit(-0.2, 4), for_each_unit(0.2, 0)
    (0.05, -0.8, inf)
    """
    if math.isnan(rise):
        return math.inf
    if rise <= 0:
        return rise * units
    return rise / units if units > 0 else math.inf


def clipped(network: GatedNetwork, scores: Scores, how: str) -> Scores:
    """Return the scores with those of too steep a parabola set to the mean or median size.

    "Any change above a threshold was assigned a mean or median value" (Sharma, Wolfe, Raj 2017): with
    t the mean (or upper median) of |score| over the neurons that are still there, a score of size above t becomes t.
    A steep fall is mistrusted as much as a steep rise: both become +t.
    """
    if how == "none":
        return scores
    alive = [scores.values[group.name][network.alive(group)] for group in network.groups]
    sizes = np.sort(np.abs(np.concatenate(alive)))
    limit = float(sizes.mean() if how == "mean" else sizes[len(sizes) // 2])
    values = {name: np.where(np.abs(vector) > limit, limit, vector) for name, vector in scores.values.items()}
    return replace(scores, values=values)
