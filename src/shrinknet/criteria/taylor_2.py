"""Second-order Taylor with the exact second derivative in the gate."""

from torch import Tensor
from torch.fx import Node

from shrinknet.core.records import Group
from shrinknet.criteria.base import Cost, Criterion, Statistics, over_candidates
from shrinknet.engine.derivatives import curvatures_by_output, elements_of, in_chunks, slope_and_curvature
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.replay import Replay
from shrinknet.engine.route import route
from shrinknet.task.data import Batch

REPLAYS = 5
"""What two derivatives cost, in replays: more elements than this for each neuron, and replays are the cheaper way."""


class Taylor2(Criterion):
    """`-dE/dg + 1/2 d2E/dg2` at g = 1, exact, cross terms between the next layer's neurons included.

    With o the neuron's output this is `mean_n [ -o g_n + 1/2 o^2 h_n ]` where h_n = d2L_n/do^2 through the whole
    network (Sharma, Wolfe, Raj 2017, second order, without the diagonal approximation of its appendix). It equals
    `ablation` where the loss is quadratic in the gate.

    Where the outputs (or a value just before them) are a piecewise linear function of a gate, as they are behind ReLU
    and max pooling, the second derivative is `J^T H J`, and all such neurons take one backward pass for each element
    of that value together. The others (smooth activations, residual streams that are read again) are differentiated
    twice through their replay, as exactly; so are all under a loss that couples samples.

    Cost: one forward pass; C + 1 backward passes for the first kind, C the number of outputs; about five replays of
    what lies downstream for each neuron of the second. Memory for the graph
    of one chunk of candidates' replays.
    """

    name, unit = "taylor-2", "loss"

    def cost(self, network: GatedNetwork) -> Cost:
        """Return what one ranking costs: both kinds of neurons."""
        bends = dict.fromkeys(bend_of(network, group) for group in network.groups)
        behind = {bend: elements_of(bend) for bend in bends if bend is not None}
        replayed = self.differentiated_twice(network)
        return Cost(1 + len(behind), replays=REPLAYS + 3, replayed=replayed, behind=behind)

    def differentiated_twice(self, network: GatedNetwork) -> tuple[Group, ...]:
        """Return the groups behind which no value is narrow enough to take its elements one by one."""
        return tuple(group for group in network.groups if bend_of(network, group) is None)

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed estimates over the batch."""
        bends = {group: bend_of(network, group) for group in network.groups}
        replayed = [group for group, bend in bends.items() if bend is None]
        found = dict(over_candidates(network, batch, parabola_at_zero, replayed)) if replayed else {}
        for bend in dict.fromkeys(bend for bend in bends.values() if bend is not None):
            slopes, curvatures = curvatures_by_output(network, batch, bend)
            estimates = network.by_group(-slopes + curvatures / 2)
            found |= {group.name: estimates[group.name] for group, its in bends.items() if its is bend}
        return {group.name: found[group.name] for group in network.groups}


def parabola_at_zero(replay: Replay, group: Group, candidates: Tensor) -> Tensor:
    """Return the rise of the summed loss that each candidate's parabola predicts at gate 0."""
    slope, curvature = in_chunks(slope_and_curvature, replay, group, candidates)
    return -slope.double() + curvature.double() / 2


def bend_of(network: GatedNetwork, group: Group) -> Node | None:
    """The value that stands between the group and the loss, if one is narrow enough to take its elements one by one."""
    program = network.passes.program
    if network.loss.couples_samples:  # the Hessian has blocks between samples: replays know them all
        return None
    bend = route(program, network.trace.ids_of(group)).bend
    if bend is None:
        return None
    is_narrow = elements_of(bend) <= network.trace.num_neurons * REPLAYS
    return bend if is_narrow and 8 * elements_of(bend) ** 2 <= network.program.scoring.pass_bytes else None
