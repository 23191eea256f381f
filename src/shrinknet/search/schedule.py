"""A schedule: how the passes that a search may cost are spent on rankings, on exact ablation and on rows.

Many rankings come first: neurons stand in for one another, so that an order is stale soon. Next comes the exact
ablation of the few neurons that an estimate puts first, and more rows for the estimate last. Where measuring after each
ranking would take too much of the effort, a step has several rounds of ranking and removing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Step
from shrinknet.core.scores import Scores
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.sampled import Interactions
from shrinknet.graph.widths import Present
from shrinknet.measure.costs import CostsOf
from shrinknet.search.goals import Goal
from shrinknet.search.methods import Choose, Scorer
from shrinknet.search.price import Price
from shrinknet.search.rank import Choice, Limits, Ranked, ranked, takeable
from shrinknet.search.sets import apart
from shrinknet.search.steps import smallest_present

Estimator = Callable[[GatedNetwork], tuple[Scores, Interactions | None]]

FEW_ROWS = 64
"""An estimate looks at so many rows at least: rounds look at others each, and their mean is of more."""

GONE_EACH = 0.01
"""Rankings after which a smaller part of what is there goes are not worth what they cost."""

CANDIDATES = 3
"""So many times as many neurons as go are ablated exactly, where that can be afforded."""

LEAST_EXACT_ROWS = 128
"""On fewer rows an ablation says less than the estimate."""

SHARE_FOR_MEASURING, SHARE_FOR_RANKINGS = 0.15, 0.5
"""The part of an effort that is spent on measuring; of the rest, that on many rankings before a neuron is ablated."""

KEPT = 0.7
"""The weight of what the rounds before said, where a step has several."""

HALVINGS = 7
"""How many neurons have to go is found to this power of a half."""

BELIEVED, LEAST_BELIEVED = 0.1, 10
"""Where removals bring less than their share, that they bring it is believed as if it had been seen of that part of all
that have to go, and of so many neurons at least: what the first few fail to bring says little of the rest."""

LEAST_BROUGHT, MOST_BROUGHT = 0.25, 2.0
"""A removal brings at least and at most so many times what it brings where each group gives the same share."""

SPARE = 1.25
"""The last step may take so many times as many as seem to be needed: it ends where they are enough."""


@dataclass(frozen=True)
class Prices:
    """What a search pays, in forward passes over the calibration data.

    Attributes:
        measuring: measuring once, refitting where readers make up for what is gone, and finding how many go next.
        ranking: one ranking by the estimate, on all rows.
        candidate: the exact ablation of one neuron, on all rows.
        first: what the first refit takes more than those after it: each reader chooses how strongly it is held.
    """

    measuring: float
    ranking: float
    candidate: float
    first: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """How an effort is spent; costs are in forward passes over the calibration data.

    Attributes:
        passes: the effort.
        num_rows: how many rows the estimate looks at.
        num_exact_rows: on how many rows candidates are ablated exactly; 0 where none are.
        num_rounds: how often a step ranks and removes.
        prices: what measuring, a ranking and a candidate cost, on these rows.
    """

    passes: float
    num_rows: int
    num_exact_rows: int
    num_rounds: int
    prices: Prices

    @property
    def step(self) -> float:
        """What a step costs beside its candidates."""
        return self.prices.measuring + self.num_rounds * self.prices.ranking

    def steps_left(self, num_steps: int, num_gone: int, num_to_go: int) -> int:
        """Return how many more steps are affordable after so many; one ranking orders what is left in the end."""
        candidates = CANDIDATES * (num_gone + num_to_go) * self.prices.candidate
        left = self.passes - self.prices.first - num_steps * self.step - candidates - self.prices.ranking
        return max(1, int(left / self.step + 1e-9))

    def count(self, num_steps: int, num_gone: int, num_there: int, num_to_go: int) -> int:
        """Return how many neurons go next: the share of those that are there by which the steps left suffice.

        The last step ends where it is enough; one order of all is given to it whole.

        >>> schedule = Schedule(11.0, 100, 0, 1, Prices(0.0, 1.0, 0.0))
        >>> schedule.count(0, 0, 1024, 1023), schedule.count(0, 0, 1024, 2), schedule.count(9, 960, 64, 32)
        (512, 1, 64)
        """
        steps = self.steps_left(num_steps, num_gone, num_to_go)
        if steps == 1:
            if self.num_rounds == 1 and not self.num_exact_rows:
                return num_there
            return min(num_there, math.ceil(SPARE * num_to_go))
        share = 1 - math.pow(1 - min(num_to_go, num_there - 1) / num_there, 1 / steps)
        return max(1, min(num_to_go, math.ceil(share * num_there - 1e-9)))


def schedule_of(passes: float, prices: Prices, num_rows: int, num_neurons: int, num_to_go: int) -> Schedule:
    """Spend passes on rankings first, then on the exact ablation of candidates, then on rows.

    Args:
        passes: what may be spent.
        prices: what things cost, on all rows.
        num_rows: how many calibration rows there are.
        num_neurons: how many neurons there are.
        num_to_go: how many of them have to go, about.

    Raises:
        BadInputError: they are too few for one ranking.

    >>> found = schedule_of(95.0, Prices(1.0, 5.0, 0.155), 1000, 224, 130)
    >>> found.num_rounds, found.num_exact_rows, found.steps_left(0, 0, 130)
    (7, 815, 14)
    """

    least = least_passes(prices, num_rows)
    if passes < least:
        allowed = f"at least {least:.3g} forward passes over the calibration data, for one ranking"
        raise BadInputError("effort", allowed, f"{passes:.3g}", "Allow more, or give fewer calibration rows.")
    kept = 1 - min(num_to_go, num_neurons - 1) / num_neurons
    most = min(num_to_go, math.ceil(math.log(kept) / math.log(1 - GONE_EACH)))
    found = _spent(passes, prices, num_rows, num_to_go, most, SHARE_FOR_RANKINGS)
    return found if found.num_exact_rows else _spent(passes, prices, num_rows, num_to_go, most, 1.0)


def least_passes(prices: Prices, num_rows: int) -> float:
    """Return what a search takes at least: to measure once, and a ranking that chooses and one that orders the rest.

    >>> least_passes(Prices(1.0, 5.0, 0.155), 1000)
    1.64
    """
    return prices.first + prices.measuring + 2 * prices.ranking * min(num_rows, FEW_ROWS) / num_rows


def _spent(passes: float, prices: Prices, num_rows: int, num_to_go: int, most: int, share: float) -> Schedule:
    """Spend that share of what measuring leaves on rankings, at most so many; the rest on candidates, then on rows."""

    def on(rows: int) -> float:
        return prices.ranking * rows / num_rows

    rows = min(num_rows, FEW_ROWS)
    left = passes - prices.first
    steps = max(1, min(most, int(SHARE_FOR_MEASURING * left / prices.measuring)))
    left -= steps * prices.measuring
    rankings = max(1, min(most, int(share * left / on(rows)) - 1))
    steps = min(steps, rankings)
    rounds = -(-rankings // steps) if share * left >= (rankings + steps) * on(rows) else rankings // steps
    left -= (steps * rounds + 1) * on(rows)
    candidates = CANDIDATES * num_to_go * prices.candidate
    exact_rows = min(num_rows, int(left / candidates * num_rows)) if candidates else 0
    exact_rows = exact_rows if exact_rows >= min(num_rows, LEAST_EXACT_ROWS) else 0
    if exact_rows in (0, num_rows):
        left -= candidates * exact_rows / num_rows
        rows = min(num_rows, rows + max(0, int(left / (steps * rounds + 1) / prices.ranking * num_rows)))
    found = Prices(prices.measuring, on(rows), prices.candidate * exact_rows / num_rows, prices.first)
    return Schedule(passes, rows, exact_rows, rounds, found)


class Paced:
    """How many neurons go at each step, and how much of the search is done.

    Both are functions of the last step's number and of who is there, so that a run that was killed goes on as it would
    have. How many are still to go is found as if every group gave the same share; where those that went brought less
    (or more) than such a share, those to come are taken to bring as little.

    Args:
        schedule: how the effort is spent.
        start: the untouched network.
        limits: what every group keeps.
        reaches: whether a network is small enough.
    """

    def __init__(
        self, schedule: Schedule, start: GatedNetwork, limits: Limits, reaches: Callable[[GatedNetwork], bool]
    ) -> None:
        self._schedule, self._limits, self._reaches = schedule, limits, reaches
        self._all_to_go, self._num_neurons = to_go(start, limits, reaches), num_there(start)
        self._latest: tuple[Present, int] | None = None

    def count(self, num_steps: int, network: GatedNetwork) -> int:
        """Return how many neurons go next."""
        there = num_there(network)
        return self._schedule.count(num_steps, self._num_neurons - there, there, self._left(network))

    def fraction(self, num_steps: int, network: GatedNetwork) -> float:
        """Return which share of the steps is done: each takes about as long."""
        if self._reaches(network):
            return 1.0
        gone, left = self._num_neurons - num_there(network), self._left(network)
        return num_steps / (num_steps + min(left, self._schedule.steps_left(num_steps, gone, left)))

    def _left(self, network: GatedNetwork) -> int:
        """How many are still to go: the answer for the network that was asked for last is there already."""
        if self._latest is None or not np.array_equal(self._latest[0], network.present):
            self._latest = network.present, self._found_left(network)
        return self._latest[1]

    def _found_left(self, network: GatedNetwork) -> int:
        there, left = num_there(network), to_go(network, self._limits, self._reaches)
        gone = self._num_neurons - there
        brought = self._all_to_go - left
        believed = max(LEAST_BELIEVED, BELIEVED * self._all_to_go) if brought < gone else 0.0
        share = (brought + believed) / (gone + believed) if gone else 1.0
        left = min(there - 1, round(left / min(MOST_BROUGHT, max(LEAST_BROUGHT, share))))
        return max(1, left)


def num_there(network: GatedNetwork) -> int:
    """Return how many neurons are still there."""
    return sum(len(network.alive(group)) for group in network.groups)


def scheduled(
    schedule: Schedule, estimates: Sequence[Estimator], exact: Scorer | None, limits: Limits, price: Price
) -> Choose:
    """Choose in rounds by an estimate, and among the neurons that it puts first by exact scores.

    A step's rounds look at other rows each, and what the earlier ones said counts, too: scores of a network that has
    lost few neurons since are about the same, and their mean over more rows has less noise.

    Args:
        schedule: how many rounds there are.
        estimates: cheap scores of all neurons, and what those that go together do to each other where that is known;
            each by other rows.
        exact: scores of a network's candidates; None leaves the order to the estimate.
        limits: what every group keeps.
        price: what a neuron of each group frees.
    """

    def next_of(network: GatedNetwork, order: Ranked, count: int, interactions: Interactions | None) -> Ranked:
        prices = price(network, limits)

        def first(order: Ranked, count: int) -> Ranked:
            if interactions is None or count == 1:
                return takeable(network, order, count, limits, prices)
            return apart(network, order, count, limits, prices, interactions)

        if exact is None:
            return first(order, count)
        candidates = {neuron for neuron, _ in first(order, CANDIDATES * count)}
        if len(candidates) <= count:
            return first(order, count)
        scores = ranked(network, exact(network.among(candidates)))
        return first([one for one in scores if one[0] in candidates], count)

    def choose(network: GatedNetwork, count: int) -> Choice:
        turn = network.trace.num_neurons - num_there(network)
        scores, interactions = estimates[turn % len(estimates)](network)
        if count >= num_there(network):
            return Choice(ranked(network, scores))
        taken: Ranked = []
        for left in range(schedule.num_rounds, 0, -1):
            if taken:
                turn += 1
                newer, others = estimates[turn % len(estimates)](network)
                scores = _mean(scores, newer)
                interactions = None if interactions is None or others is None else interactions.mixed(others, KEPT)
            some = next_of(network, ranked(network, scores), -(-(count - len(taken)) // left), interactions)
            network = network.without(neuron for neuron, _ in some)
            taken += some
            if not some or len(taken) >= count:
                break
        return Choice(taken, is_settled=True)

    return choose


def _mean(before: Scores, now: Scores) -> Scores:
    """The mean of the scores of rounds, in which each earlier one counts less."""
    return Scores({name: KEPT * before.values[name] + (1 - KEPT) * one for name, one in now.values.items()}, now.unit)


def to_go(network: GatedNetwork, limits: Limits, reaches: Callable[[GatedNetwork], bool]) -> int:
    """Return how many neurons go until a network is small enough, about: every group gives the same share.

    Cost: `reaches` eight times.
    """
    smallest = smallest_present(network, limits)
    may_go = network.present & ~smallest
    spans = map(network.trace.ids_of, network.groups)
    given = [span.start + np.flatnonzero(may_go[span.start : span.stop]) for span in spans]

    def without(share: float) -> Present:
        present = network.present.copy()
        for ids in given:
            present[ids[: round(share * len(ids))]] = False
        return present

    low, high = 0.0, 1.0
    if reaches(network.with_present(without(high))):
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if reaches(network.with_present(without(middle))) else (middle, high)
    return max(1, sum(round(high * len(ids)) for ids in given))


def reaching(start: Step, goals: Sequence[Goal], costs_of: CostsOf) -> Callable[[GatedNetwork], bool]:
    """Return whether all goals are reached by a network, as its costs are forecast; never, where there are no goals."""

    def reaches(network: GatedNetwork) -> bool:
        now = replace(start.measures, costs=costs_of(network.present))
        return bool(goals) and all(goal.reached(start.measures, now) for goal in goals)

    return reaches
