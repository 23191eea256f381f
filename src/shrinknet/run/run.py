"""What a run gives back: the smaller network, its proof, its history, its files, and its whole family."""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from shrinknet.compensation.compensate import compensation_of
from shrinknet.core.config import RunConfig
from shrinknet.core.disk import writing
from shrinknet.core.errors import BadInputError, FixedWidthError, RunFolderError
from shrinknet.core.folder import SEAL, RunFolder
from shrinknet.core.machine import environment
from shrinknet.core.records import (
    Corner,
    Costs,
    Ending,
    Manifest,
    Measures,
    Neuron,
    Plan,
    Step,
    TestResult,
    Verification,
    removed_by,
)
from shrinknet.engine.gates import GatedNetwork, gated, tolerance
from shrinknet.engine.program import Program
from shrinknet.export.artefact import Artefact
from shrinknet.export.base import find_exporter
from shrinknet.export.exported_program import pt2_bytes
from shrinknet.export.weights import safetensors_bytes
from shrinknet.graph.names import owner_of
from shrinknet.graph.trace import Trace, export_program, named_tensors
from shrinknet.graph.widths import Present
from shrinknet.measure.evaluation import evaluate
from shrinknet.report import summary
from shrinknet.report.page import write_page
from shrinknet.search.goals import Goal, RemovedNeurons
from shrinknet.search.rank import Limits
from shrinknet.search.steps import measure
from shrinknet.surgery.own_module import (
    Attributes,
    check_own_module,
    cut_module,
    modules_with_windows,
    new_attributes,
)
from shrinknet.surgery.proof import cut_program, verify
from shrinknet.surgery.remove import cut_graph, kept_indices
from shrinknet.task.task import Task

LATENCY_ROUNDS = 200
"""One sample is run so many times for its latency."""

PARTS_WHEN_SLOW = 20
"""Where a sample takes too long, this part of the neurons that are left goes before it is measured again."""

ROOM = 0.95
"""The search comes back up only where a file would fill less than this part of its budget: forecasts are 2 % off."""

FRAME = 'style="width: 100%; height: 900px; border: 0"'

MOST_THREADS = 256


