"""Slopes and curvature of the loss in a gate, exact, for many neurons at once."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shrinknet.ablation.replay import Replay
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


def _ones(replay: Replay, candidates: Tensor) -> Tensor:
    dtype, device = replay.network.program.dtype, replay.batch.inputs.device
    return torch.ones(len(candidates), dtype=dtype, device=device)
