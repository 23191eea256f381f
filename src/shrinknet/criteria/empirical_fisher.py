"""Empirical Fisher: the squared slope of the loss in the gate."""

from shrinknet.criteria.base import Cost, Criterion, Statistics
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch


class EmpiricalFisher(Criterion):
    """Half the mean squared slope of the loss in each gate, `1/(2N) sum_n (dL_n/dg)^2` (loss units, never negative).

    A second-order estimate that takes the slope of the mean loss for zero and the Hessian for the empirical Fisher
    (Theis et al. 2018; Crowley et al. 2018). Positions are summed within a sample before squaring.

    Cost: one forward and one backward pass over the data; memory for one number for each sample and neuron.
    """

    name, unit = "empirical-fisher", "loss"
    follows_slopes = True
    needs_each_sample = True

    def cost(self, network: GatedNetwork) -> Cost:
        """Return what one ranking costs."""
        return Cost(backward=1)

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return half the summed squares of each sample's slope."""
        slopes = network.gate_slopes(batch)
        return {group: slope.double().square().sum(0) / 2 for group, slope in slopes.items()}
