"""Slopes and curvature of the loss in a gate, exact, for many neurons at once."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.fx import Node

from shrinknet.core.records import Group
from shrinknet.engine.checkpoints import values_for_slopes
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import Program
from shrinknet.engine.replay import Replay
from shrinknet.engine.route import route
from shrinknet.graph.widths import shape_of
from shrinknet.task.data import Batch
from shrinknet.task.losses import with_slope
from shrinknet.task.trees import of_each, tensors_of

Pair = tuple[Float[Tensor, " candidates"], Float[Tensor, " candidates"]]
"""For each candidate dE/dg and d2E/dg2 at g = 1, E summed over the samples of the batch."""


JACOBIAN_ELEMENTS = 2**22
"""Numbers of the Jacobians and Hessians of the samples that are taken at once; of one sample there may be more."""


GRAPHS_HELD = 2.5
"""A graph of second derivatives holds so many times the values of its replay."""


def bytes_for_curvature(network: GatedNetwork, group: Group) -> int:
    """Return what `slope_and_curvature` holds of the replay of one sample and candidate."""
    program = network.passes.program
    return int(GRAPHS_HELD * program.held.of(route(program, network.trace.ids_of(group)).replayed))


def in_chunks(
    derivatives: Callable[[Replay, Group, Tensor], Pair], replay: Replay, group: Group, candidates: Tensor
) -> Pair:
    """Take derivatives for as many candidates at a time as a replay holds."""
    pairs = [derivatives(replay, group, chunk) for chunk in replay.chunks(group, candidates)]
    slopes, curvatures = zip(*pairs, strict=True)
    return torch.cat(slopes), torch.cat(curvatures)


def slope_and_curvature(replay: Replay, group: Group, candidates: Int[Tensor, " candidates"]) -> Pair:
    """Return dE/dg and d2E/dg2 at g = 1 for each candidate, E summed over the samples of the batch.

    Each candidate is a function of its own gate only, so two backward passes through the replay give the second
    derivatives of all of them: exact for every activation, through every layer downstream.

    Cost: about five replays; memory for the graph of one chunk: `bytes_for_curvature` for each sample and candidate.
    """
    gates = _ones(replay, candidates).requires_grad_()
    with torch.enable_grad():
        losses = with_slope(replay.losses(group, candidates, gates, decomposed=True), replay.network.loss.name)
        (slope,) = torch.autograd.grad(losses.double().sum(), gates, create_graph=True)
        if not slope.requires_grad:  # the loss is linear in the gates
            return slope.detach(), torch.zeros_like(slope)
        (curvature,) = torch.autograd.grad(slope.sum(), gates)
    return slope.detach(), curvature


def slope_and_gauss_newton(replay: Replay, group: Group, candidates: Int[Tensor, " candidates"]) -> Pair:
    """Return dE/dg and the Gauss-Newton part J^T H J of d2E/dg2 at g = 1, summed over the samples.

    J = d outputs / dg comes from one forward-mode pass; H is the Hessian of the loss in the outputs, met along J
    only: J^T H J = d2/ds2 loss(outputs + s J) at s = 0. What is dropped is the curvature of the network itself.

    Cost: about two replays and two backward passes through the loss alone.
    """
    gates, returned = _ones(replay, candidates), list[Any]()

    def tensors(gates: Tensor) -> tuple[Tensor, ...]:
        returned[:] = [replay.outputs(group, candidates, gates, decomposed=True)]
        return tuple(one for one in tensors_of(returned[0]) if one.is_floating_point())

    outputs, along, *_ = torch.func.jvp(tensors, (gates,), (torch.ones_like(gates),))
    steps = torch.zeros_like(gates, requires_grad=True)
    with torch.enable_grad():
        moved = (y + steps.view(-1, *[1] * (y.dim() - 1)) * slope for y, slope in zip(outputs, along, strict=True))
        whole = of_each(returned[0], lambda one: next(moved) if one.is_floating_point() else one)
        loss = replay.network.loss
        losses = with_slope(loss.of_candidates(whole, replay.batch.targets), loss.name).double().sum()
        (slope,) = torch.autograd.grad(losses, steps, create_graph=True)
        if not slope.requires_grad:
            return slope.detach(), torch.zeros_like(slope)
        (curvature,) = torch.autograd.grad(slope.sum(), steps)
    return slope.detach(), curvature


def curvatures_by_output(
    network: GatedNetwork, batch: Batch, bend: Node
) -> tuple[Float[Tensor, " ids"], Float[Tensor, " ids"]]:
    """Return dE/dg and d2E/dg2 at g = 1 of every neuron whose gate moves a value v in pieces of straight lines.

    With J = dv/dg and H the Hessian of the loss in v, both of one sample, `d2E/dg2 = sum over samples of J^T H J`: v
    has no second derivative of its own (Sharma, Wolfe, Raj 2017, second order, cross terms included). Each element of v
    takes one vector-Jacobian product for all neurons at once.

    Cost: one forward pass, a backward pass for each element of v, and as many through what lies behind it alone; memory
    for `elements x (elements + neurons)` numbers for each sample, of some samples at a time.
    """
    rows = max(1, JACOBIAN_ELEMENTS // (elements_of(bend) * (elements_of(bend) + len(network.present))))
    if rows < len(batch):
        parts = (curvatures_by_output(network, part, bend) for part in batch.split(rows))
        slopes, curvatures = zip(*parts, strict=True)
        return sum(slopes), sum(curvatures)
    program, present = network.passes.program, torch.from_numpy(network.present).to(batch.device)
    slope, hessian = _in_value(network, bend, batch)
    gates = present.to(program.dtype).expand(len(batch), -1).clone().requires_grad_()
    with torch.enable_grad():
        value = values_for_slopes(program, batch.inputs, network.gating_by_sample(gates), upto=bend)[bend]
        jacobian = _by_element(value.reshape(len(batch), -1), gates)
    jacobian = (jacobian * present).to(hessian.dtype)
    curvature = torch.einsum("nck,nck->k", jacobian, hessian @ jacobian)
    return torch.einsum("nc,nck->k", slope.to(hessian.dtype), jacobian), curvature


def _by_element(value: Tensor, given: Tensor) -> Float[Tensor, "batch elements inputs"]:
    """The derivatives of each element of a value [batch, elements] in what its own sample was given."""
    ones = torch.eye(value.shape[1], dtype=value.dtype, device=value.device)
    rows = [torch.autograd.grad(value, given, one.expand_as(value), retain_graph=True)[0] for one in ones]
    return torch.stack([row.reshape(len(row), -1) for row in rows], 1)


def elements_of(node: Node) -> int:
    """Return how many elements a node's value has for each sample."""
    return math.prod(shape_of(node.meta["val"])[1:])


