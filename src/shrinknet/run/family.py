"""The family of a run: every budget's network from one order, and what a file's measurements say of goals.

All are functions of a run's facts. What is forecast is not what is measured: a goal missed by measurement gets harder,
and the search, or `at`, goes on.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from shrinknet.core.records import Measures, Neuron, Step, removed_by
from shrinknet.core.units import counted
from shrinknet.engine.gates import GatedNetwork, gate
from shrinknet.run.facts import AnyRun, Facts, finish
from shrinknet.run.together import compensation_for
from shrinknet.search.goals import Corrected, Goal, RemovedNeurons
from shrinknet.search.rank import Limits
from shrinknet.search.steps import measure
from shrinknet.search.typed import all_of, check_asked

PARTS_WHEN_SLOW = 20
"""Where a sample takes too long, this part of the neurons that are left goes before it is measured again."""

ROOM = 0.95
"""The search comes back up only where a file would fill less than this part of its budget: forecasts are 2 % off."""


def next_wanted(run: Facts, goals: Sequence[Goal], wanted: Sequence[Goal], max_latency: float | None) -> list[Goal]:
    """Return what the forecast must reach next, `wanted` until now: a goal missed by measurement gets harder."""
    by_measure, error = replace(run.measures, costs=run.measured), run.measured - run.measures.costs
    wanted = [
        until_now if goal.reached(run.history[0].measures, by_measure) else Corrected(goal, error)
        for goal, until_now in zip(goals, wanted, strict=False)
    ]
    if _is_slow(run, max_latency):
        kept = len(run.network.trace.present()) - 1 - len(run.plan.removed)
        return [*wanted, RemovedNeurons(len(run.plan.removed) + max(1, kept // PARTS_WHEN_SLOW))]
    return list(wanted)


def _is_slow(run: Facts, max_latency: float | None) -> bool:
    found = None if run.artefact is None else run.artefact.latency
    return max_latency is not None and found is not None and found.median_ms > max_latency


def misses(run: Facts, goals: Sequence[Goal], max_latency: float | None) -> list[str]:
    """Return what the measurements say against each goal that they do not meet."""
    by_measure = replace(run.measures, costs=run.measured)
    unmet = [goal for goal in goals if not goal.reached(run.history[0].measures, by_measure)]
    said = [f"{goal} not met: {_measured_text(run, goal)}" for goal in unmet]
    if max_latency is not None and _is_slow(run, max_latency):
        assert run.artefact is not None
        assert run.artefact.latency is not None
        said.append(f"a sample takes {run.artefact.latency.median_ms:.3g} ms, at most {max_latency:g} allowed")
    return said


def judged(run: AnyRun, goals: Sequence[Goal], max_latency: float | None) -> AnyRun:
    """Return the run as the measurements judge it, whatever was forecast; say what holds the memory."""
    if said := misses(run, goals, max_latency):
        return replace(run, is_met=False, reason="; ".join([run.reason, *said]))
    if run.artefact is None or not goals or (run.is_met and run.reason):
        return run
    return replace(run, is_met=True, reason="reached the goal, by measurement: " + " and ".join(map(str, goals)))


def is_far_below(run: Facts, goals: Sequence[Goal], before: Step) -> bool:
    """Whether the file of the step before would fit with room to spare, if forecasts err there as they do here."""
    if run.artefact is None or not goals:
        return False
    here, there = run.measures.costs, before.measures.costs
    flash = there.flash_bytes + run.measured.flash_bytes - here.flash_bytes
    ram = there.peak_ram_bytes + run.measured.peak_ram_bytes - here.peak_ram_bytes
    likely = replace(there, flash_bytes=math.ceil(flash / ROOM), peak_ram_bytes=math.ceil(ram / ROOM))
    return all(goal.reached(run.history[0].measures, replace(before.measures, costs=likely)) for goal in goals)


def _measured_text(run: Facts, goal: Goal) -> str:
    """Return what a goal's cost is now; for RAM which values are there when most bytes are."""
    cost = getattr(goal, "cost", "")
    if not cost:
        return f"{counted(len(run.plan.removed), 'neuron')} removed"
    held = run.ships.held_by(goal, run.network.present) if run.artefact is not None else ""
    return f"it is {getattr(run.measured, cost):,}{', ' * bool(held)}{held}"


