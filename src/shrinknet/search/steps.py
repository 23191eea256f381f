"""The heart: steps, and when they end (design section 3).

`steps` removes neurons from a gated network, in the order that a method chooses; `until` passes them on until every
goal is reached or a guard is broken. Nothing is cut here: gates are cheap and can be undone.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from shrinknet.compensation.compensate import Compensation
from shrinknet.compensation.none import NoCompensation
from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Measures, Step
from shrinknet.engine.gates import GatedNetwork
from shrinknet.graph.widths import Present
from shrinknet.measure.costs import CostsOf
from shrinknet.measure.evaluation import Evaluation, evaluate_batches, other_answers
from shrinknet.search.goals import Goal
from shrinknet.search.guards import Guard
from shrinknet.search.methods import Choose
from shrinknet.search.price import Price
from shrinknet.search.rank import Choice, Limits, Ranked
from shrinknet.task.task import Task

Pace = Callable[[int, GatedNetwork], int]
"""How many neurons go at the next step, given the number of the last one and the network as it is."""


def measure(task: Task, network: GatedNetwork, costs_of: CostsOf) -> Measures:
    """Measure a masked network: losses, metrics, recalls and what it will cost once cut, by `costs_of`.

    Cost: one pass over the calibration data and one over the validation data.
    """
    return measures_of(task, network, costs_of, on_validation(task, network))


def on_validation(task: Task, network: GatedNetwork) -> Evaluation | None:
    """Evaluate a masked network on the validation data, where there are any."""
    return (
        None
        if task.validation is None
        else evaluate_batches(network.kept_outputs, task.loss, task.validation, task.metrics)
    )


def measures_of(task: Task, network: GatedNetwork, costs_of: CostsOf, validation: Evaluation | None) -> Measures:
    """Measure a masked network that was evaluated on the validation data before."""
    calibration = evaluate_batches(network.kept_outputs, task.loss, task.calibration)
    return Measures(
        calibration_loss=calibration.loss,
        validation_loss=validation.loss if validation else None,
        costs=costs_of(network.present),
        metrics=validation.metrics if validation else {},
        validation_recalls=validation.recalls if validation else None,
    )


def first_step(task: Task, network: GatedNetwork, costs_of: CostsOf) -> Step:
    """Return step 0: the untouched network."""
    started = time.perf_counter()
    validation = on_validation(task, network)
    measures = measures_of(task, network, costs_of, validation)
    for name, value in measures.metrics.items():
        if value is None:
            allowed = "ones that are finite numbers of the untouched network on validation data"
            raise BadInputError("metrics", allowed, f"{name!r}, which is none", "Leave it out, or look at those rows.")
    return Step(0, (), (), measures, time.perf_counter() - started, answers=other_answers(None, validation))


def steps(
    task: Task,
    network: GatedNetwork,
    choose: Choose,
    pace: Pace,
    last: Step,
    limit: Callable[[Measures], int | None],
    limits: Limits,
    costs_of: CostsOf,
    price: Price,
    compensation: Compensation | NoCompensation,
    reaches: Callable[[GatedNetwork], bool],
) -> Iterator[Step]:
    """Yield one step after another until no more can go.

    Args:
        task: what the network is measured on.
        network: the network as it is after step `last`.
        choose: the neurons still there, in the order in which they should go.
        pace: how many go at the next step.
        last: the step that came before.
        limit: how many may go at most, given what was measured last (None: no limit).
        limits: what every group keeps.
        costs_of: what a network costs.
        price: how much of what is scarce a neuron of each group frees.
        compensation: how the readers of what is gone make up for it.
        reaches: whether a network is small enough: of several neurons only as many go as that takes.
    """
    answered = on_validation(task, network)
    while True:
        started = time.perf_counter()
        room = limit(last.measures)
        wanted = pace(last.number, network)
        count = wanted if room is None else min(wanted, room)
        if count <= 0:
            return
        choice = choose(network, count)
        taken = as_many_as_needed(network, choice, count, limits, price(network, limits), reaches)
        if not taken:
            return
        removed, scores = zip(*taken, strict=True)
        network = compensation.refit(network.without(removed), removed)
        bare = compensation.bare_measures(network, lambda one: measure(task, one, costs_of))
        before, answered = answered, on_validation(task, network)
        measures, answers = measures_of(task, network, costs_of, answered), other_answers(before, answered)
        seconds = time.perf_counter() - started
        last = Step(last.number + 1, removed, scores, measures, seconds, choice.race, bare, answers)
        yield last


def as_many_as_needed(
    network: GatedNetwork,
    choice: Choice,
    count: int,
    limits: Limits,
    prices: Mapping[str, float],
    reaches: Callable[[GatedNetwork], bool],
) -> Ranked:
    """Return the first neurons of an order, at most `count`: fewer where fewer are enough."""

    def first(most: int) -> Ranked:
        return choice.first(network, most, limits, prices)

    def suffice(some: Ranked) -> bool:
        return reaches(network.without(neuron for neuron, _ in some))

    taken = first(count)
    if len(taken) <= 1 or not suffice(taken) or reaches(network):
        return taken
    low, high = 0, len(taken)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffice(first(middle)) else (middle, high)
    return first(high)


class Until:
    """Pass steps on until all goals are reached or a guard is broken; `reason` then says which.

    The step that breaks a guard is not passed on: it is undone. Goals and guards compare with the start.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        start: Step,
        goals: Sequence[Goal],
        guards: Sequence[Guard],
        last: Step,
        no_more: str = "one neuron is left in each group",
    ) -> None:
        self._steps, self._start, self._goals, self._guards = steps, start.measures, goals, guards
        self._no_more = no_more
        self._last = last
        self.reason = ""
        self.is_met = False
        self.undone: Step | None = None

    def __iter__(self) -> Iterator[Step]:
        if self._done(self._last):
            return
        for step in self._steps:
            broken = next((g for g in self._guards if g.broken(self._start, step.measures)), None)
            if broken is not None:
                self.undone = step
                self.reason = f"the next step would break the guard: {broken}"
                self.is_met = not self._goals
                return
            yield step
            if self._done(step):
                return
        self.reason = self._no_more
        self.is_met = not self._goals

    def _done(self, step: Step) -> bool:
        if self._goals and all(goal.reached(self._start, step.measures) for goal in self._goals):
            self.reason = "reached the goal: " + " and ".join(map(str, self._goals))
            self.is_met = True
        return self.is_met


