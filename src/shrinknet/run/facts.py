"""What is known of a run: its record, and what follows from it: the smaller network in every form."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from shrinknet.core.config import RunConfig
from shrinknet.core.errors import ExportError, FixedWidthError
from shrinknet.core.folder import RunFolder
from shrinknet.core.records import Costs, Manifest, Measures, Plan, Step, TestResult, Verification
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import Program
from shrinknet.export.artefact import Artefact
from shrinknet.graph.configs import has_config
from shrinknet.graph.trace import export_program, named_tensors
from shrinknet.measure.evaluation import evaluate
from shrinknet.recovery.augment import Augmentation
from shrinknet.run.own_class import Own, own_class, what_helps
from shrinknet.surgery.own_config import mend_config
from shrinknet.surgery.own_module import Attributes, new_attributes
from shrinknet.surgery.proof import compare, verify
from shrinknet.surgery.remove import cut_graph, kept_indices
from shrinknet.task.task import Task
from shrinknet.task.trees import called

log = logging.getLogger(__name__)

LATENCY_ROUNDS = 200
"""One sample is run so many times for its latency."""


@dataclass(frozen=True)
class Shipped:
    """The bytes of an artefact, and what was measured on them."""

    content: bytes
    manifest: Manifest


@dataclass(frozen=True)
class Facts:
    """The record of a run, as `Run` describes it."""

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
    augmentations: tuple[Augmentation, ...] | None = ()

    @property
    def artefact(self) -> Manifest | None:
        """What was measured on the file that ships; None where that is the weights file."""
        return None if self.shipped is None else self.shipped.manifest

    @property
    def measured(self) -> Costs:
        """What the network costs, measured on the artefact where there is one."""
        forecast = self.measures.costs
        return forecast if self.artefact is None else self.artefact.measured(forecast)

    @cached_property
    def model(self) -> nn.Module:
        """A smaller copy of the user's own module, handed back only if it gives the cut graph's outputs.

        A network of transformers' has a config that says the smaller widths, where a config can (`tie="config"`): then
        `save_pretrained` and `from_pretrained` work.

        Raises:
            FixedWidthError: the model's own Python code fixes a width; `exported` is there all the same.
        """
        self.verification.raise_if_broken()
        try:
            smaller = self._own.module
        except FixedWidthError as error:
            raise FixedWidthError(f"{error}{what_helps(self.task, self.network)}") from error.__cause__
        if has_config(smaller) and not mend_config(self.task.model, smaller, self.task.example_inputs):
            log.warning(
                "The network's config cannot say its widths, so that from_pretrained will not load it. %s",
                "Other sizes may do."
                if self.config.search.tie == "config"
                else "`tie='config'` ties what a config says once.",
            )
        return smaller

    @property
    def fixed_width(self) -> str | None:
        """Why the user's own class does not bear the cut; None where it does."""
        try:
            _ = self._own
        except FixedWidthError as error:
            return str(error)
        return self.unfit

    @cached_property
    def _own(self) -> Own:
        rows = self.task.example_inputs, next(self.task.calibration.batches()).inputs
        return own_class(self.task.model, self.network, self.cut, *rows)

    @property
    def attributes(self) -> Attributes:
        """The attributes of the model's modules that hold a width, with their new values."""
        try:
            return self._own.attributes
        except FixedWidthError:
            kept = kept_indices(self.network.trace, self.network.present)
            return new_attributes(self.task.model, self.network.trace, self.cut, kept)

    @cached_property
    def exported(self) -> ExportedProgram:
        """The smaller network as an exported program: always there, runs (and trains) without the user's code."""
        self.verification.raise_if_broken()
        for name, parameter in self.task.model.named_parameters():
            named_tensors(self.cut)[name].requires_grad_(parameter.requires_grad)
        program = export_program(self.cut, self.task.example_inputs, self.task.free)
        self._check_at_other_sizes(program.module(check_guards=False))
        return program

    def _check_at_other_sizes(self, smaller: nn.Module) -> None:
        """Where sizes are free, what was exported must compute what the masked network computes at others, too."""
        inputs = next(self.task.calibration.batches()).inputs
        others = self.network.trace.other_sizes(inputs)
        for one in compare(self.network, partial(called, smaller), others) if self.task.free else ():
            if not one.holds:
                raise ExportError(
                    f"free must be axes along which the exported network computes the same. Got a worst difference of "
                    f"{one.worst:.3g} at another size, the tolerance is {one.tolerance:.3g}. Leave them fixed."
                )


AnyRun = TypeVar("AnyRun", bound=Facts)


def finish(
    kind: type[AnyRun],
    task: Task,
    network: GatedNetwork,
    history: tuple[Step, ...],
    plan: Plan,
    measures: Measures,
    reason: str,
    is_met: bool,
    config: RunConfig,
    ships: Artefact,
    *,
    ship: bool = True,
) -> AnyRun:
    """Cut once, prove it on the data held furthest from the scores, and make the file that ships, unless it is made."""
    cut = cut_graph(network.trace, network.present, network.program.tensors)
    proof = verify(network, cut, task.test or task.validation or task.calibration)
    test = _test(task, network) if task.test is not None and proof.holds else None
    run = kind(task, network, cut, history, plan, measures, reason, is_met, proof, test, config, ships)
    if not (ship and proof.holds and ships.exporter.is_made_apart):
        return run
    rounds = LATENCY_ROUNDS if config.search.max_latency is not None else 0
    return replace(run, shipped=Shipped(*ships.ship(cut, measures.costs, rounds=rounds)))


def _test(task: Task, network: GatedNetwork) -> TestResult:
    assert task.test is not None
    whole = GatedNetwork(Program(network.trace), network.loss, network.trace.present())
    before, after = (evaluate(one.outputs, task.loss, task.test, task.metrics) for one in (whole, network))
    return TestResult(before.loss, after.loss, before.metrics, after.metrics, after.num_samples)