def at(run: AnyRun, goals: Sequence[Goal]) -> AnyRun:
    """Return the first member of a run's family that reaches every goal: see `Run.at`."""
    goals = all_of("goals", goals, Goal)  # type: ignore[type-abstract]
    wanted: Sequence[Goal] = goals
    check_asked("goals", goals, lambda goal: goal.progress(run.history[0].measures, run.history[0].measures))
    order = run.plan.removed + run.plan.remaining
    counts = _allowed_counts(run, order)
    while True:
        place = bisect_left(counts[:-1], True, key=lambda k: _reach(run, wanted, order[:k]))
        found = _with_so_many_gone(run, counts[place], wanted, goals)
        if not misses(found, goals, None):
            return judged(_come_back(run, found, counts, place, goals), goals, None)
        if not found.is_met:
            return judged(found, goals, None)
        wanted = next_wanted(found, goals, wanted, None)


def _come_back(run: AnyRun, found: AnyRun, counts: list[int], place: int, goals: Sequence[Goal]) -> AnyRun:
    """Go back to the least pruned member whose file meets the goals, where forecasts were far too high."""
    order = run.plan.removed + run.plan.remaining
    before = Step(0, (), (), _costs_after(run, order[: counts[max(0, place - 1)]]), 0.0)
    if not place or not is_far_below(found, goals, before):
        return found
    return least_pruned(found, place, goals, lambda back: _with_so_many_gone(run, counts[back], (), goals))


def _with_so_many_gone(run: AnyRun, count: int, wanted: Sequence[Goal], goals: Sequence[Goal]) -> AnyRun:
    order, words = run.plan.removed + run.plan.remaining, " and ".join(map(str, goals))
    compensation = compensation_for(run.config, run.task, _untouched(run))
    network = compensation.after(portions_of(run.history, order[:count]))
    is_met = _reach(run, wanted, order[:count])
    reason = f"reached the goal: {words}" if is_met else f"{words} cannot be reached; this is the smallest there is"
    unscored = count - len(removed_by(run.history))
    if unscored > 0 and run.config.content.get("method") != "single-ranking":
        reason += f" ({counted(unscored, 'removal')} beyond the last ranking{_what_ranks_on(run)})"
    measures = measure(run.task, network, run.ships.costs)
    plan = run.plan.first(count)
    found = finish(type(run), run.task, network, run.history, plan, measures, reason, is_met, run.config, run.ships)
    return replace(found, unfit=run.unfit, augmentations=run.augmentations)


def _what_ranks_on(run: Facts) -> str:
    """What would have ranked again for each removal, if anything."""
    if not run.config.search.whole_curve:
        return "; `whole_curve=True` ranks again for each"
    return ", where a guard ended the run" if run.config.guards else ""


def _reach(run: Facts, goals: Sequence[Goal], removed: tuple[Neuron, ...]) -> bool:
    now = _costs_after(run, removed)
    return all(goal.reached(run.history[0].measures, now) for goal in goals)


def _untouched(run: Facts) -> GatedNetwork:
    trace = run.network.trace
    return gate(trace, run.task.loss, run.network.program.scoring)


def portions_of(history: Sequence[Step], order: Sequence[Neuron]) -> list[Sequence[Neuron]]:
    """Return the first neurons of an order in the portions that the steps took; what follows goes at once.

    Where some came back, all go at once: no step is what it was.
    """
    if any(step.restored for step in history):
        return [order]
    portions, rest = list[Sequence[Neuron]](), order
    for step in history:
        portions.append(rest[: len(step.removed)])
        rest = rest[len(step.removed) :]
    return [*portions, rest]


def _allowed_counts(run: Facts, order: tuple[Neuron, ...]) -> list[int]:
    """How many may go of the order: where removals come in blocks, only whole ones."""
    limits = Limits(run.config.search.multiple_of, ties=run.config.ties)
    if not limits.in_blocks:
        return list(range(len(order) + 1))
    bundles = {group.name: bundle for bundle in limits.bundles(run.network.groups) for group in bundle}
    left = {group.name: group.width for group in run.network.groups}
    counts, missing = [0], dict.fromkeys(left, 0)
    for count, neuron in enumerate(order, start=1):
        name = neuron.group
        if not missing[name]:
            missing |= limits.block(bundles[name], left)
        missing[name] -= 1
        left[name] -= 1
        if not any(missing.values()):
            counts.append(count)
    return counts


def _costs_after(run: Facts, removed: tuple[Neuron, ...]) -> Measures:
    """The costs after some removals; the losses, which no goal looks at, are those of the start."""
    trace = run.network.trace
    return replace(run.history[0].measures, costs=run.ships.costs(trace.present(removed)))


def least_pruned(run: AnyRun, place: int, goals: Sequence[Goal], member: Callable[[int], AnyRun]) -> AnyRun:
    """Bisect the places before one that fits for the least pruned network whose file, as measured, meets the goals.

    Cost: about log2(place) files made and run.
    """
    missed = -1
    while place - missed > 1:
        middle = (missed + place) // 2
        tried = member(middle)
        if misses(tried, goals, None):
            missed = middle
        else:
            run, place = tried, middle
    return run
