"""What users call: `rank`, `prune`, and the `Run` that comes back."""

import itertools
import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from shrinknet.criteria import Criterion, find_criterion
from shrinknet.errors import BadInputError, NothingToRemoveError, RunFolderError, VerificationError
from shrinknet.execution.progress import Progress, Silence, num_batches, told
from shrinknet.export.exported_program import pt2_bytes, safetensors_bytes
from shrinknet.gates import GatedNetwork, gate
from shrinknet.graph.restrict import restrict
from shrinknet.graph.trace import Trace, export_program, named_tensors, trace
from shrinknet.loading.models import fill, load_model
from shrinknet.measure.costs import costs
from shrinknet.measure.evaluation import evaluate
from shrinknet.pipeline import Until, first_step, measure, room_left, steps
from shrinknet.records import Difference, Measures, Neuron, Plan, Step, TestResult, Verification, removed_by
from shrinknet.report import summary
from shrinknet.report.page import write_page
from shrinknet.runs import RunFolder, environment
from shrinknet.selection.methods import Choose, Scorer, find_method
from shrinknet.selection.rank import Ranked, clipped, ranked, takeable
from shrinknet.stopping.goals import Goal
from shrinknet.stopping.guards import Guard
from shrinknet.surgery.own_module import check_own_module, cut_module
from shrinknet.surgery.remove import cut_graph, kept_indices
from shrinknet.task import Task
from shrinknet.types import Scores
from shrinknet.verify.equivalence import ROUNDINGS, compare, cut_program, verify

KEPT_BYTES = 2**28
"""The most memory for the values of one batch: batches are cut down to it."""

CLIPS = ("none", "mean", "median")

logger = logging.getLogger(__name__)


