"""Optimal Cell Damage: Optimal Brain Damage summed over the weights that a neuron is read by."""

from shrinknet.criteria.base import Criterion, Statistics
from shrinknet.engine.diagonal import nodes_followed, summed_by_neuron
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch, Data


class OptimalCellDamage(Criterion):
    """`sum over the weights w that read the neuron of 1/2 h w^2`, h = d2E/dw2 by second-order back-propagation.

    Optimal Brain Damage (LeCun, Denker, Solla 1989) takes E for quadratic, its slope for zero and its Hessian for
    diagonal, `s = 1/2 h w^2` for each weight; a neuron's is the sum over its fan-out (Cibas, Fogelman Soulie,
    Gallinari, Raudys 1994). With `h = h(x_i) o^2` for the weight from o to x_i (LeCun's recursion) that is
    `1/2 o^2 sum_i h(x_i) w_i^2`, the second-order term of `taylor-2-diagonal` alone.

    Args:
        levenberg_marquardt: drop the activations' own curvature from the recursion, so that no h is negative.

    Cost: see `taylor-2-diagonal`. For networks of dense layers and element-wise activations.

    Raises:
        UnfollowedOperatorError: the network holds another operator.
    """

    name, unit = "optimal-cell-damage", "loss"
    needs_each_sample = True

    def __init__(self, levenberg_marquardt: bool = False) -> None:
        self.levenberg_marquardt = levenberg_marquardt

    def check(self, network: GatedNetwork, data: Data) -> None:
        """Raise UnfollowedOperatorError where the recursion does not go through an operator."""
        nodes_followed(network.program)

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed saliencies over the batch."""
        bent = not self.levenberg_marquardt
        return summed_by_neuron(network, batch, lambda o, _, curvature: o.square() * curvature / 2, bent=bent)
