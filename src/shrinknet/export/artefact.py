"""The artefact that ships: what it will cost, forecast from the plan, and what it does cost, measured on the file."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from shrinknet.core.errors import BadInputError
from shrinknet.core.quantities import BY_NAME, FLASH, RAM
from shrinknet.core.records import Costs, Manifest
from shrinknet.export.arena import Axis, length, one_like
from shrinknet.export.base import Built
from shrinknet.export.comparing import Comparer
from shrinknet.export.inference import InferenceGraph, digest
from shrinknet.export.making import named
from shrinknet.graph.trace import named_tensors
from shrinknet.graph.widths import Present
from shrinknet.measure.costs import GraphCosts
from shrinknet.surgery.remove import cut_graph

log = logging.getLogger(__name__)

MOST_NAMED = 4
"""How many of the values that hold the memory a sentence names."""


@dataclass(frozen=True)
class Artefact(Comparer):
    """What ships: it makes and compares files, and forecasts their sizes from the untouched network's."""

    @cached_property
    def _whole(self) -> tuple[InferenceGraph, Built]:
        log.info("Making the untouched network's %s file, from which sizes are forecast.", self.exporter.suffix)
        network = InferenceGraph.of(self.trace, cut_graph(self.trace, self.trace.present()))
        return network, self.built(network)

    @property
    def plans_ram(self) -> bool:
        """Whether an arena is known, so that RAM can be budgeted."""
        return self.exporter.is_made_apart and self._whole[1].arena is not None

    def costs(self, present: Present) -> Costs:
        """Return what a network will cost: as `costs`, with the file's length and the planner's arena forecast.

        Flash is what the untouched network's file holds beside its tensors, and the tensors that are left. RAM is the
        planner's own rule on the sizes that are left; where the runtime plans none, the bytes of live activations.

        Cost: one walk over the tensors and the planned values; the first call makes the untouched network's file.
        """
        found = self._graph_costs(present)
        if not self.exporter.is_made_apart:
            return found
        arena = self._whole[1].arena
        ram = found.peak_ram_bytes if arena is None else arena.forecast(present)
        return replace(found, flash_bytes=self._beside_tensors + self._stored(present), peak_ram_bytes=ram)

    def least(self, present: Present) -> Costs:
        """Return what a network, and every one that keeps more neurons, costs at least.

        Flash is the length of its file. RAM is what is alive at once: a planner may need more, never less.

        Cost: makes that file.
        """
        found = self.costs(present)
        if not self.exporter.is_made_apart:
            return found
        log.info("Making the smallest network's %s file, to see whether its budget can be met.", self.exporter.suffix)
        built, arena = self.built(InferenceGraph.of(self.trace, cut_graph(self.trace, present))), self._whole[1].arena
        ram = found.peak_ram_bytes if arena is None else sum(size for _, size in arena.at_peak(present))
        return replace(found, flash_bytes=len(built.content), peak_ram_bytes=ram)

    def check(self, goals: Sequence[object], max_latency: float | None) -> None:
        """Raise BadInputError where a goal counts what this artefact does not say, or it cannot be made of the task."""
        self.check_free()
        if max_latency is not None and not self.exporter.runs_here:
            allowed = f"used with an artefact that runs on this machine: {named(lambda one: one.runs_here)}"
            raise BadInputError("max_latency", allowed, f"`artefact={self.name!r}`", "Name one of these.")
        if any(getattr(goal, "cost", "") == "peak_ram_bytes" for goal in goals) and not self.plans_ram:
            raise no_planner("PeakRamBytes", self.name)

    @cached_property
    def _graph_costs(self) -> GraphCosts:
        return GraphCosts(self.trace)

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

    def freed(self, price: str, limits: Mapping[str, int] | None = None) -> Callable[[Present, Present], float]:
        """Return what is freed between two sets of present neurons, in the unit of a price.

        Of RAM only the values that are there when most bytes are count: removing another frees nothing. "budget" adds
        up the shares of what each cost still lacks to its limit.
        """
        if price == "ram" and not self.plans_ram:
            raise no_planner("price='ram'", self.name)
        if price == "budget":
            return lambda before, after: self._freed_of_budgets(limits or {}, before, after)
        return self._freed(BY_NAME[price].column)

    def _freed(self, cost: str) -> Callable[[Present, Present], float]:
        """How much of one cost is freed; what the network as it is costs is found once for all of its neurons."""
        arena, known = self._whole[1].arena if cost == RAM.column and self.plans_ram else None, dict[bytes, int]()

        def freed(before: Present, after: Present) -> float:
            """Between two sets of neurons."""
            if arena is not None:
                return float(sum(size - value.num_bytes(after) for value, size in arena.at_peak(before)))
            if (key := before.tobytes()) not in known:
                known.clear()
                known[key] = self._cost(cost, before)
            return float(known[key] - self._cost(cost, after))

        return freed

    def _cost(self, cost: str, present: Present) -> int:
        """One of `costs` alone."""
        if cost == FLASH.column and self.exporter.is_made_apart:
            return self._beside_tensors + self._stored(present)
        if cost == RAM.column:
            return self.costs(present).peak_ram_bytes
        return self._graph_costs.one(cost, present)

    def _freed_of_budgets(self, limits: Mapping[str, int], before: Present, after: Present) -> float:
        lacking = {cost: missing for cost, limit in limits.items() if (missing := self._cost(cost, before) - limit) > 0}
        if not lacking:
            return float(np.count_nonzero(before & ~after))
        return sum((self._freed(cost)(before, after) / missing for cost, missing in lacking.items()), 0.0)

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
        return built.content, self.compared(network, built, forecast, rounds)

    def _made(self, cut: GraphModule) -> tuple[InferenceGraph, Built]:
        log.info("Making the smaller network's %s file, and running it.", self.exporter.suffix)
        network = InferenceGraph.of(self.trace, cut)
        return network, self.built(network)


def _contents(tensor: Tensor) -> bytes:
    """What a tensor holds, in whatever order: a transposed tensor holds the same."""
    return digest(tensor.detach().flatten().sort().values)


def no_planner(argument: str, kind: str) -> BadInputError:
    """Return the error of a RAM budget where nothing plans RAM."""
    allowed = (
        "used with an artefact whose memory is planned: `artefact='executorch'` in float32, or "
        "`artefact='cortex-m'` in int8"
    )
    return BadInputError(argument, allowed, f"`artefact={kind!r}`", "Name one of these.")