@dataclass(frozen=True)
class Shipped:
    """The bytes of an artefact, and what was measured on them."""

    content: bytes
    manifest: Manifest


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
        test: loss and metrics on data that nothing else has seen.
        config: what the run was made with, as `config.json` has it.
        folder: where the run is written, if anywhere.
        unfit: why the class that the run began with does not bear a cut, where an exported network stands in for it.
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
    config: RunConfig
    ships: Artefact
    shipped: Shipped | None = None
    folder: RunFolder | None = None
    unfit: str | None = None

    @property
    def artefact(self) -> Manifest | None:
        """What was measured on the file that ships; None where that is the weights file."""
        return None if self.shipped is None else self.shipped.manifest

    @property
    def measured(self) -> Costs:
        """What the network costs, measured on the artefact where there is one."""
        forecast = self.measures.costs
        return forecast if self.artefact is None else self.artefact.measured(forecast)

    def next_wanted(self, goals: Sequence[Goal], wanted: Sequence[Goal], max_latency: float | None) -> list[Goal]:
        """Return what the forecast must reach next, `wanted` until now: a goal missed by measurement gets harder."""
        pairs = zip(goals, wanted, strict=False)
        wanted = [goal.tightened(until_now, self.measures.costs, self.measured) for goal, until_now in pairs]
        if self._is_slow(max_latency):
            kept = len(self.network.trace.present()) - 1 - len(self.plan.removed)
            return [*wanted, RemovedNeurons(len(self.plan.removed) + max(1, kept // PARTS_WHEN_SLOW))]
        return list(wanted)

    def _is_slow(self, max_latency: float | None) -> bool:
        found = None if self.artefact is None else self.artefact.latency
        return max_latency is not None and found is not None and found.median_ms > max_latency

    def misses(self, goals: Sequence[Goal], max_latency: float | None) -> list[str]:
        """Return what the measurements say against each goal that they do not meet."""
        by_measure = replace(self.measures, costs=self.measured)
        unmet = [goal for goal in goals if not goal.reached(self.history[0].measures, by_measure)]
        said = [f"{goal} not met: {self.measured_text(goal)}" for goal in unmet]
        if max_latency is not None and self._is_slow(max_latency):
            assert self.artefact is not None
            assert self.artefact.latency is not None
            said.append(f"a sample takes {self.artefact.latency.median_ms:.3g} ms, at most {max_latency:g} allowed")
        return said

    def judged(self, goals: Sequence[Goal], max_latency: float | None) -> "Run":
        """Return the run as the measurements judge it, whatever was forecast; say what holds the memory."""
        if said := self.misses(goals, max_latency):
            return replace(self, is_met=False, reason="; ".join([self.reason, *said]))
        if self.artefact is None or not goals or (self.is_met and self.reason):
            return self
        return replace(self, is_met=True, reason="reached the goal, by measurement: " + " and ".join(map(str, goals)))

    def is_far_below(self, goals: Sequence[Goal], before: Step) -> bool:
        """Whether the file of the step before would fit with room to spare, if forecasts err there as they do here."""
        if self.artefact is None or not goals:
            return False
        here, there = self.measures.costs, before.measures.costs
        flash = there.flash_bytes + self.measured.flash_bytes - here.flash_bytes
        ram = there.peak_ram_bytes + self.measured.peak_ram_bytes - here.peak_ram_bytes
        likely = replace(there, flash_bytes=math.ceil(flash / ROOM), peak_ram_bytes=math.ceil(ram / ROOM))
        return all(goal.reached(self.history[0].measures, replace(before.measures, costs=likely)) for goal in goals)

    def measured_text(self, goal: Goal) -> str:
        """Return what a goal's cost is now; for RAM which values are there when most bytes are."""
        cost = getattr(goal, "cost", "")
        if not cost:
            return f"{len(self.plan.removed)} neurons removed"
        held = self.ships.held_by(goal, self.network.present) if self.artefact is not None else ""
        return f"it is {getattr(self.measured, cost):,}{', ' * bool(held)}{held}"

    @cached_property
    def model(self) -> nn.Module:
        """A smaller copy of the user's own module, handed back only if it gives the cut graph's outputs.

        Raises:
            FixedWidthError: the model's own Python code fixes a width; `exported` is there all the same.
        """
        self.verification.raise_if_broken()
        try:
            return self._own_module(self.network.present, self.cut)
        except FixedWidthError as error:
            raise FixedWidthError(f"{error}{self._what_to_keep()}") from error.__cause__

    @property
    def fixed_width(self) -> str | None:
        """Why the user's own class does not bear the cut; None where it does."""
        try:
            self._own_module(self.network.present, self.cut)
        except FixedWidthError as error:
            return str(error)
        return self.unfit

    def _own_module(self, present: Present, cut: GraphModule) -> nn.Module:
        kept = kept_indices(self.network.trace, present)
        attributes = new_attributes(self.task.model, self.network.trace, cut, kept)
        smaller = cut_module(self.task.model, kept, attributes)
        refit, ours = named_tensors(cut), named_tensors(smaller)
        for name in self.network.program.tensors.keys() & ours.keys():
            ours[name].data.copy_(refit[name])
        inputs = next(self.task.calibration.batches()).inputs
        with torch.no_grad():
            expected = cut_program(self.network.trace, cut, None).outputs(inputs)
        windows = modules_with_windows(self.network.trace, present)
        check_own_module(smaller, inputs, expected, tolerance(expected.dtype, float(expected.abs().max())), windows)
        return smaller

    def _what_to_keep(self) -> str:
        """Say which groups, left whole, give the class back: those that it does not bear the cut of, each by itself."""
        removed = defaultdict[str, list[Neuron]](list)
        for neuron in self.plan.removed:
            removed[neuron.group].append(neuron)
        fixed = [group for group in self.network.groups if removed[group.name] and not self._bears(removed[group.name])]
        rest = [neuron for group in self.network.groups if group not in fixed for neuron in removed[group.name]]
        if not fixed or not self._bears(rest):
            return ""
        writers = (next(part for part in group.slices if part.role == "writes") for group in fixed)
        keep = sorted({owner_of(part.parameter) or part.parameter for part in writers})
        return f" With `keep={keep}` the class comes back."

    def _bears(self, removed: Sequence[Neuron]) -> bool:
        """Whether the user's own module is right without some neurons."""
        present = self.network.trace.present(tuple(removed))
        try:
            self._own_module(present, cut_graph(self.network.trace, present, self.network.program.tensors))
        except FixedWidthError:
            return False
        return True

    @property
    def attributes(self) -> Attributes:
        """The attributes of the model's modules that hold a width, with their new values."""
        kept = kept_indices(self.network.trace, self.network.present)
        return new_attributes(self.task.model, self.network.trace, self.cut, kept)

    @cached_property
    def exported(self) -> ExportedProgram:
        """The smaller network as an exported program: always there, runs (and trains) without the user's code."""
        self.verification.raise_if_broken()
        for name, parameter in self.task.model.named_parameters():
            named_tensors(self.cut)[name].requires_grad_(parameter.requires_grad)
        return export_program(self.cut, self.task.example_inputs)

    def at(self, *goals: Goal) -> "Run":
        """Return another member of the family: the first of the same order that reaches every goal. Nothing is scored.

        Where the history ends before a goal, the order of the last ranking is followed; `is_met` says whether the
        goals can be reached at all. An artefact that misses a budget by measurement is followed by a smaller one.

        Cost: no scoring; a few passes over the data to measure and prove the one network.
        """
        wanted: Sequence[Goal] = goals
        order = self.plan.removed + self.plan.remaining
        counts = self._allowed_counts(order)
        while True:
            place = bisect_left(counts[:-1], True, key=lambda k: self._reach(wanted, order[:k]))
            run = self._with_so_many_gone(counts[place], wanted, goals)
            if not run.misses(goals, None):
                return self._come_back(run, counts, place, goals).judged(goals, None)
            if not run.is_met:
                return run.judged(goals, None)
            wanted = run.next_wanted(goals, wanted, None)

    def _come_back(self, run: "Run", counts: list[int], place: int, goals: Sequence[Goal]) -> "Run":
        """Go back to the least pruned member whose file meets the goals, where forecasts were far too high."""
        order = self.plan.removed + self.plan.remaining
        before = Step(0, (), (), self._costs_after(order[: counts[max(0, place - 1)]]), 0.0)
        if not place or not run.is_far_below(goals, before):
            return run
        return least_pruned(run, place, goals, lambda back: self._with_so_many_gone(counts[back], (), goals))

    def _with_so_many_gone(self, count: int, wanted: Sequence[Goal], goals: Sequence[Goal]) -> "Run":
        order, words = self.plan.removed + self.plan.remaining, " and ".join(map(str, goals))
        compensation = compensation_of(self.config.search.compensate, self.task, self._untouched)
        network = compensation.after(self.portions_of(self.history, order[:count]))
        is_met = self._reach(wanted, order[:count])
        reason = f"reached the goal: {words}" if is_met else f"{words} cannot be reached; this is the smallest there is"
        unscored = count - len(removed_by(self.history))
        if unscored > 0:
            reason += f" ({unscored} of its removals follow the last ranking; `whole_curve=True` ranks again for each)"
        measures = measure(self.task, network, self.ships.costs)
        plan = self.plan.first(count)
        run = finish(self.task, network, self.history, plan, measures, reason, is_met, self.config, self.ships)
        return replace(run, unfit=self.unfit)

    def _reach(self, goals: Sequence[Goal], removed: tuple[Neuron, ...]) -> bool:
        now = self._costs_after(removed)
        return all(goal.reached(self.history[0].measures, now) for goal in goals)

    @property
    def _untouched(self) -> GatedNetwork:
        trace = self.network.trace
        return GatedNetwork(Program(trace, scoring=self.network.program.scoring), self.task.loss, trace.present())

    @staticmethod
    def portions_of(history: Sequence[Step], order: Sequence[Neuron]) -> list[Sequence[Neuron]]:
        """Return the first neurons of an order in the portions that the steps took; what follows goes at once."""
        portions, rest = list[Sequence[Neuron]](), order
        for step in history:
            portions.append(rest[: len(step.removed)])
            rest = rest[len(step.removed) :]
        return [*portions, rest]

    def _allowed_counts(self, order: tuple[Neuron, ...]) -> list[int]:
        """How many may go of the order: where removals come in blocks, only whole ones."""
        multiple_of = self.config.search.multiple_of
        if multiple_of == 1:
            return list(range(len(order) + 1))
        groups = {group.name: group for group in self.network.groups}
        left = {name: group.width for name, group in groups.items()}
        counts, missing = [0], dict.fromkeys(groups, 0)
        for count, neuron in enumerate(order, start=1):
            name = neuron.group
            missing[name] = (missing[name] or Limits(multiple_of).block(groups[name], left[name])) - 1
            left[name] -= 1
            if not any(missing.values()):
                counts.append(count)
        return counts

    def _costs_after(self, removed: tuple[Neuron, ...]) -> Measures:
        """The costs after some removals; the losses, which no goal looks at, are those of the start."""
        trace = self.network.trace
        return replace(self.history[0].measures, costs=self.ships.costs(trace, trace.present(removed)))

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (what, before, after) for every figure that was measured."""
        return summary.rows(self.history[0].measures, self.measures, self.test, self.config.qualities, self.artefact)

    def corners(self) -> list[Corner]:
        """Return the manifests of four files: full and pruned, in float32 and in int8, each run by what runs it.

        Cost: makes and runs three files more.
        """
        trace, float_kind = self.network.trace, "executorch"
        whole, all_there = cut_graph(trace, trace.present()), trace.present()
        found = []
        for quantize in ("none", self.ships.quantize):
            kind = float_kind if quantize == "none" else self.ships.kind
            ships = self.ships if quantize != "none" else Artefact(self.task, trace, kind, quantize)
            for name, cut, present in (("full", whole, all_there), ("pruned", self.cut, self.network.present)):
                made = self.artefact if ships is self.ships and cut is self.cut else None
                made = made or ships.ship(cut, ships.costs(trace, present))[1]
                found.append(Corner(f"{name}, {'float32' if quantize == 'none' else quantize}", made))
        return found

    def export(
        self, kind: str, out: str | Path | None = None, quantize: str = "none", *, allow_float: bool = False
    ) -> Manifest:
        """Write the smaller network as another program's file, run it there, and write its manifest beside it.

        Args:
            kind: "executorch", "onnx", "pt2", "cortex-m".
            out: the file; where left out, in the run's own folder.
            quantize: "none" or "int8".
            allow_float: whether an int8 file may hold operators that compute in float; the manifest names them.

        Raises:
            BadInputError: no such exporter, its extra is missing, or there is no folder to write to.
            ExportError: an operator is not known there or would stay in float, or the file does not compute what
                torch computes.
        """
        find_exporter(kind, quantize)
        ships = Artefact(self.task, self.network.trace, kind, quantize, allow_float)
        content, manifest = ships.ship(self.cut, ships.costs(self.network.trace, self.network.present))
        if out is not None:
            path = Path(out)
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            folder, manifest = RunFolder(path.parent), replace(manifest, file=path.name)
            folder.write(path.name, content)
            folder.write_json(f"{path.name}.json", manifest)
        elif self.folder is not None:
            with self.folder.held(), self.folder.changing():
                write_artefact(self.folder, Shipped(content, manifest))
        else:
            raise BadInputError("out", "a file for a run that has no folder", "nothing", "Name it as 'net.pte'.")
        return manifest

    def __repr__(self) -> str:
        return f"<Run: {self.last_line()}>"

    def summary(self) -> str:
        """Return before and after in a few lines, the proof, and why the run stopped."""
        lines = [f"{what:<30}{before:>14} -> {after:>14}" for what, before, after in self.rows()]
        made = [] if self.artefact is None else [summary.shipped_line(self.artefact, self.config.qualities)]
        said = summary.coupled_line(self.config)
        return "\n".join([*lines, *said, summary.proof_line(self.verification), *made, self.last_line()])

    def last_line(self) -> str:
        """Return what the run did, in one line."""
        return summary.last_line(
            self.history[0].measures, self.measures, self.test, self.reason, self.config.qualities, self.artefact
        )

    def report(self, out: str | Path) -> Path:
        """Write the run, if it is not written yet, and its web page; return the page's path.

        Args:
            out: a new folder for the run; where the run has one already, the page's own folder.
        """
        folder = self.folder or self.save(out)
        return write_page([folder], Path(out) / "index.html" if self.folder else folder.path / "report" / "index.html")

    def _repr_html_(self) -> str:
        """The run's page in a frame, for a notebook."""
        with TemporaryDirectory() as beside:
            page = self.report(Path(beside) / "run").read_text(encoding="utf-8")
        return f'<iframe title="shrinknet" srcdoc="{escape(page)}" sandbox="allow-scripts" {FRAME}></iframe>'

    def save(self, out: str | Path, *, resume: bool = False, **changed: object) -> RunFolder:
        """Write the run into a new folder and return it; `changed` options are written instead of the run's own.

        With `resume` the folder may hold the same run, broken off.
        """
        folder = RunFolder.create(out, {**self.config.content, **changed}, resume=resume)
        with folder.held():
            write_start(folder, self.task, self.network.trace)
            folder.keep_history(self.history)
            write_end(folder, self)
        return folder


def least_pruned(run: Run, place: int, goals: Sequence[Goal], at: Callable[[int], Run]) -> Run:
    """Bisect the places before one that fits for the least pruned network whose file, as measured, meets the goals.

    Cost: about log2(place) files made and run.
    """
    missed = -1
    while place - missed > 1:
        middle = (missed + place) // 2
        tried = at(middle)
        if tried.misses(goals, None):
            missed = middle
        else:
            run, place = tried, middle
    return run


def finish(
    task: Task, network: GatedNetwork, history: tuple[Step, ...], plan: Plan, measures: Measures, reason: str,
    is_met: bool, config: RunConfig, ships: Artefact, *, ship: bool = True,
) -> Run:  # fmt: skip
    """Cut once, prove it on the data held furthest from the scores, and make the file that ships, unless it is made."""
    cut = cut_graph(network.trace, network.present, network.program.tensors)
    proof = verify(network, cut, task.test or task.validation or task.calibration)
    test = _test(task, network) if task.test is not None and proof.holds else None
    run = Run(task, network, cut, history, plan, measures, reason, is_met, proof, test, config, ships)
    if not (ship and proof.holds and ships.exporter.is_made_apart):
        return run
    rounds = LATENCY_ROUNDS if config.search.max_latency is not None else 0
    return replace(run, shipped=Shipped(*ships.ship(cut, measures.costs, rounds=rounds)))


def reopened(folder: RunFolder, task: Task) -> Run:
    """Return the run in a folder, given its original network and data again. Nothing is scored.

    Raises:
        RunFolderError: the network is not the one that the run began with, or the run is not finished.
    """
    config = RunConfig.of(folder.config)
    asked = config.search
    network = gated(task, asked.keep, asked.only)
    if network.groups != folder.groups():
        raise RunFolderError(
            f"folder must come with the network that it began with. Got one with other groups than "
            f"{str(folder.path)!r}. Use the run's own original.pt2."
        )
    history, plan, end = tuple(folder.history()), folder.plan(), folder.ending()
    if not history:
        raise RunFolderError(
            f"folder must have a history. Got {str(folder.path)!r}, which has none. Make the run again."
        )
    ships = Artefact(task, network.trace, asked.kind, asked.quantize, asked.allow_float)
    compensation = compensation_of(asked.compensate, task, network)
    masked = compensation.after(Run.portions_of(history, plan.removed))
    measures = measure(task, masked, lambda trace, present: end.after.costs)
    run = finish(task, masked, history, plan, measures, end.reason, end.is_met, config, ships, ship=False)
    _check_belongs(folder, run)
    return replace(run, folder=folder, unfit=folder.read_json("plan.json").get("fixed_width"))


@contextmanager
def with_threads_of(out: str | Path | None) -> Iterator[None]:
    """Compute with as many threads as the run in a folder began with: their number changes last bits."""
    before = torch.get_num_threads()
    recorded = None
    if out is not None and (Path(out) / "environment.json").is_file():
        recorded = RunFolder(Path(out)).read_json("environment.json").get("num_threads")
    try:
        if isinstance(recorded, int) and 1 <= recorded <= MOST_THREADS:
            torch.set_num_threads(recorded)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def under_way(folder: RunFolder | None) -> Iterator[None]:
    """Hold a run's folder while the run is under way, and compute with as many threads as it began with."""
    if folder is None:
        yield
        return
    with folder.held(), with_threads_of(folder.path):
        yield


def _check_belongs(folder: RunFolder, run: Run) -> None:
    """What stands in a folder twice must say the same: the order of the removals, and what is kept of each tensor."""
    plan, trace = run.plan, run.network.trace
    order = zip(removed_by(run.history), plan.removed + plan.remaining, strict=False)
    said, kept = folder.read_json("plan.json"), kept_indices(trace, run.network.present)
    axes = {name: {str(axis): list(places) for axis, places in cut.items()} for name, cut in kept.items()}
    different = [
        *(["an order that history.csv does not have"] if any(one != other for one, other in order) else []),
        *(["kept indices that are not those of its order"] if said["kept"] != axes else []),
    ]
    if different:
        raise RunFolderError(
            f"plan.json must say what the rest of the run folder says. Got {different[0]} in {str(folder.path)!r}. "
            f"Make the run again, in another folder."
        )


def _test(task: Task, network: GatedNetwork) -> TestResult:
    assert task.test is not None
    whole = GatedNetwork(Program(network.trace), network.loss, network.trace.present())
    before, after = (evaluate(one.outputs, task.loss, task.test, task.metrics) for one in (whole, network))
    return TestResult(before.loss, after.loss, before.metrics, after.metrics, after.num_samples)


def write_artefact(folder: RunFolder, shipped: Shipped) -> str:
    """Write an artefact with its manifest beside it, and return its path in the folder."""
    name = f"artefacts/{shipped.manifest.file}"
    folder.write(name, shipped.content)
    folder.write_json(f"{name}.json", shipped.manifest)
    return name


def write_start(folder: RunFolder, task: Task, traced: Trace) -> None:
    """Write what is known before the first step: the machine, the groups, the untouched network."""
    folder.remove(SEAL)  # under way from here on
    folder.write_json("environment.json", {**environment(), "num_threads": torch.get_num_threads()})
    folder.write_groups(traced.groups, traced.frozen)
    folder.write("original.pt2", pt2_bytes(export_program(task.model, task.example_inputs)))


def write_end(folder: RunFolder, run: Run) -> None:
    """Write proof, plan and models; no model where the proof fails."""
    folder.write_json("verification.json", run.verification)
    if not run.verification.holds:
        folder.remove("model.pt2", "model.safetensors", "summary.json")
        return
    kept = kept_indices(run.network.trace, run.network.present)
    folder.write_plan(run.plan, kept, run.attributes, run.fixed_width)
    folder.write("model.pt2", pt2_bytes(run.exported))
    folder.write("model.safetensors", safetensors_bytes(named_tensors(run.cut)))
    if run.shipped is not None:
        write_artefact(folder, run.shipped)
    if run.ships.quantize != "none":
        folder.write_json("artefacts/corners.json", {"corners": run.corners()})
    gone = len(run.plan.removed)
    ending = Ending(run.history[0].measures, run.measures, run.test, run.reason, run.is_met, gone)
    folder.write_json("summary.json", ending)
    folder.seal()
    write_page([folder], folder.path / "report" / "index.html")
