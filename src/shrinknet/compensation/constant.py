"""The constant that stands in for a removed neuron, such that the loss is least: a step of its readers' biases.

From the biases that keep the means (`mean`), one Gauss-Newton step with the empirical Fisher matrix,

    b' = b - t (F + r I)^-1 g,    g = mean g_i,  F = mean g_i g_i^T,  g_i = d loss_i / d b,

r a share of F's mean diagonal; t is the first of 1, 1/2, 1/4, 1/8 by which the calibration loss falls. Where none does,
the biases stay: the loss is never higher than with `mean`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.compensation.readers import Reader, downstream
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch

DAMPING = 0.1
"""The share of the mean curvature that every bias has."""

STEPS = (1.0, 0.5, 0.25, 0.125)


@torch.no_grad()
def least_loss(
    network: GatedNetwork, batch: Batch, values: Mapping[Node, Any], fitted: Sequence[Reader]
) -> dict[Node, Tensor]:
    """Return new biases, by the nodes that hold them, of readers that were just fit; none where none lowers the loss.

    Args:
        network: masked and refit.
        batch: the calibration rows.
        values: what each node of the network gives on them.
        fitted: the readers; those that have no bias are left out.

    Cost: what lies behind the readers, forward and back; at most four forward passes of the whole network.
    """
    has_samples = (reader for reader in fitted if reader.gives_value and len(values[reader.node]) == len(batch))
    biased = list({reader.node: reader for reader in has_samples if reader.bias is not None}.values())
    if not biased:
        return {}
    slopes = [one.double() for one in _slopes(network, batch, values, biased)]
    each = torch.cat(slopes, 1)
    fisher, slope = each.T @ each / len(each), each.mean(0)
    held = DAMPING * fisher.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    step = -torch.linalg.solve(fisher + held * torch.eye(len(fisher)).to(fisher), slope)
    parts = step.split([one.shape[1] for one in slopes])
    before = _loss(network, batch)
    for share in STEPS:
        moved = {
            reader.bias: network.program.constants[reader.bias] + (share * part).to(network.program.dtype)
            for reader, part in zip(biased, parts, strict=True)
            if reader.bias is not None
        }
        if _loss(network.refit({str(bias.target): value for bias, value in moved.items()}), batch) < before:
            return moved
    return {}


def _loss(network: GatedNetwork, batch: Batch) -> float:
    """The mean loss of a masked network on a batch."""
    outputs = network.program.outputs(batch.inputs, network.gating())
    return float(network.loss.of(network.loss.read(outputs), batch.targets).double().mean())


def _slopes(
    network: GatedNetwork, batch: Batch, values: Mapping[Node, Any], fitted: Sequence[Reader]
) -> Sequence[Tensor]:
    """Return d loss_i / d b of each reader [samples, outputs]: what lies behind them runs once more."""
    program, gating = network.program, network.gating()
    rerun, found, moves = downstream(reader.node for reader in fitted), dict(values), list[Tensor]()
    with torch.enable_grad():
        for reader in fitted:
            y = values[reader.node]
            axis = y.dim() - 1 if reader.is_dense else 1
            shape = [size if place in (0, axis) else 1 for place, size in enumerate(y.shape)]
            moves.append(y.new_zeros(shape, requires_grad=True))
        by_node = {reader.node: move for reader, move in zip(fitted, moves, strict=True)}
        for node in program.nodes:
            if node in rerun:
                found[node] = program.call(node, found, gating)
            if node in by_node:
                found[node] = found[node] + by_node[node]
        losses = network.loss.of(program.judged(found), batch.targets)
        return [slope.flatten(1) for slope in torch.autograd.grad(losses.sum(), moves)]
