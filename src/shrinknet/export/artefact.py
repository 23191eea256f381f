"""The artefact that ships: what it will cost, forecast from the plan, and what it does cost, measured on the file."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from shrinknet.core.config import WEIGHTS
from shrinknet.core.errors import BadInputError, ExportError, ShrinknetError, first_line
from shrinknet.core.quantities import BY_NAME
from shrinknet.core.records import Costs, Difference, Latency, Manifest, TensorFacts
from shrinknet.export.arena import Axis, length, one_like
from shrinknet.export.base import BY_NAME as EXPORTERS
from shrinknet.export.base import Built, Exporter, Find, find_exporter
from shrinknet.export.inference import Answer, InferenceGraph, by_torch, digest
from shrinknet.graph.free import Free
from shrinknet.graph.trace import Trace, named_tensors
from shrinknet.graph.widths import Present
from shrinknet.measure.costs import costs
from shrinknet.measure.evaluation import Evaluation, evaluate
from shrinknet.surgery.proof import gap, largest_of
from shrinknet.surgery.remove import cut_graph
from shrinknet.task.data import Data
from shrinknet.task.task import Task
from shrinknet.task.trees import AnyInputs, Inputs, of_each, shapes_text, tensors_of, tolerance, with_tensors

log = logging.getLogger(__name__)

STEPS_OF_INT8 = 16
"""How many of the 256 output steps a runtime's int8 may be away from torch's: each layer rounds in its own way."""

MOST_NAMED = 4
"""How many of the values that hold the memory a sentence names."""

LEAST_CHECKED = 64
"""Every file is compared with torch on at least so many rows (all, where there are fewer)."""

CALIBRATION_ROWS = 1024
"""A quantizer looks at no more rows than these."""


@dataclass(frozen=True)
class Artefact:
    """What ships: a kind of file, its quantization, and the untouched network as such a file.

    Attributes:
        task, trace: the network.
        kind: an exporter, its class or its name.
        quantize: "none" or "int8".
        allow_float: whether an int8 file may hold operators that compute in float.
        find: what finds the exporter, when it is first used.
    """

    task: Task
    trace: Trace
    kind: object = WEIGHTS
    quantize: str = "none"
    allow_float: bool = False
    find: Find = find_exporter

    @property
    def name(self) -> str:
        """The name or import path of that kind, as files of the run say it."""
        return EXPORTERS.text_of(self.kind)

    @cached_property
    def exporter(self) -> Exporter:
        """The exporter of that kind."""
        return self.find(self.kind, self.quantize)

    @property
    def file(self) -> str:
        """The name of the file in a run's folder."""
        return f"model{'' if self.quantize == 'none' else '-' + self.quantize}{self.exporter.suffix}"

    @cached_property
    def _whole(self) -> tuple[InferenceGraph, Built]:
        log.info("Making the untouched network's %s file, from which sizes are forecast.", self.exporter.suffix)
        network = InferenceGraph.of(self.trace, cut_graph(self.trace, self.trace.present()))
        return network, self._built(network)

    @property
    def plans_ram(self) -> bool:
        """Whether an arena is known, so that RAM can be budgeted."""
        return self.exporter.is_made_apart and self._whole[1].arena is not None

    def costs(self, trace: Trace, present: Present) -> Costs:
        """Return what a network will cost: as `costs`, with the file's length and the planner's arena forecast.

        Flash is what the untouched network's file holds beside its tensors, and the tensors that are left. RAM is the
        planner's own rule on the sizes that are left; where the runtime plans none, the bytes of live activations.

        Cost: one walk over the tensors and the planned values; the first call makes the untouched network's file.
        """
        found = costs(trace, present)
        if not self.exporter.is_made_apart:
            return found
        arena = self._whole[1].arena
        ram = found.peak_ram_bytes if arena is None else arena.forecast(present)
        return replace(found, flash_bytes=self._beside_tensors + self._stored(present), peak_ram_bytes=ram)

    def least(self, trace: Trace, present: Present) -> Costs:
        """Return what a network, and every one that keeps more neurons, costs at least.

        Flash is the length of its file. RAM is what is alive at once: a planner may need more, never less.

        Cost: makes that file.
        """
        found = self.costs(trace, present)
        if not self.exporter.is_made_apart:
            return found
        log.info("Making the smallest network's %s file, to see whether its budget can be met.", self.exporter.suffix)
        built, arena = self._built(InferenceGraph.of(trace, cut_graph(trace, present))), self._whole[1].arena
        ram = found.peak_ram_bytes if arena is None else sum(size for _, size in arena.at_peak(present))
        return replace(found, flash_bytes=len(built.content), peak_ram_bytes=ram)

    def check(self, goals: Sequence[object], max_latency: float | None) -> None:
        """Raise BadInputError where a goal counts what this artefact does not say, or it cannot be made of the task."""
        self._check_free()
        if max_latency is not None and not self.exporter.runs_here:
            allowed = f"used with an artefact that runs on this machine: {_named(lambda one: one.runs_here)}"
            raise BadInputError("max_latency", allowed, f"`artefact={self.name!r}`", "Name one of these.")
        if any(getattr(goal, "cost", "") == "peak_ram_bytes" for goal in goals) and not self.plans_ram:
            raise no_planner("PeakRamBytes", self.name)

    @cached_property
    def _beside_tensors(self) -> int:
        return len(self._whole[1].content) - self._stored(self.trace.present())

    def _stored(self, present: Present) -> int:
        if constants := self._whole[1].constants:  # those that hold the same stand there once while they are as long
            return sum(size for _, size in {(one.name, one.num_bytes(present)) for one in constants})
        return sum(
            self.exporter.stored_bytes(tuple(length(axis, present) for axis in axes), dtype)
            for axes, dtype in self._tensors
        )

    @cached_property
    def _tensors(self) -> tuple[tuple[tuple[Axis, ...], torch.dtype], ...]:
        """What stands in the untouched network's file: the neurons along each axis of each tensor.

        Where the file's constants are known, each is found again by what it holds (transposed copies hold the same,
        equal ones stand there once); one that was computed while lowering is read axis by axis like the tensors that
        are there no more. Else it is the network's own tensors.
        """
        network, built = self._whole
        own = {name: (self._axes(name, tensor), tensor) for name, tensor in named_tensors(network.module).items()}
        if not built.stored:
            return tuple((axes, tensor.dtype) for axes, tensor in own.values())
        by_contents = {_contents(tensor): axes for axes, tensor in own.values()}
        stored = {digest(tensor): (_contents(tensor), tensor) for tensor in built.stored}
        there = {contents for contents, _ in stored.values()}
        gone = [axis for key, axes in by_contents.items() if key not in there for axis in axes if axis[0] is not None]
        return tuple(
            (by_contents.get(key) or tuple((one_like(size, gone), size) for size in tensor.shape), tensor.dtype)
            for key, tensor in stored.values()
        )

    def _axes(self, name: str, tensor: Tensor) -> tuple[Axis, ...]:
        layout = self.trace.tensor_layouts.get(name) or (None,) * tensor.dim()
        return tuple(zip(layout, tensor.shape, strict=True))

    def freed(self, price: str, goals: Sequence[object] = ()) -> Callable[[Present, Present], float]:
        """Return what is freed between two sets of present neurons, in the unit of a price.

        Of RAM only the values that are there when most bytes are count: removing another frees nothing. "budget" adds
        up the shares of what each unmet goal still lacks.
        """
        if price == "ram" and not self.plans_ram:
            raise no_planner("price='ram'", self.name)
        if price == "budget":
            return lambda before, after: self._freed_of_budgets(goals, before, after)
        return lambda before, after: self._freed(BY_NAME[price].column, before, after)

    def _freed(self, cost: str, before: Present, after: Present) -> float:
        if cost == "peak_ram_bytes" and self.plans_ram:
            arena = self._whole[1].arena
            assert arena is not None
            return float(sum(size - value.num_bytes(after) for value, size in arena.at_peak(before)))
        one, other = (self.costs(self.trace, present) for present in (before, after))
        return float(getattr(one, cost) - getattr(other, cost))

    def _freed_of_budgets(self, goals: Sequence[object], before: Present, after: Present) -> float:
        now = self.costs(self.trace, before)
        lacking = {
            cost: getattr(now, cost) - getattr(goal, "budget", 0)
            for goal in goals
            if (cost := getattr(goal, "cost", "")) and getattr(now, cost) > getattr(goal, "budget", 0)
        }
        if not lacking:
            return float(np.count_nonzero(before & ~after))
        return sum((self._freed(cost, before, after) / missing for cost, missing in lacking.items()), 0.0)

    def at_peak(self, present: Present) -> tuple[tuple[str, int], ...]:
        """Return the values that hold the arena's peak, with their lengths, the longest first."""
        arena = self._whole[1].arena
        if arena is None:
            return ()
        return tuple((value.name or "workspace", size) for value, size in arena.at_peak(present))

    def held_by(self, goal: object, present: Present) -> str:
        """Return which values hold the arena's peak, in words, where a goal is about RAM."""
        if getattr(goal, "cost", "") != "peak_ram_bytes":
            return ""
        return "held by " + ", ".join(f"{name!r} ({size:,})" for name, size in self.at_peak(present)[:MOST_NAMED])

    def ship(self, cut: GraphModule | None, forecast: Costs, *, rounds: int = 0) -> tuple[bytes, Manifest]:
        """Make the file of a cut network, run it by its own runtime on real inputs, and compare it with torch.

        Args:
            cut: the network; None: the untouched one, whose file is there once something was forecast.
            forecast: what it was expected to cost.
            rounds: how often its latency is measured on this machine.

        Raises:
            ExportError: the exporter cannot take an operator, or the file does not compute what torch computes.
        """
        network, built = self._whole if cut is None else self._made(cut)
        answer = built.stand_in or self.answer(built.content)
        difference, quality = self._compare(network, built, answer)
        if not difference.holds:
            raise ExportError(
                f"artefact={self.name!r} must give a file that computes what torch computes. Got a worst difference of "
                f"{difference.worst:.3g}, the tolerance is {difference.tolerance:.3g}. Use another exporter."
            )
        row = self._example[:1]
        outputs = answer(row)
        manifest = Manifest(
            kind=self.name,
            quantize=self.quantize,
            file=self.file,
            num_bytes=len(built.content),
            sha256=hashlib.sha256(built.content).hexdigest(),
            arena_bytes=built.arena.num_bytes if built.arena else None,
            forecast_bytes=forecast.flash_bytes,
            forecast_arena_bytes=forecast.peak_ram_bytes if built.arena else None,
            inputs=_facts(network.inputs, row, built.input_shapes),
            outputs=_facts(network.outputs, outputs, built.output_shapes),
            difference=difference,
            compared_with="the quantized network in torch" if any(built.steps) else "torch",
            loss=quality.loss,
            metrics=quality.metrics,
            num_samples=quality.num_samples,
            ran_by_its_runtime=built.stand_in is None,
            versions=self.exporter.versions(),
            notes=(*built.notes, *float_note(built.float_operators), *free_note(self.trace.free)),
            float_operators=built.float_operators,
            latency=timed(answer, row, rounds) if rounds and built.stand_in is None else None,
        )
        return built.content, manifest

    def _made(self, cut: GraphModule) -> tuple[InferenceGraph, Built]:
        log.info("Making the smaller network's %s file, and running it.", self.exporter.suffix)
        network = InferenceGraph.of(self.trace, cut)
        return network, self._built(network)

    def checked_again(self, content: bytes, cut: GraphModule) -> Difference:
        """Compare an int8 file with the cut network quantized anew.

        A file that no runtime here can run must be the one that is made anew, to the bit; its stand-in then runs.
        """
        network = InferenceGraph.of(self.trace, cut)
        built = self._built(network)
        if built.stand_in is not None and content != built.content:
            return Difference(self.quantize, float("inf"), 0.0, 0)
        answer = built.stand_in or self.answer(content)
        return replace(self._compare(network, built, answer)[0], precision=self.quantize)

    def rows_to_check(self) -> Data:
        """Return the rows held furthest from the scores, as many as the runtime answers in reasonable time.

        They depend on the untouched network, so that the same rows judge every size of it.
        """
        macs = costs(self.trace, self.trace.present()).macs
        role = self.task.test or self.task.validation or self.task.calibration
        most = max(LEAST_CHECKED, int(self.exporter.macs_to_check(self.quantize) / max(1, macs)))
        return role if len(role) <= most else role.permuted(0).rows(0, most)

    def _built(self, network: InferenceGraph) -> Built:
        self._check_free()
        try:
            built = self.exporter.build(network, self._example, self._calibration, self.quantize)
        except ShrinknetError:
            raise
        except Exception as error:  # an exporter of the user's own
            raise self.exporter.refused("this network", error) from error
        if isinstance(built, bytes):
            built = Built(built)
        if not (isinstance(built, Built) and isinstance(built.content, bytes)):
            content = getattr(built, "content", built)
            raise ExportError(
                f"artefact={self.name!r} must build the bytes of a file, or Built(bytes, ...). "
                f"Got {type(content).__name__}. Let its build return bytes(...)."
            )
        if built.float_operators and not self.allow_float:
            raise ExportError(
                f"quantize={self.quantize!r} for artefact={self.name!r} must be used with a network whose operators "
                f"all have an int8 form there. Got {len(built.float_operators)} that would stay in float: "
                f"{', '.join(built.float_operators)}. Allow it by `allow_float=True`, or write them otherwise."
            )
        return built

    def answer(self, content: bytes) -> Answer:
        """Open a file by its own runtime, ready to run on rows."""
        return self._told(self._told(self.exporter.answer)(content))

    def _told(self, run: Any) -> Callable[[Any], Any]:
        """Say in one sentence what an exporter's own runtime could not do."""

        def told(given: Any) -> Any:
            try:
                return run(given)
            except ShrinknetError:
                raise
            except Exception as error:  # an exporter of the user's own
                raise ExportError(
                    f"artefact={self.name!r} must open its own file and run it on rows. "
                    f"Got {type(error).__name__}: {first_line(error).rstrip('.')}. Mend what its answer returns."
                ) from error

        return told

    def _check_free(self) -> None:
        if self.trace.free and self.exporter.is_made_apart and not self.exporter.leaves_free:
            allowed = f"{_named(lambda one: one.leaves_free)} for a task with free sizes, which other files fix"
            do = "Name one of these, or say nothing of `free`."
            raise BadInputError("artefact", allowed, f"`artefact={self.name!r}`", do)

    @cached_property
    def _calibration(self) -> Sequence[Inputs]:
        rows = min(CALIBRATION_ROWS, len(self.task.calibration))
        batches = self.task.calibration.rows(0, rows).batches()
        return [of_each(batch.inputs, Tensor.cpu) for batch in batches]

    @cached_property
    def _example(self) -> Inputs:
        found: Inputs = of_each(self.task.example_inputs, Tensor.cpu)
        return found

    @cached_property
    def _returned(self) -> Any:
        """What the network returns: the form in which the loss is given a file's outputs."""
        return by_torch(self.trace.module)(self.task.example_inputs)

    def _compare(self, network: InferenceGraph, built: Built, answer: Answer) -> tuple[Difference, Evaluation]:
        """The difference of the output that breaks its tolerance or comes nearest to it, and the file's quality."""
        data, names = self.rows_to_check(), network.outputs
        worst, largest = torch.zeros(2, len(names), dtype=torch.float64)
        reference = built.reference or by_torch(network.module)

        def outputs_of(inputs: AnyInputs) -> Any:
            rows = of_each(inputs, Tensor.cpu)
            found, expected = tensors_of(answer(rows)), tensors_of(reference(rows))
            if [one.shape for one in found] != [one.shape for one in expected]:
                raise ExportError(
                    f"artefact={self.name!r} must answer with outputs {shapes_text(expected)} here. "
                    f"Got {shapes_text(found)}. Let its answer return one row for each row it is given."
                )
            for place, (one, other) in enumerate(zip(expected, found, strict=True)):
                worst[place] = torch.maximum(worst[place], gap(one, other))
                largest[place] = max(float(largest[place]), largest_of(one))
            return with_tensors(self._returned, (one.to(data.device) for one in found))

        quality = evaluate(outputs_of, self.task.loss, data, self.task.metrics)
        for rows in self.trace.other_sizes(self._example):
            outputs_of(rows)
        dtypes = [one.dtype for one in tensors_of(self._example) if one.is_floating_point()]
        allowed = [
            STEPS_OF_INT8 * step if step else tolerance((dtypes or [torch.float32])[0], float(size))
            for step, size in zip(built.steps or [None] * len(names), largest, strict=True)
        ]
        differences = [
            Difference("float32", float(far), most, quality.num_samples, name)
            for name, far, most in zip(names, worst, allowed, strict=True)
        ]
        broken = (one for one in differences if not one.holds)
        return next(broken, max(differences, key=lambda one: one.worst / one.tolerance)), quality