def _in_value(network: GatedNetwork, bend: Node, batch: Batch) -> tuple[Tensor, Tensor]:
    """Slope and Hessian of each sample's loss in the elements of one value: [batch, elements], and once more."""
    program = network.passes.program
    behind = _behind(program, bend)
    values = network.kept_values(batch, {bend, *(given for node in behind for given in node.all_input_nodes)})
    with torch.enable_grad():
        start = values[bend].detach().requires_grad_()
        moved = {**values, bend: start}
        for node in behind:
            moved[node] = program.call(node, moved, network.gating(), decomposed=True)
        losses = with_slope(network.loss.of(moved[program.output].double(), batch.targets), network.loss.name).sum()
        (slope,) = torch.autograd.grad(losses, start, create_graph=True)
        slopes = slope.reshape(len(slope), -1)
        if not slopes.requires_grad:
            return slopes.detach(), slopes.new_zeros(*slopes.shape, slopes.shape[1]).double()
        hessian = _by_element(slopes, start)
    return slopes.detach(), hessian.double()


def _behind(program: Program, bend: Node) -> list[Node]:
    """The nodes that depend on one value."""
    behind = {bend: None}
    for node in program.nodes:
        if not behind.keys().isdisjoint(node.all_input_nodes):
            behind[node] = None
    return list(behind)[1:]


def _ones(replay: Replay, candidates: Tensor) -> Tensor:
    dtype, device = replay.network.program.dtype, replay.batch.device
    return torch.ones(len(candidates), dtype=dtype, device=device)
