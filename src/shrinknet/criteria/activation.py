"""Activation: how loud a neuron is."""

import torch

from shrinknet.criteria.base import Criterion, Statistics, Sums, mean_over_samples
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch


class Activation(Criterion):
    """`mean_n |o_k(x_n)|`, the mean absolute value that readers see (mean over positions and reading sites too).

    Not in loss units. Related to the average percentage of zeros (Hu et al. 2016), which counts instead of weighing.

    Cost: one forward pass over the data; memory for the values read in one batch.
    """

    name = "activation"
    unit = "mean |activation|"

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed mean absolute values of each sample."""
        totals = torch.zeros(len(network.present), dtype=torch.float64)
        places = torch.zeros(len(network.present), dtype=torch.float64)
        for site, value in network.readings(batch.inputs).items():
            loudness = value.abs().movedim(site.axis, 0).flatten(1).double().mean(1).cpu() * len(batch)
            ids = network.program.ids[site].cpu()
            totals.index_add_(0, ids, loudness)
            places.index_add_(0, ids, torch.ones_like(loudness))
        return network.by_group(totals / places.clamp(min=1))

    def conclude(self, network: GatedNetwork, sums: Sums) -> Statistics:
        """Return means over samples."""
        return mean_over_samples(sums)
