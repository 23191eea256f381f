"""Activation: how loud a neuron is."""

import torch

from shrinknet.criteria.base import Cost, Criterion, Statistics
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch


class Activation(Criterion):
    """`mean_n |o_k(x_n)|`, the mean absolute value that readers see (mean over positions and reading sites too).

    Not in loss units. Related to the average percentage of zeros (Hu et al. 2016), which counts instead of weighing.

    Cost: one forward pass over the data; memory for the values read in one batch.
    """

    name = "activation"
    unit = "mean |activation|"

    def cost(self, network: GatedNetwork) -> Cost:
        """Return what one ranking costs."""
        return Cost()

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed sizes of what is read."""
        return network.summed_readings(batch, torch.abs)