def check_reachable(
    goals: Sequence[Goal],
    start: Measures,
    network: GatedNetwork,
    limits: Limits,
    costs_of: CostsOf,
    least_of: CostsOf,
    held_by: Callable[[Goal, Present], str] = lambda goal, present: "",
) -> None:
    """Raise BadInputError where even the smallest network that the limits leave does not reach a goal.

    Args:
        goals: what is asked for.
        start: the untouched network.
        network: the same, as it may be cut.
        limits: what every group keeps.
        costs_of: what a network costs, as forecast.
        least_of: what it and every larger one costs at least; asked only where the forecast is too high.
        held_by: what holds a goal's cost there, in words, where that is known.

    Cost: one walk over the graph.
    """
    present = smallest_present(network, limits)
    smallest = replace(start, costs=costs_of(present))
    if all(goal.reached(start, smallest) for goal in goals):
        return
    smallest = replace(start, costs=least_of(present))
    for goal in goals:
        if goal.reached(start, smallest):
            continue
        cost, unit = getattr(goal, "cost", "num_neurons"), getattr(goal, "unit", "neurons")
        before, least = getattr(start.costs, cost), getattr(smallest.costs, cost)
        held = f"at least {least:,} of {before:,} {unit} stay, whatever goes"
        why = held_by(goal, present) or "layers that are frozen or kept, and what every group keeps, hold the rest"
        do = "Ask for less, keep less, or look at the frozen layers with shrinknet inspect"
        raise BadInputError(
            "goals", f"within reach: {held} ({why})", str(goal), f"{do}; `whole_curve=True` goes on anyway."
        )


def smallest_present(network: GatedNetwork, limits: Limits) -> Present:
    """The neurons that stay where every group gives all that the limits let it give."""
    present = network.present.copy()
    left = {group.name: len(network.alive(group)) for group in network.groups}
    for bundle in limits.bundles(network.groups):
        left |= limits.smallest(bundle, left)
        for group in bundle:
            present[network.trace.ids_of(group).start + network.alive(group)[left[group.name] :]] = False
    return present


def room_left(goals: Sequence[Goal], start: Measures) -> Callable[[Measures], int | None]:
    """Return how many neurons the goals leave room for: exactly k go, never k + 1."""

    def limit(now: Measures) -> int | None:
        left = [count for goal in goals if (count := goal.neurons_left(start, now)) is not None and count > 0]
        return min(left) if left else None

    return limit
