"""The source paper's second-order back-propagation, which keeps only the diagonal of each layer's Hessian."""

from shrinknet.criteria.base import Criterion, Statistics
from shrinknet.engine.diagonal import nodes_followed, summed_by_neuron
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch, Data


class Taylor2Diagonal(Criterion):
    """`mean_n [ -o g + 1/2 o^2 h ]` with h from the recursion of Sharma, Wolfe, Raj 2017, equations 8 to 10.

    For o = s(x), x = W o_below + b, from the outputs backwards::

        g(x) = g(o) s'(x)        h(x) = h(o) s'(x)^2 + g(o) s''(x)        (10)
        g(o_below) = g(x) W      h(o_below) = h(x) W^2                    (8): cross terms are dropped

    It equals `taylor-2` in the last hidden layer when the loss treats the outputs independently (squared error with
    element-wise outputs) and falls behind in deeper layers. A value that several operators read, and an output among
    several, adds what it says: (8) runs over all that a neuron feeds. For networks of dense layers, operators on
    single elements, and what moves or adds up elements.

    Cost: one forward pass, one pass backwards and one backward pass for each output; memory for one batch's values.

    Raises:
        UnfollowedOperatorError: the network holds another operator.
    """

    name, unit = "taylor-2-diagonal", "loss"
    needs_each_sample = True

    def check(self, network: GatedNetwork, data: Data) -> None:
        """Raise UnfollowedOperatorError where the recursion does not go through an operator."""
        nodes_followed(network.program)

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed estimates over the batch."""
        return summed_by_neuron(network, batch, lambda o, slope, curvature: -o * slope + o.square() * curvature / 2)