def float_note(float_operators: Sequence[str]) -> tuple[str, ...]:
    """Return what a manifest says of the operators of an int8 file that compute in float.

    >>> float_note(["layer_norm (in 'norm')"])
    ("in float all the same, not in int8: layer_norm (in 'norm')",)
    """
    return (f"in float all the same, not in int8: {', '.join(float_operators)}",) if float_operators else ()


def free_note(free: Free) -> tuple[str, ...]:
    """Return what a manifest says of sizes that are free, beside the number of samples.

    >>> free_note({"input_ids": {1: (2, 512)}, "mask": {1: (2, None)}})
    ("free: axis 1 of 'input_ids' (2 to 512), axis 1 of 'mask' (from 2)",)
    """
    said = [
        f"axis {axis} of {name!r} ({f'from {least}' if most is None else f'{least} to {most}'})"
        for name, axes in free.items()
        for axis, (least, most) in axes.items()
    ]
    return (f"free: {', '.join(said)}",) if said else ()


def _contents(tensor: Tensor) -> bytes:
    """What a tensor holds, in whatever order: a transposed tensor holds the same."""
    return digest(tensor.detach().flatten().sort().values)


def _facts(names: Sequence[str], tree: Any, shapes: Sequence[tuple[int, ...]]) -> tuple[TensorFacts, ...]:
    tensors = tensors_of(tree)
    return tuple(
        TensorFacts(name, str(tensor.dtype).removeprefix("torch."), shape)
        for name, tensor, shape in zip(names, tensors, shapes or [tuple(one.shape) for one in tensors], strict=True)
    )


def timed(answer: Answer, row: Inputs, rounds: int) -> Latency:
    """Return how long one sample takes: the median over many rounds, and the middle half of them.

    A figure of this machine, never a promise about another.
    """
    answer(row)
    taken = []
    for _ in range(rounds):
        started = perf_counter()
        answer(row)
        taken.append(1000 * (perf_counter() - started))
    taken.sort()
    return Latency(median(taken), taken[rounds // 4], taken[-1 - rounds // 4], rounds)


def _named(holds: Callable[[type[Exporter]], bool]) -> str:
    """Those of our exporters that make a file of their own and of which something holds, in words."""
    *others, last = (
        f"`artefact={name!r}`" for name, one in EXPORTERS.ours().items() if one.is_made_apart and holds(one)
    )
    return f"{', '.join(others)} or {last}"


def no_planner(argument: str, kind: str) -> BadInputError:
    """Return the error of a RAM budget where nothing plans RAM."""
    allowed = (
        "used with an artefact whose memory is planned: `artefact='executorch'` in float32, or "
        "`artefact='cortex-m'` in int8"
    )
    return BadInputError(argument, allowed, f"`artefact={kind!r}`", "Name one of these.")
