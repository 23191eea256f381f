"""Gates: a factor on each neuron, placed where neurons are mixed (design 4.2).

A removed neuron contributes nothing to any reader, so the gate multiplies the input of every operator that mixes the
neurons of its group: a dense layer, a convolution. That is exact for every activation, since sigmoid(0) never leaks.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from shrinknet.data import Batch
from shrinknet.errors import NothingToRemoveError, UnfollowedOperatorError
from shrinknet.graph.restrict import restrict
from shrinknet.graph.rules.base import Site
from shrinknet.graph.trace import Present, Trace, trace
from shrinknet.losses import Loss, checked
from shrinknet.records import Group, Neuron
from shrinknet.task import Task, evaluating

Gating = Callable[[Site, Tensor], Tensor]
"""Given a site and the value read there, the value after the gate."""


class Program:
    """The graph of a trace, ready to run node by node, with values freed after their last reader.

    Args:
        trace: the graph, its tensors and the sites where neurons are read.
        dtype: compute in this precision instead of the network's own.
    """

    def __init__(self, trace: Trace, dtype: torch.dtype | None = None) -> None:
        self.trace = trace
        self.nodes = [node for node in trace.nodes if node.op == "call_function"]
        self.sites: dict[str, list[Site]] = {}
        for site in trace.sites:
            self.sites.setdefault(site.node, []).append(site)
        tensors = trace.tensors
        self.constants: dict[Node, Any] = {
            node: _as_dtype(tensors[node.target], dtype) if node.target in tensors else None
            for node in trace.nodes
            if node.op == "get_attr"
        }
        self.input = next(node for node in trace.nodes if node.op == "placeholder")
        (self.output,) = next(node for node in trace.nodes if node.op == "output").all_input_nodes
        last_reader = {given: node for node in self.nodes for given in node.all_input_nodes}
        self.dead_after: dict[Node, list[Node]] = {}
        for given, node in last_reader.items():
            if given not in self.constants and given is not self.output:
                self.dead_after.setdefault(node, []).append(given)

    def run(self, inputs: Tensor, gating: Gating | None, *, keep: bool = False) -> dict[Node, Any]:
        """Run the whole graph; return every value, or only the output unless `keep`."""
        values = {**self.constants, self.input: inputs}
        for node in self.nodes:
            values[node] = self.call(node, values, gating)
            if not keep:
                for dead in self.dead_after.get(node, ()):
                    del values[dead]
        return values

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the outputs with every gate at 1."""
        return self.run(inputs, None)[self.output]  # type: ignore[no-any-return]

    def call(self, node: Node, values: Mapping[Node, Any], gating: Gating | None) -> Any:
        """Run one node on the values of its arguments, each gated where it reads neurons."""
        args: list[Any] = [map_arg(argument, values.__getitem__) for argument in node.args]
        if gating is not None:
            for site in self.sites.get(node.name, ()):
                args[site.argument] = gating(site, args[site.argument])
        return node.target(*args, **map_arg(node.kwargs, values.__getitem__))  # type: ignore[operator]

    @cached_property
    def has_samples_first(self) -> bool:
        """Whether every reader's first axis is the samples' (and not another axis, or samples mixed with one)."""
        samples = self.input.meta["val"].shape[0]
        sizes = [self.source(site).meta["val"].shape[0] for sites in self.sites.values() for site in sites]
        return all(isinstance(size, torch.SymInt) and str(size) == str(samples) for size in sizes)

    @cached_property
    def bytes_per_sample(self) -> int:
        """The memory of every value of the graph for one sample: what a pass that keeps them all needs."""
        present = self.trace.present()
        values = [node for node in (self.input, *self.nodes) if isinstance(node.meta["val"], Tensor)]
        return sum(math.prod(self.trace.shape(node, present)) * node.meta["val"].element_size() for node in values)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The precision that the network computes in."""
        constants = [value for value in self.constants.values() if isinstance(value, Tensor)]
        return next((value.dtype for value in constants if value.is_floating_point()), torch.get_default_dtype())

    def source(self, site: Site) -> Node:
        """Return the node whose value is read at a site."""
        return next(node for node in self.nodes if node.name == site.node).args[site.argument]  # type: ignore

    @cached_property
    def ids(self) -> dict[Site, Tensor]:
        """The neuron id of each element along the axis read at each site."""
        layouts = self.trace.layouts
        device = next((tensor.device for tensor in self.trace.tensors.values()), torch.device("cpu"))
        return {
            site: torch.from_numpy(np.asarray(layouts[self.source(site).name][site.axis])).to(device)
            for sites in self.sites.values()
            for site in sites
        }


@dataclass(frozen=True, slots=True)
class GatedNetwork:
    """A traced network with a gate on every neuron, and the loss it is judged by.

    `present` says which gates are 1; `without` gives another network, it changes nothing.
    """

    program: Program
    loss: Loss
    present: Present

    @property
    def trace(self) -> Trace:
        """The graph and its groups."""
        return self.program.trace

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of neurons that can be removed."""
        return self.trace.groups

    def alive(self, group: Group) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the indices of a group's neurons that are still there."""
        ids = self.trace.ids_of(group)
        return np.flatnonzero(self.present[ids.start : ids.stop])

    def without(self, neurons: Iterable[Neuron]) -> "GatedNetwork":
        """Return the network with these neurons switched off as well."""
        return replace(self, present=self.present & self.trace.present(tuple(neurons)))

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the masked network."""
        return self.program.run(inputs, self.gating())[self.program.output]  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Return the loss of each sample."""
        return checked(self.loss.of(self.outputs(batch.inputs), batch.targets), len(batch), self.loss.name)

    def gating(self) -> Gating | None:
        """Return the factors of the present gates; None where every neuron is there (the same bits then)."""
        if bool(self.present.all()):
            return None
        return lambda site, value: value * self.factor(site, value)

    def factor(self, site: Site, value: Tensor) -> Tensor:
        """Return the 0/1 factors at a site, shaped to multiply the value read there."""
        present = torch.from_numpy(self.present).to(value.device)[self.program.ids[site]]
        return shaped_along(present.to(value.dtype), site.axis, value.dim())

    def gate_slopes(self, batch: Batch) -> dict[str, Float[Tensor, "batch neurons"]]:
        """Return d loss_n / d gate for each sample n and each neuron, by group; 0 for neurons already gone.

        Cost: one forward and one backward pass (one for each sample where a reader's first axis is not the samples');
        memory for one number for each sample and neuron.
        """
        if self.program.has_samples_first:
            return self.by_group(self._slopes(batch))
        rows = zip(batch.inputs.split(1), batch.targets.split(1), strict=True)
        return self.by_group(torch.cat([self._slopes(Batch(*row)) for row in rows]))

    def _slopes(self, batch: Batch) -> Float[Tensor, "batch ids"]:
        """The slopes of one batch: every sample has gates of its own, or the one sample has all of them."""
        present = torch.from_numpy(self.present).to(batch.inputs.device, self.program.dtype)
        gates = present.expand(len(batch), -1).clone().requires_grad_()

        def gating(site: Site, value: Tensor) -> Tensor:
            factors = gates[:, self.program.ids[site]]
            view = [len(batch) if self.program.has_samples_first else 1] + [1] * (value.dim() - 1)
            view[site.axis] = factors.shape[1]
            return value * factors.view(view)

        with torch.enable_grad():
            outputs = self.program.run(batch.inputs, gating)[self.program.output]
            losses = checked(self.loss.of(outputs, batch.targets), len(batch), self.loss.name)
            (slopes,) = torch.autograd.grad(losses.sum(), gates)
        return slopes * present

    def readings(self, inputs: Tensor) -> dict[Site, Tensor]:
        """Return the value that each site reads, after its gate."""
        read: dict[Site, Tensor] = {}
        gating = self.gating() or (lambda _, value: value)

        def remember(site: Site, value: Tensor) -> Tensor:
            read[site] = gating(site, value)
            return read[site]

        self.program.run(inputs, remember)
        return read

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """Split a tensor whose last axis runs over all neuron ids into one tensor for each group."""
        ids = {group.name: self.trace.ids_of(group) for group in self.groups}
        return {name: values[..., span.start : span.stop] for name, span in ids.items()}


