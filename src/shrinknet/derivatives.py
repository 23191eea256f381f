"""Slopes and curvature of the loss in a gate, exact, for many neurons at once."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.fx import Node

from shrinknet.ablation.replay import Replay
from shrinknet.data import Batch
from shrinknet.gates import GatedNetwork
from shrinknet.passes import Values
from shrinknet.records import Group

Pair = tuple[Float[Tensor, " candidates"], Float[Tensor, " candidates"]]
"""For each candidate dE/dg and d2E/dg2 at g = 1, E summed over the samples of the batch."""


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

    Cost: about five replays; memory for one replayed chunk and its graph.
    """
    gates = _ones(replay, candidates).requires_grad_()
    with torch.enable_grad():
        losses = replay.losses(group, candidates, gates, plain=True).double().sum()
        (slope,) = torch.autograd.grad(losses, gates, create_graph=True)
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
    gates = _ones(replay, candidates)
    outputs, along, *_ = torch.func.jvp(
        lambda gates: replay.outputs(group, candidates, gates, plain=True), (gates,), (torch.ones_like(gates),)
    )
    steps = torch.zeros_like(gates, requires_grad=True)
    with torch.enable_grad():
        moved = outputs + steps.view(-1, *[1] * (outputs.dim() - 1)) * along
        losses = replay.network.loss.of_candidates(moved, replay.batch.targets).double().sum()
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
    has no second derivative of its own (Sharma, Wolfe, Raj 2017, second order, cross terms included). H is written as
    `sum_r l_r u_r u_r^T`, so that each direction u_r takes one vector-Jacobian product for all neurons at once.

    Cost: one forward pass, a backward pass for each element of v (one of them for the slope), and as many through what
    lies behind it alone; memory for one number for each sample and neuron.
    """
    program, present = network.passes.program, torch.from_numpy(network.present).to(batch.inputs.device)
    slope, hessian = _in_value(network, bend, network.kept_values(batch.inputs), batch.targets)
    weights, directions = torch.linalg.eigh(hessian)
    gates = present.to(program.dtype).expand(len(batch), -1).clone().requires_grad_()
    with torch.enable_grad():
        value = program.run(batch.inputs, network.gating_by_sample(gates), keep=True)[bend].flatten(1)

    def along(direction: Tensor) -> Tensor:
        (products,) = torch.autograd.grad(value, gates, direction.to(value.dtype), retain_graph=True)
        return products.double()

    curvature = torch.zeros(len(present), dtype=torch.float64, device=gates.device)
    least = float(weights.abs().max()) * torch.finfo(torch.float64).eps
    for weight, direction in zip(weights.unbind(1), directions.unbind(2), strict=True):
        if float(weight.abs().max()) > least:  # softmax is blind to a shift of all outputs
            curvature += weight @ along(direction).square()
    return along(slope).sum(0) * present, curvature * present


def _in_value(network: GatedNetwork, bend: Node, values: Values, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and Hessian of each sample's loss in the elements of one value: [batch, elements], and once more."""
    program = network.passes.program
    nodes = program.nodes[program.nodes.index(bend) + 1 :] if bend is not program.output else []
    with torch.enable_grad():
        start = values[bend].detach().requires_grad_()
        moved = {**values, bend: start}
        behind = {bend}
        for node in nodes:
            if not behind.isdisjoint(node.all_input_nodes):
                moved[node] = program.call(node, moved, network.gating(), plain=True)
                behind.add(node)
        losses = network.loss.of(moved[program.output].double(), targets).sum()
        (slope,) = torch.autograd.grad(losses, start, create_graph=True)
        slopes = slope.flatten(1)
        if not slopes.requires_grad:
            return slopes.detach(), slopes.new_zeros(*slopes.shape, slopes.shape[1]).double()
        rows = [torch.autograd.grad(one.sum(), start, retain_graph=True)[0].flatten(1) for one in slopes.unbind(1)]
    return slopes.detach(), torch.stack(rows, 1).double()


def _ones(replay: Replay, candidates: Tensor) -> Tensor:
    dtype, device = replay.network.program.dtype, replay.batch.inputs.device
    return torch.ones(len(candidates), dtype=dtype, device=device)
