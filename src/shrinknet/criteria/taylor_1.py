"""First-order Taylor: the slope of the loss in the gate."""

from shrinknet.criteria.base import Cost, Criterion, Statistics
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch


class Taylor1(Criterion):
    """`-dE/dg` at g = 1: the rise of the mean loss that the tangent predicts, signed.

    Because the gated activation is g * o, this is `mean_n [ -o_k dL_n/do_k ]` (Sharma, Wolfe, Raj 2017, first order;
    the relevance of Mozer and Smolensky 1989 under the training loss). The product is summed over positions within
    a sample, then over samples.

    Cost: one forward and one backward pass over the data; memory for one number for each sample and neuron.
    """

    name, unit = "taylor-1", "loss"
    follows_slopes = True

    def cost(self, network: GatedNetwork) -> Cost:
        """Return what one ranking costs."""
        return Cost(backward=1)

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed slopes, turned round."""
        return {group: -slopes for group, slopes in network.summed_gate_slopes(batch).items()}