def _as_dtype(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


ROUNDINGS = 1000
"""How many roundings two computations of the same outputs may differ by."""


def tolerance(precision: torch.dtype, largest: float) -> float:
    """Return the largest difference that rounding explains: 1000 * eps * max(1, largest |output|).

    >>> round(tolerance(torch.float32, 10.0), 6)
    0.001192
    """
    return float(ROUNDINGS * torch.finfo(precision).eps * max(1.0, largest))


def shaped_along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """View a vector as a tensor of that rank whose only long axis is `axis`."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.view(shape)


def gate(traced: Trace, loss: Loss) -> GatedNetwork:
    """Put a gate, at 1, on every neuron of a traced network."""
    return GatedNetwork(Program(traced), loss, traced.present())


def gated(task: Task, keep: str | Sequence[str] = (), only: str | Sequence[str] = ()) -> GatedNetwork:
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
    network = gate(traced, task.loss)
    _check_traced(task, network)
    return network


def _check_traced(task: Task, network: GatedNetwork) -> None:
    """The root of every proof: the traced network computes what the user's own does."""
    inputs = next(task.calibration.batches()).inputs
    with evaluating(task.model), torch.no_grad():
        own, traced = task.model(inputs), network.outputs(inputs)
    allowed = tolerance(own.dtype, float(own.abs().max()))
    if own.shape != traced.shape or not float((own - traced).abs().max()) <= allowed:
        raise UnfollowedOperatorError(
            "Cannot follow values through the model: its exported graph computes something else than the model itself. "
            "Look for tensors changed in place, and for code that depends on the number of samples."
        )
