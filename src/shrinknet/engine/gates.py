"""Gates: a factor on each neuron, placed where neurons are mixed (design 4.2).

A removed neuron contributes nothing to any reader, so the gate multiplies the input of every operator that mixes the
neurons of its group: a dense layer, a convolution. That is exact for every activation, since sigmoid(0) never leaks.
Statistics over neurons take the gates as weights instead (`weighted` in graph/call.py).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Node

from shrinknet.core.errors import BadInputError, NothingToRemoveError, UnfollowedOperatorError, first_line
from shrinknet.core.records import Group, Neuron
from shrinknet.engine.checkpoints import outputs_for_slopes
from shrinknet.engine.passes import Passes, Values
from shrinknet.engine.program import Gating, Program
from shrinknet.graph.call import Site
from shrinknet.graph.free import check_within
from shrinknet.graph.restrict import restrict
from shrinknet.graph.trace import Trace, named_tensors, trace
from shrinknet.graph.widths import EXAMPLE_BATCH, Present
from shrinknet.task.data import Batch
from shrinknet.task.losses import Loss, with_slope
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task, evaluating
from shrinknet.task.trees import AnyInputs, Inputs, are_alike, called, shapes_text, split


@dataclass(frozen=True, slots=True)
class GatedNetwork:
    """A traced network with a gate on every neuron, and the loss it is judged by.

    `present` says which gates are 1; `without` gives another network, it changes nothing. All networks that come of
    one share its `passes`. Criteria look at the groups that are `shown`, and those that look at neurons one by one only
    at the `candidates`: all that are there, where these are None.
    """

    program: Program
    loss: Loss
    present: Present
    passes: Passes = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    residual_maker: Mapping[Site, Tensor] = field(default_factory=dict, compare=False, repr=False)
    shown: tuple[str, ...] | None = None
    candidates: Present | None = None

    def __post_init__(self) -> None:
        if self.passes is None:
            object.__setattr__(self, "passes", Passes(self.program, self.program.scoring.kept_bytes))

    def __repr__(self) -> str:
        return f"<GatedNetwork: {int(self.present[1:].sum()):,} of {self.trace.num_neurons:,} neurons present>"

    @property
    def trace(self) -> Trace:
        """The graph and its groups."""
        return self.program.trace

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of neurons that can be removed, as far as they are shown."""
        if self.shown is None:
            return self.trace.groups
        return tuple(group for group in self.trace.groups if group.name in self.shown)

    def alive(self, group: Group) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the indices of a group's neurons that are still there."""
        ids = self.trace.ids_of(group)
        return np.flatnonzero(self.present[ids.start : ids.stop])

    def scored(self, group: Group) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the indices of a group's candidates that are still there."""
        ids = self.trace.ids_of(group)
        asked = self.present if self.candidates is None else self.present & self.candidates
        return np.flatnonzero(asked[ids.start : ids.stop])

    def among(self, neurons: Iterable[Neuron]) -> "GatedNetwork":
        """Return the network with only these neurons as candidates."""
        return replace(self, candidates=~self.trace.present(tuple(neurons)))

    def without(self, neurons: Iterable[Neuron]) -> "GatedNetwork":
        """Return the network with these neurons switched off as well."""
        return replace(self, present=self.present & self.trace.present(tuple(neurons)))

    def showing(self, group: Group) -> "GatedNetwork":
        """Return the network with one group to look at; the others are there, and are computed."""
        return replace(self, shown=(group.name,))

    def with_present(self, present: Present) -> "GatedNetwork":
        """Return the network with just these gates at 1."""
        return replace(self, present=present)

    def residual_at(self, site: Site, value: Tensor) -> Tensor:
        """Return what a reader loses with each element that it reads: the element, or its residual on the others.

        Where `residual_maker` holds a matrix R [elements, elements] for the site, a reader that makes up for a lost
        element by least squares loses only x R, the residual of regressing it on the others and a constant (the last
        row of R).
        """
        if site not in self.residual_maker:
            return value
        matrix = self.residual_maker[site].to(value.dtype)
        left = torch.tensordot(value, matrix[:-1], ([site.axis], [0])).movedim(-1, site.axis)
        return left + shaped_along(matrix[-1], site.axis, value.dim())  # type: ignore[no-any-return]

    def refit(self, tensors: Mapping[str, Tensor]) -> "GatedNetwork":
        """Return the network with other values for some of its tensors."""
        given = self.program
        program = Program(given.trace, given.asked_dtype, given.scoring, {**given.tensors, **tensors}, given.reads)
        return replace(self, program=program, passes=self.passes.moved_to(program), residual_maker={})

    def outputs(self, inputs: AnyInputs) -> Any:
        """Return what the masked network returns."""
        return self.program.outputs(inputs, self.gating())

    def kept_values(self, batch: Batch, reads: bool | Collection[Node] = True) -> Values:
        """Return the values of the program that passes are kept of (see `Passes`): all, or at least those read."""
        return self.passes.values(batch, self.present, self.gating(), reads)

    def kept_outputs(self, batch: Batch) -> Any:
        """Return what the masked network returns up to rounding, from a kept pass where there is one."""
        return self.passes.outputs(batch, self.present, self.gating())

    def losses(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Return the loss of each sample."""
        return self.loss.each(self.outputs(batch.inputs), batch.targets)

    def gating(self) -> Gating | None:
        """Return the factors of the present gates; None where every neuron is there (the same bits then)."""
        if bool(self.present.all()):
            return None
        present = torch.from_numpy(self.present).to(self.program.device)  # once for a pass

        def gating(site: Site, value: Tensor) -> Tensor:
            return shaped_along(present[self.program.ids[site]].to(value.dtype), site.axis, value.dim())

        return gating

    def factor(self, site: Site, value: Tensor) -> Tensor:
        """Return the 0/1 factors at a site, shaped to multiply the value read there."""
        present = torch.from_numpy(self.present[self.program.numbers[site]]).to(value.device)
        return shaped_along(present.to(value.dtype), site.axis, value.dim())

    def gate_slopes(self, batch: Batch) -> dict[str, Float[Tensor, "batch neurons"]]:
        """Return d loss_n / d gate for each sample n and each neuron, by group; 0 for neurons already gone.

        Cost: one forward and one backward pass (one for each sample where a reader mixes samples with another axis);
        memory for one number for each sample and neuron.

        Raises:
            BadInputError: the loss of one sample depends on the others of its batch.
        """
        self.loss.needs_each_sample("a slope for each sample")
        if self.program.has_samples_apart:
            return self.by_group(self._slopes(batch, apart=True))
        return self.by_group(torch.cat([self._slopes(row, apart=False) for row in batch.split(1)]))

    def summed_gate_slopes(self, batch: Batch) -> dict[str, Float[Tensor, " neurons"]]:
        """Return the sum of d loss_n / d gate over the samples n, by group.

        Cost: one forward and one backward pass.
        """
        slopes = self._slopes(batch, apart=self.program.has_samples_apart)
        return self.by_group(slopes.double().sum(0))

    def _slopes(self, batch: Batch, *, apart: bool) -> Float[Tensor, "rows ids"]:
        """The slopes of one batch: every sample has gates of its own, or all share one row of them."""
        present = torch.from_numpy(self.present).to(batch.device, self.program.dtype)
        gates = present.expand(len(batch) if apart else 1, -1).clone().requires_grad_()

        gating = self.gating_by_sample(gates)
        with torch.enable_grad():
            outputs = outputs_for_slopes(self.passes.program, batch.inputs, gating)
            losses = self.loss.each(outputs, batch.targets)
            (slopes,) = torch.autograd.grad(with_slope(losses, self.loss.name).sum(), gates)
        return slopes * present

    def gating_by_sample(self, gates: Float[Tensor, "rows ids"]) -> Gating:
        """Return the factors that some gates are: a row for each sample, or one row for all of them.

        Sites without an axis of samples keep the gates of this network where each sample has a row of its own.
        """

        def gating(site: Site, value: Tensor) -> Tensor:
            samples = self.program.samples_at(site)
            if samples is None and len(gates) > 1:
                return self.factor(site, value)
            factors = self.program.gates_at(site, gates)
            view = [1] * value.dim()
            view[site.axis] = factors.shape[1]
            if len(gates) == 1 or samples is None:
                return factors.view(view)
            factors = samples.spread(factors)
            view[samples.axis] = len(factors)
            return (factors if samples.axis < site.axis else factors.T).reshape(view)

        return gating

    def readings(
        self, batch: Batch, of: Callable[[Tensor], Tensor] = torch.positive
    ) -> Iterator[tuple[Group, Float[Tensor, "batch neurons"]]]:
        """Yield each group with what its readers see of each neuron in each sample: the mean of `of(g o)`, float64.

        The mean is over positions, then over the places where the neuron is read (readers, and elements of what one
        reads); a neuron that nobody reads gives 0. `of` is taken of each value before: `torch.abs`, `torch.square`,
        `lambda value: value != 0` ...

        Cost: one forward pass (one for each sample where a reader mixes samples with another axis); memory for the
        values read in one batch.
        """
        parts = split(batch.inputs, 1) if self.program.mixes_samples else [batch.inputs]
        read = self.by_group(torch.cat([self._read(inputs, of, apart=True) for inputs in parts]))
        yield from ((group, read[group.name]) for group in self.groups)

    def summed_readings(
        self, batch: Batch, of: Callable[[Tensor], Tensor] = torch.positive
    ) -> dict[str, Float[Tensor, " neurons"]]:
        """Return the sum of the readings over the samples, by group.

        Cost: one forward pass.
        """
        return self.by_group(self._read(batch.inputs, of, apart=False)[0])

    def _read(self, inputs: Inputs, of: Callable[[Tensor], Tensor], *, apart: bool) -> Float[Tensor, "rows ids"]:
        """The readings of one batch: a row for each sample, or one row for the sum of all of them."""
        totals = torch.zeros(len(inputs) if apart else 1, len(self.present), dtype=torch.float64)
        places = torch.zeros(len(self.present), dtype=torch.float64)
        for site, value in self.values_read(inputs).items():
            ids = torch.from_numpy(self.program.numbers[site])
            samples = self.program.samples_at(site) if apart else None
            # one row of all samples, or of weights, which no sample has a part in
            rows = value.movedim(site.axis, -1)
            rows = rows[None] if samples is None else samples.without(site.axis).gathered(rows)
            means = of(rows).double().reshape(len(rows), -1, len(ids)).mean(1).cpu()
            totals.index_add_(1, ids, means.expand(len(totals), -1) * (len(inputs) // len(totals)))
            places.index_add_(0, ids, torch.ones(len(ids), dtype=torch.float64))
        return totals / places.clamp(min=1)

    def values_read(self, inputs: Inputs) -> dict[Site, Tensor]:
        """Return the value that each site reads, after its gate."""
        read: dict[Site, Tensor] = {}

        def remember(site: Site, value: Tensor) -> Tensor:
            factors = self.factor(site, value)
            read[site] = value * factors
            return factors

        self.program.run(inputs, remember)
        return read

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """Split a tensor whose last axis runs over all neuron ids into one tensor for each group."""
        ids = {group.name: self.trace.ids_of(group) for group in self.groups}
        return {name: values[..., span.start : span.stop] for name, span in ids.items()}


def shaped_along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """View a vector as a tensor of that rank whose only long axis is `axis`."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.view(shape)


def gate(traced: Trace, loss: Loss, scoring: Scoring | None = None) -> GatedNetwork:
    """Put a gate, at 1, on every neuron of a traced network."""
    return GatedNetwork(Program(traced, scoring=scoring, reads=loss.reads), loss, traced.present())


def gated(
    task: Task, keep: str | Sequence[str] = (), only: str | Sequence[str] = (), scoring: Scoring | None = None
) -> GatedNetwork:
    """Trace a task's network and put a gate on every neuron that can be removed.

    Raises:
        NothingToRemoveError: there is none; the message gives the reasons.
    """
    known = _known(task)
    if known is not None:
        with suppress(UnfollowedOperatorError):  # its code is another one, not its weights
            return _gated(task, known, keep, only, scoring)
    return _gated(task, _traced_anew(task), keep, only, scoring)


def _gated(
    task: Task, found: Trace, keep: str | Sequence[str], only: str | Sequence[str], scoring: Scoring | None
) -> GatedNetwork:
    if found.groups:
        found = restrict(found, keep, only)
    if not found.groups:
        reasons = sorted({frozen.reason for frozen in found.frozen})
        raise NothingToRemoveError(
            "model must be a network with neurons that can be removed. Got one where every neuron is frozen "
            f"({'; '.join(reasons[:4]) or 'no parameters'}). See 'shrinknet inspect'."
        )
    network = gate(found, task.loss, scoring)
    _check_traced(task, network)
    return network


def traced(task: Task) -> Trace:
    """Return the trace of a task's network: made once, and again where its weights are no longer what they were."""
    return _known(task) or _traced_anew(task)


def _traced_anew(task: Task) -> Trace:
    task.learnt.trace = None  # two at once would take twice the memory
    found = trace(task.model, task.example_inputs, task.free)
    task.learnt.trace, task.learnt.sizes = found, shapes_text(task.example_inputs)
    return found


def _known(task: Task) -> Trace | None:
    """The trace of the network, where that has just the weights that it was traced with.

    They are compared with the trace's copies: the versions that torch counts do not see all that is written.
    """
    found: Trace | None = task.learnt.trace
    if found is None or task.learnt.sizes != shapes_text(task.example_inputs):
        return None
    copies, own = found.tensors, named_tensors(task.model)
    is_same = own.keys() <= copies.keys() and all(_is_same(tensor, copies[name]) for name, tensor in own.items())
    return found if is_same else None


def _is_same(one: Tensor, other: Tensor) -> bool:
    is_alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return is_alike and torch.equal(one, other)


ROWS_CHECKED = 64
"""On so many rows the graph is held against the network: a batch may be long, and a network slow."""


def _check_traced(task: Task, network: GatedNetwork) -> None:
    """The root of every proof: the traced network computes what the user's own does, on rows of every size there is."""
    most = network.program.scoring.pass_bytes // max(1, network.program.held.while_running)
    inputs = next(task.calibration.batches()).inputs[: min(ROWS_CHECKED, max(EXAMPLE_BATCH, most))]
    with evaluating(task.model), torch.no_grad():
        if not are_alike(called(task.model, inputs), network.outputs(inputs)):
            raise UnfollowedOperatorError(
                "Cannot follow values through the model: its exported graph computes something else than the model "
                "itself. Look for tensors changed in place, and for code that depends on the number of samples."
            )
        for example in task.examples:
            check_within(network.trace.module, network.trace.free, example)
        for given in (*task.examples[1:], *network.trace.other_sizes(inputs)):
            _check_traced_at(network, given, called_at(task.model, given))


def _check_traced_at(network: GatedNetwork, inputs: AnyInputs, own: Any) -> None:
    """Raise BadInputError where the graph computes something else on inputs of other sizes than it was traced with."""
    try:
        if are_alike(own, network.outputs(inputs)):
            return
        said = "other outputs than the network's"
    except (RuntimeError, IndexError, ValueError) as error:
        said = first_line(error)
    got = f"inputs of shapes {shapes_text(inputs)}, of which the graph with the first batch's sizes said: {said}"
    do = "Say these axes, or pad all batches to one size."
    raise BadInputError("free", "inputs with the axes along which batches differ, such as {'input_ids': [1]}", got, do)


def called_at(model: nn.Module, inputs: AnyInputs) -> Any:
    """Call a network with inputs of other sizes than the example's.

    Raises:
        BadInputError: it does not take them.
    """
    try:
        return called(model, inputs)
    except Exception as error:  # whatever the user's own forward raises
        got = f"inputs of shapes {shapes_text(inputs)}, of which it said: {first_line(error)}"
        do = "Name every input of that length, or leave it fixed."
        raise BadInputError("free", "axes along which the network takes twice and half the length", got, do) from error
