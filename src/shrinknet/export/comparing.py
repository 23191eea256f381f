"""A file run by its own runtime: compared with torch, timed, and what its manifest says of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from shrinknet.core.errors import ExportError
from shrinknet.core.records import Costs, Difference, Latency, Manifest, TensorFacts
from shrinknet.export.base import Built
from shrinknet.export.inference import Answer, InferenceGraph, by_torch
from shrinknet.export.making import Maker
from shrinknet.graph.free import Free
from shrinknet.measure.costs import costs
from shrinknet.measure.evaluation import Evaluation, evaluate
from shrinknet.surgery.proof import gap, largest_of
from shrinknet.task.data import Data
from shrinknet.task.trees import AnyInputs, Inputs, of_each, shapes_text, tensors_of, tolerance, with_tensors

STEPS_OF_INT8 = 16
"""How many of the 256 output steps a runtime's int8 may be away from torch's: each layer rounds in its own way."""

LEAST_CHECKED = 64
"""Every file is compared with torch on at least so many rows (all, where there are fewer)."""


@dataclass(frozen=True)
class Comparer(Maker):
    """What makes a file and compares it with torch."""

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
        largest_sizes = self.trace.largest_sizes(self.example) if self.exporter.plans_free else ()
        for rows in (*self.trace.other_sizes(self.example), *largest_sizes):
            outputs_of(rows)
        dtypes = [one.dtype for one in tensors_of(self.example) if one.is_floating_point()]
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

    def compared(self, network: InferenceGraph, built: Built, forecast: Costs, rounds: int) -> Manifest:
        """Return what is known of a file that computes what torch computes; its latency over so many rounds.

        Raises:
            ExportError: it computes something else.
        """
        answer = built.stand_in or self.answer(built.content)
        difference, quality = self._compare(network, built, answer)
        if not difference.holds:
            raise ExportError(
                f"artefact={self.name!r} must give a file that computes what torch computes. Got a worst difference of "
                f"{difference.worst:.3g}, the tolerance is {difference.tolerance:.3g}. Use another exporter."
            )
        row = self.example[:1]
        outputs = answer(row)
        return Manifest(
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
            notes=(
                *built.notes,
                *float_note(built.float_operators),
                *free_note(self.trace.free, are_planned=self.exporter.plans_free),
            ),
            float_operators=built.float_operators,
            latency=timed(answer, row, rounds) if rounds and built.stand_in is None else None,
        )

    def checked_again(self, content: bytes, cut: GraphModule) -> Difference:
        """Compare an int8 file with the cut network quantized anew.

        A file that no runtime here can run must be the one that is made anew, to the bit; its stand-in then runs.
        """
        network = InferenceGraph.of(self.trace, cut)
        built = self.built(network)
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


def float_note(float_operators: Sequence[str]) -> tuple[str, ...]:
    """Return what a manifest says of the operators of an int8 file that compute in float.

    >>> float_note(["layer_norm (in 'norm')"])
    ("in float all the same, not in int8: layer_norm (in 'norm')",)
    """
    return (f"in float all the same, not in int8: {', '.join(float_operators)}",) if float_operators else ()


def free_note(free: Free, *, are_planned: bool = False) -> tuple[str, ...]:
    """Return what a manifest says of sizes that are free, beside the number of samples.

    >>> free_note({"input_ids": {1: (2, 512)}, "mask": {1: (2, None)}})
    ("free: axis 1 of 'input_ids' (2 to 512), axis 1 of 'mask' (from 2)",)
    """
    said = [
        f"axis {axis} of {name!r} ({f'from {least}' if most is None else f'{least} to {most}'})"
        for name, axes in free.items()
        for axis, (least, most) in axes.items()
    ]
    planned = "; memory is planned for the largest" if are_planned else ""
    return (f"free: {', '.join(said)}{planned}",) if said else ()


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