def rank(
    task: Task,
    criterion: str | Criterion = "ablation",
    *,
    clip: str = "none",
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    seed: int = 0,
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
        progress: who is told how far the ranking is.

    Returns:
        Pairs of neuron and score, in loss units where the criterion has them; ties by (group, index).

    Raises:
        BadInputError: an argument cannot be used. NothingToRemoveError: every neuron is frozen.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    >>> [neuron.group for neuron, score in rank(task)]
    ['0', '0', '0']
    """
    network = gated(task, keep, only)
    task = _in_memory(task, network)
    return ranked(network, _scorer(task, find_criterion(criterion, seed), clip, progress or Silence())(network))


def gated(task: Task, keep: Sequence[str] = (), only: Sequence[str] = ()) -> GatedNetwork:
    """Trace a task's network and put a gate on every neuron that can be removed.

    Raises:
        NothingToRemoveError: there is none; the message gives the reasons.
    """
    traced = trace(task.model, task.example_inputs)
    if traced.groups:
        traced = restrict(traced, keep, only)
    if not traced.groups:
        reasons = sorted({frozen.reason for frozen in traced.frozen})
        raise NothingToRemoveError(
            "model must be a network with neurons that can be removed. Got one where every neuron is frozen "
            f"({'; '.join(reasons[:4]) or 'no parameters'}). See 'shrinknet inspect'."
        )
    return gate(traced, task.loss)


def _in_memory(task: Task, network: GatedNetwork) -> Task:
    """The same task in batches small enough that one batch's values stay within bounds."""
    return task.in_batches_of(max(1, KEPT_BYTES // network.program.bytes_per_sample))


def _scorer(task: Task, criterion: Criterion, clip: str, progress: Progress) -> Scorer:
    if clip not in CLIPS:
        raise BadInputError("clip", "one of none, mean, median", repr(clip), "Leave it out for none.")
    total = num_batches(task.calibration, task.calibration.batch_size)

    def score(network: GatedNetwork) -> Scores:
        return clipped(criterion.score(network, told(task.calibration.batches(), total, progress)), clip)

    return score


@dataclass(frozen=True)
class Run:
    """What `prune` gives back: the smaller network, its proof, its history, and its whole family.

    Attributes:
        history: the steps taken, step 0 being the untouched network.
        plan: which neurons went, in which order, and in which order the others would follow.
        measures: the network as it is now, measured.
        reason: why the run stopped.
        is_met: whether every goal was reached (and no guard stood in the way).
        verification: the proof that the cut network computes what the masked network computed.
        test: loss and accuracy on data that nothing else has seen.
        folder: where the run is written, if anywhere.
    """

    task: Task
    network: GatedNetwork
    cut: GraphModule
    history: tuple[Step, ...]
    plan: Plan
    measures: Measures
    reason: str
    is_met: bool
    verification: Verification
    test: TestResult | None
    folder: RunFolder | None = None

    @cached_property
    def model(self) -> nn.Module:
        """A smaller copy of the user's own module, handed back only if it gives the cut graph's outputs.

        Raises:
            FixedWidthError: the model's own Python code fixes a width; `exported` is there all the same.
        """
        self.raise_if_unproven()
        smaller = cut_module(self.task.model, kept_indices(self.network.trace, self.network.present))
        inputs = next(self.task.calibration.batches()).inputs
        with torch.no_grad():
            expected = cut_program(self.network.trace, self.cut, None).outputs(inputs)
        largest = max(1.0, float(expected.abs().max()))
        check_own_module(smaller, inputs, expected, ROUNDINGS * torch.finfo(expected.dtype).eps * largest)
        return smaller

    @cached_property
    def exported(self) -> ExportedProgram:
        """The smaller network as an exported program: always there, runs without the user's code."""
        self.raise_if_unproven()
        return export_program(self.cut, self.task.example_inputs)

    def raise_if_unproven(self) -> None:
        """Raise VerificationError unless the proof holds."""
        if not self.verification.holds:
            raise VerificationError(summary.proof_line(self.verification))

    def check_files(self) -> dict[str, Difference]:
        """Compare the masked network with the files in the run folder, by name.

        `model.pt2` is run as it is; `model.safetensors` fills the cut graph, rebuilt from the plan.

        Raises:
            BadInputError: a file is missing, damaged or unsafe to open, or the weights do not fit the plan.
        """
        assert self.folder is not None
        exported = load_model(str(self.folder.path / "model.pt2")).model
        rebuilt = cut_graph(self.network.trace, self.network.present)
        fill(rebuilt, self.folder.path / "model.safetensors")
        data = self.task.test or self.task.validation or self.task.calibration
        answers: dict[str, Callable[[Tensor], Tensor]] = {
            "model.pt2": exported,
            "model.safetensors": cut_program(self.network.trace, rebuilt, None).outputs,
        }
        return {
            name: compare(self.network, answer, (batch.inputs for batch in data.batches()))
            for name, answer in answers.items()
        }

    def at(self, goal: Goal) -> "Run":
        """Return another member of the family: the first of the same order that reaches a goal. Nothing is scored.

        Where the history ends before the goal, the order of the last ranking is followed; `is_met` says whether the
        goal can be reached at all.

        Cost: no scoring; a few passes over the data to measure and prove the one network.
        """
        start = self.history[0].measures
        whole = self.network.trace.present
        order = self.plan.removed + self.plan.remaining
        count = bisect_left(range(len(order)), True, key=lambda k: goal.reached(start, self._costs_after(order[:k])))
        network = replace(self.network, present=whole(order[:count]))
        is_met = goal.reached(start, self._costs_after(order[:count]))
        reason = f"reached the goal: {goal}" if is_met else f"{goal} cannot be reached; this is the smallest there is"
        unscored = count - len(removed_by(self.history))
        if unscored > 0:
            reason += f" ({unscored} of its removals follow the last ranking; --whole-curve ranks again for each)"
        measures = measure(self.task, network)
        return _finish(self.task, network, self.history, self.plan.first(count), measures, reason, is_met)

    def _costs_after(self, removed: tuple[Neuron, ...]) -> Measures:
        """The costs after some removals; the losses, which no goal looks at, are those of the start."""
        trace = self.network.trace
        return replace(self.history[0].measures, costs=costs(trace, trace.present(removed)))

    def summary(self) -> str:
        """Return before and after in a few lines, the proof, and why the run stopped."""
        start, end = self.history[0].measures, self.measures
        lines = [
            f"{what:<24}{before:>14} -> {after:>14}" for what, before, after in summary.rows(start, end, self.test)
        ]
        return "\n".join([*lines, summary.proof_line(self.verification), self.last_line()])

    def last_line(self) -> str:
        """Return what the run did, in one line."""
        return summary.last_line(self.history[0].measures, self.measures, self.test, self.reason)

    def report(self, out: str | Path) -> Path:
        """Write the run, if it is not written yet, and its web page; return the page's path.

        Args:
            out: a new folder for the run; where the run has one already, the page's own folder.
        """
        folder = self.folder or self.save(out)
        return write_page([folder], Path(out) / "index.html" if self.folder else folder.path / "report" / "index.html")

    def save(self, out: str | Path, config: dict[str, Any] | None = None) -> RunFolder:
        """Write the run into a new folder and return it."""
        folder = RunFolder.create(out, config or {"model": type(self.task.model).__name__, "loss": self.task.loss.name})
        _write_start(folder, self.task, self.network.trace)
        folder.keep_history(self.history)
        _write_end(folder, self)
        return folder


def prune(
    task: Task,
    criterion: str | Criterion = "ablation",
    method: str = "reranking",
    goals: Sequence[Goal] = (),
    guards: Sequence[Guard] = (),
    *,
    step: int = 1,
    clip: str = "none",
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    whole_curve: bool = False,
    seed: int = 0,
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
        clip: see `rank`.
        keep: name globs of groups to leave whole.
        only: name globs of the only groups to look at.
        whole_curve: go on to the end for the whole trade-off curve; the model is still the one that reaches the goals.
        seed: for the criterion "random".
        out: a new folder for the run; history is written as it happens, so that a kill loses one step.
        resume: go on with the run in that folder; it ends in the same bits as if it had never stopped.
        config: what to write beside the options about where model and data came from.
        progress: who is told how far the run is.

    Raises:
        BadInputError: an argument cannot be used. NothingToRemoveError: every neuron is frozen.
        RunFolderError: `out` holds something else. VerificationError: the proof fails; no model is written.

    Cost: for each step one scoring, one pass over calibration and validation data.
    """
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise BadInputError("step", "a whole number of at least 1", repr(step), "Leave it out to remove one at a time.")
    criterion, progress = find_criterion(criterion, seed), progress or Silence()
    choose_from, network = find_method(method), gated(task, keep, only)
    task = _in_memory(task, network)
    choose = _remembered(choose_from(network, _scorer(task, criterion, clip, progress)))
    start = first_step(task, network)
    for guard in guards:
        guard.check(start.measures)
    folder = None
    if out is not None:
        options = {
            "criterion": criterion.name, "method": method, "goals": [str(goal) for goal in goals],
            "guards": [str(guard) for guard in guards], "step": step, "clip": clip, "keep": list(keep),
            "only": list(only), "whole_curve": whole_curve, "seed": seed, "loss": task.loss.name,
            "batch_size": task.batch_size,
        }  # fmt: skip
        folder = RunFolder.create(out, {**options, **(config or {})}, resume=resume)
        _write_start(folder, task, network.trace)
    search_goals = () if whole_curve else tuple(goals)
    history, search = _search(task, network, choose, step, start, search_goals, guards, folder, progress)
    return _conclude(task, network, choose, history, search, goals, folder)


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
    task: Task, network: GatedNetwork, choose: Choose, step: int, start: Step, goals: Sequence[Goal],
    guards: Sequence[Guard], folder: RunFolder | None, progress: Progress,
) -> tuple[list[Step], Until]:  # fmt: skip
    """Take steps until the end, each written as it happens."""
    history = [start] if folder is None else _resumed(folder, start, step)
    here, last = network.without(removed_by(history)), history[-1]
    limit = room_left(goals, start.measures)
    search = Until(steps(task, here, choose, step, last, limit), start, goals, guards, last)
    for taken in search:
        history.append(taken)
        if folder is not None:
            folder.append(taken)  # killed here, it resumes here
        progress.step(taken, _fraction(goals, start.measures, taken.measures, network))
    return history, search


def _resumed(folder: RunFolder, start: Step, step: int) -> list[Step]:
    """Return the steps of an earlier, unfinished run; a last step that is not whole is done again."""
    history = folder.history()
    while len(history) > 1 and len(history[-1].removed) < step:
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
    task: Task, network: GatedNetwork, choose: Choose, history: list[Step], search: Until, goals: Sequence[Goal],
    folder: RunFolder | None,
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
    remaining = takeable(final, choose(final), len(final.present))
    order = Plan(removed, tuple(neuron for neuron, _ in remaining))
    plan = order.first(len(removed_by(itertools.takewhile(lambda s: s.number <= end.number, history))))
    masked = network.without(plan.removed)
    run = _finish(task, masked, tuple(history), plan, end.measures, reason, is_met)
    if folder is not None:
        run = replace(run, folder=folder)
        _write_end(folder, run)
    run.raise_if_unproven()
    return run


def _finish(
    task: Task, network: GatedNetwork, history: tuple[Step, ...], plan: Plan, measures: Measures, reason: str,
    is_met: bool,
) -> Run:  # fmt: skip
    """Cut once, and prove it on the data held furthest from the scores."""
    cut = cut_graph(network.trace, network.present)
    proof = verify(network, cut, task.test or task.validation or task.calibration)
    test = _test(task, network) if task.test is not None and proof.holds else None
    return Run(task, network, cut, history, plan, measures, reason, is_met, proof, test)


def reopened(folder: RunFolder, task: Task) -> Run:
    """Return the run in a folder, given its original network and data again. Nothing is scored.

    Raises:
        RunFolderError: the network is not the one that the run began with, or the run is not finished.
    """
    config = folder.config
    network = gated(task, config.get("keep", ()), config.get("only", ()))
    if network.groups != folder.groups():
        raise RunFolderError(
            f"RUN must come with the network that it began with. Got one with other groups than {str(folder.path)!r}. "
            f"Use the run's own original.pt2."
        )
    history, plan, end = tuple(folder.history()), folder.plan(), folder.read_json("summary.json")
    masked = network.without(plan.removed)
    run = _finish(task, masked, history, plan, measure(task, masked), end["reason"], end["is_met"])
    return replace(run, folder=folder)


def _test(task: Task, network: GatedNetwork) -> TestResult:
    assert task.test is not None
    whole = replace(network, present=network.trace.present())
    before, after = (evaluate(one.outputs, task.loss, task.test) for one in (whole, network))
    return TestResult(before.loss, after.loss, before.accuracy, after.accuracy, after.num_samples)


def _write_start(folder: RunFolder, task: Task, traced: Trace) -> None:
    folder.write_json("environment.json", {**environment(), "num_threads": torch.get_num_threads()})
    folder.write_groups(traced.groups, traced.frozen)
    if not folder.has("original.pt2"):
        folder.write("original.pt2", pt2_bytes(export_program(task.model, task.example_inputs)))


def _write_end(folder: RunFolder, run: Run) -> None:
    """Write proof, plan and models; no model where the proof fails."""
    folder.write_json("verification.json", run.verification)
    if not run.verification.holds:
        return
    folder.write_plan(run.plan, kept_indices(run.network.trace, run.network.present))
    folder.write("model.pt2", pt2_bytes(run.exported))
    folder.write("model.safetensors", safetensors_bytes(named_tensors(run.cut)))
    folder.write_json("summary.json", {
        "before": run.history[0].measures, "after": run.measures, "test": run.test, "reason": run.reason,
        "is_met": run.is_met, "num_removed": len(run.plan.removed),
    })  # fmt: skip
    write_page([folder], folder.path / "report" / "index.html")
