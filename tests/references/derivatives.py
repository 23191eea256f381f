"""Slow, obvious twins of the fast computations: whole forward passes with a gate set by hand."""

import torch
from torch import Tensor

from shrinknet.core.records import Neuron
from shrinknet.engine.gates import GatedNetwork, Site


def mean_loss_at(network: GatedNetwork, batch, neuron: Neuron, gate: float | Tensor) -> Tensor:
    """The mean loss when one neuron's gate has that value: one whole forward pass."""
    group = next(group for group in network.groups if group.name == neuron.group)
    number = network.trace.ids_of(group).start + neuron.index
    present = torch.from_numpy(network.present).to(torch.float64)
    gates = torch.where(torch.arange(len(present)) == number, gate, present)

    def gating(site: Site, value: Tensor) -> Tensor:
        shape = [1] * value.dim()
        shape[site.axis] = -1
        return gates[network.program.ids[site]].view(shape)

    outputs = network.program.run(batch.inputs, gating)[network.program.output]
    return network.loss.of(outputs, batch.targets).mean()


def slope_and_curvature(network: GatedNetwork, batch, neuron: Neuron) -> tuple[float, float]:
    """First and second derivative of the mean loss in one gate, by two plain backward passes."""
    gate = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mean_loss_at(network, batch, neuron, gate), gate, create_graph=True)
    curvature = torch.autograd.grad(slope, gate)[0] if slope.requires_grad else torch.zeros(())
    return float(slope.detach()), float(curvature)
