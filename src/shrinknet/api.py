"""What users call: `rank` and `prune`."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shrinknet.ablation.replay import samples_at_once
from shrinknet.criteria import Criterion, find_criterion
from shrinknet.errors import BadInputError, RunFolderError
from shrinknet.execution.progress import Progress, Silence, num_batches, told
from shrinknet.gates import GatedNetwork, gated
from shrinknet.graph.restrict import globs
from shrinknet.pipeline import Until, first_step, measure, room_left, steps
from shrinknet.records import Measures, Neuron, Plan, Step, removed_by
from shrinknet.resources import DEFAULT_MEMORY, SHARE_OF_ONE_PASS, Resources
from shrinknet.run import Run, finish, write_end, write_start
from shrinknet.runs import RunFolder
from shrinknet.selection.methods import Choose, Scorer, find_method
from shrinknet.selection.rank import Limits, Ranked, clipped, ranked, takeable
from shrinknet.stopping.goals import Goal
from shrinknet.stopping.guards import Guard
from shrinknet.stopping.units import parse_bytes
from shrinknet.task import Task
from shrinknet.types import Scores

CLIPS = ("none", "mean", "median")


def rank(
    task: Task,
    criterion: str | Criterion = "ablation",
    *,
    clip: str = "none",
    keep: str | Sequence[str] = (),
    only: str | Sequence[str] = (),
    seed: int = 0,
    memory: int | str = DEFAULT_MEMORY,
    compile: bool = False,
    progress: Progress | None = None,
) -> list[tuple[Neuron, float]]:
    """Score every neuron that can be removed; lowest first: that one is the cheapest to lose.

    Args:
        task: network, loss and data; scores see only the calibration data.
        criterion: the name of a criterion, or one of your own.
        clip: "mean" or "median" sets scores of larger size to that value (for steep second-order estimates).
        keep: name globs of groups to leave whole.
        only: name globs of the only groups to look at.
        seed: for the criterion "random".
        memory: how much scoring may use beside the model and the data, such as "2 GiB".
        compile: compile the loop over the last hidden layer's neurons (seconds once; it pays after minutes).
        progress: who is told how far the ranking is.

    Returns:
        Pairs of neuron and score, in loss units where the criterion has them; ties by (group, index).

    Raises:
        BadInputError: an argument cannot be used. NothingToRemoveError: every neuron is frozen.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    >>> [neuron.group for neuron, score in rank(task)]
    ['0', '0', '0']
    """
    network = gated(task, keep, only, Resources(parse_bytes("memory", memory), compiles=compile))
    task = _in_memory(task, network)
    return ranked(network, _scorer(task, find_criterion(criterion, seed), clip, progress or Silence())(network))


def _in_memory(task: Task, network: GatedNetwork) -> Task:
    """The same task in batches small enough that one batch's values stay within bounds."""
    needed, allowed = network.program.bytes_per_sample, network.program.resources.pass_bytes
    if needed > allowed:
        least = needed * SHARE_OF_ONE_PASS
        raise BadInputError(
            "memory",
            f"enough for one sample's pass through this network, {least:,} bytes",
            f"{network.program.resources.memory:,} bytes",
            "Allow more, or look at fewer positions of each sample.",
        )
    return task.in_batches_of(min(allowed // needed, samples_at_once(network)))


def _scorer(task: Task, criterion: Criterion, clip: str, progress: Progress) -> Scorer:
    if clip not in CLIPS:
        raise BadInputError("clip", "one of none, mean, median", repr(clip), "Leave it out for none.")
    total = num_batches(task.calibration, task.calibration.batch_size)

    def score(network: GatedNetwork) -> Scores:
        return clipped(network, criterion.score(network, told(task.calibration.batches(), total, progress)), clip)

    return score


def prune(
    task: Task,
    criterion: str | Criterion = "ablation",
    method: str = "reranking",
    goals: Sequence[Goal] = (),
    guards: Sequence[Guard] = (),
    *,
    step: int = 1,
    clip: str = "none",
    keep: str | Sequence[str] = (),
    only: str | Sequence[str] = (),
    multiple_of: int = 1,
    min_neurons: int = 1,
    whole_curve: bool = False,
    seed: int = 0,
    memory: int | str = DEFAULT_MEMORY,
    compile: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Remove neurons in the order that costs the least until every goal is reached, cut once, and prove the cut.

    Args:
        task: network, loss and data.
        criterion: how neurons are scored: "ablation" (the true rise of the loss), "taylor-2", ... or your own.
        method: "reranking" (score again after each step) or "single-ranking" (score once).
        goals: the run ends once all are reached; without one it goes on until one neuron of each group is left.
        guards: a step that breaks one is undone, and the run ends.
        step: how many neurons go for each ranking.
        clip, keep, only, seed, memory, compile: see `rank`.
        multiple_of: widths stay multiples of this (8: SIMD); neurons then go in blocks, at least as many as asked for.
        min_neurons: every group keeps at least so many neurons.
        whole_curve: go on to the end for the whole trade-off curve; the model is still the one that reaches the goals.
        out: a new folder for the run; history is written as it happens, so that a kill loses one step.
        resume: go on with the run in that folder; it ends in the same bits as if it had never stopped.
        config: what to write beside the options about where model and data came from.
        progress: who is told how far the run is.

    Raises:
        BadInputError: an argument cannot be used. NothingToRemoveError: every neuron is frozen.
        RunFolderError: `out` holds something else. VerificationError: the proof fails; no model is written.

    Cost: for each step one scoring, one pass over calibration and validation data.

    >>> import torch
    >>> from shrinknet.stopping.goals import RemovedNeurons
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    >>> prune(task, goals=[RemovedNeurons(5)]).model[0].out_features
    3
    """
    _check_all("goals", goals, Goal)
    _check_all("guards", guards, Guard)
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise BadInputError("step", "a whole number of at least 1", repr(step), "Leave it out to remove one at a time.")
    criterion, progress, limits = (
        find_criterion(criterion, seed),
        progress or Silence(),
        Limits(multiple_of, min_neurons),
    )
    resources = Resources(parse_bytes("memory", memory), keeps_passes=True, compiles=compile)
    choose_from, network = find_method(method), gated(task, keep, only, resources)
    task = _in_memory(task, network)
    choose = _remembered(choose_from(network, _scorer(task, criterion, clip, progress)))
    start = first_step(task, network)
    for guard in guards:
        guard.check(start.measures)
    options = {
        "criterion": criterion.name, "method": method, "goals": list(map(str, goals)), "guards": list(map(str, guards)),
        "step": step, "clip": clip, "keep": globs(keep), "only": globs(only),
        "multiple_of": multiple_of, "min_neurons": min_neurons, "whole_curve": whole_curve, "seed": seed,
        "loss": task.loss.name, "batch_size": task.batch_size, **(config or {}),
    }  # fmt: skip
    folder = None if out is None else RunFolder.create(out, options, resume=resume)
    if folder is not None:
        write_start(folder, task, network.trace)
    limit, until = room_left(goals, start.measures), () if whole_curve else goals
    history, search = _search(task, network, choose, step, limit, limits, start, until, guards, folder, progress)
    return _conclude(task, network, choose, limits, history, search, goals, options, folder)


def _check_all(argument: str, given: object, kind: type) -> None:
    if not isinstance(given, list | tuple) or not all(isinstance(one, kind) for one in given):
        raise BadInputError(
            argument, f"a list of {argument}", repr(given), "Write it as goals=[FlashBytes('64 KiB')], in brackets."
        )


def _remembered(choose: Choose) -> Choose:
    """Choose again for the same network without scoring again."""
    last: dict[bytes, Ranked] = {}

    def remembered(network: GatedNetwork) -> Ranked:
        key = network.present.tobytes()
        if key not in last:
            ranking = choose(network)
            last.clear()
            last[key] = ranking
        return last[key]

    return remembered


def _search(
    task: Task, network: GatedNetwork, choose: Choose, step: int, limit: Callable[[Measures], int | None],
    limits: Limits, start: Step, goals: Sequence[Goal], guards: Sequence[Guard], folder: RunFolder | None,
    progress: Progress,
) -> tuple[list[Step], Until]:  # fmt: skip
    """Take steps until the end, each written as it happens."""
    history = [start] if folder is None else _resumed(folder, start, step if limits.multiple_of == 1 else None)
    here, last = network.without(removed_by(history)), history[-1]
    no_more = "one neuron is left in each group" if limits == Limits() else f"nothing more can go with {limits}"
    search = Until(steps(task, here, choose, step, last, limit, limits), start, goals, guards, last, no_more)
    for taken in search:
        history.append(taken)
        if folder is not None:
            folder.append(taken)  # killed here, it resumes here
        progress.step(taken, _fraction(goals, start.measures, taken.measures, network))
    return history, search


def _resumed(folder: RunFolder, start: Step, step: int | None) -> list[Step]:
    """Return the steps of an earlier, unfinished run; a last step that may not be whole is done again.

    `step` is the number of neurons of a whole step; None where that varies.
    """
    history = folder.history()
    if len(history) > 1 and (step is None or len(history[-1].removed) < step):
        history.pop()
    if not history:
        history = [start]
    elif history[0].measures.calibration_loss != start.measures.calibration_loss:
        raise RunFolderError(
            f"--resume must come with the model and data that the run began with. Got a start loss of "
            f"{start.measures.calibration_loss!r}, the run in {str(folder.path)!r} has "
            f"{history[0].measures.calibration_loss!r}. Use the same ones."
        )
    folder.keep_history(history)
    return [start, *history[1:]]


def _fraction(goals: Sequence[Goal], start: Measures, now: Measures, network: GatedNetwork) -> float:
    if goals:
        return min(goal.progress(start, now) for goal in goals)
    removable = start.costs.num_neurons - len(network.groups)
    return (start.costs.num_neurons - now.costs.num_neurons) / max(1, removable)


def _conclude(
    task: Task, network: GatedNetwork, choose: Choose, limits: Limits, history: list[Step], search: Until,
    goals: Sequence[Goal], options: dict[str, Any], folder: RunFolder | None,
) -> Run:  # fmt: skip
    """Pick the step that is handed back, order what is left, cut, prove, write."""
    start = history[0].measures
    reached = (s for s in history if goals and all(goal.reached(start, s.measures) for goal in goals))
    chosen = next(reached, None)
    is_met = chosen is not None or (not goals and search.is_met)
    end = chosen or history[-1]
    reason = search.reason if chosen is None else "reached the goal: " + " and ".join(map(str, goals))
    removed = removed_by(history)
    final = network.without(removed)
    remaining = takeable(final, choose(final), len(final.present), limits)
    order = Plan(removed, tuple(neuron for neuron, _ in remaining))
    plan = order.first(len(removed_by(itertools.takewhile(lambda s: s.number <= end.number, history))))
    masked = network.without(plan.removed)
    run = finish(task, masked, tuple(history), plan, measure(task, masked), reason, is_met, options)
    if folder is not None:
        run = replace(run, folder=folder)
        write_end(folder, run)
    run.verification.raise_if_broken()
    return run
