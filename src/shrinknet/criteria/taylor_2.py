"""Second-order Taylor with the exact second derivative in the gate."""

from torch import Tensor

from shrinknet.ablation.replay import Replay
from shrinknet.criteria.base import Criterion, Statistics, mean_over_samples, over_candidates
from shrinknet.data import Batch
from shrinknet.derivatives import in_chunks, slope_and_curvature
from shrinknet.gates import GatedNetwork
from shrinknet.records import Group


class Taylor2(Criterion):
    """`-dE/dg + 1/2 d2E/dg2` at g = 1, exact, cross terms between the next layer's neurons included.

    With o the neuron's output this is `mean_n [ -o g_n + 1/2 o^2 h_n ]` where h_n = d2L_n/do^2 through the whole
    network (Sharma, Wolfe, Raj 2017, second order, without the diagonal approximation of its appendix). It equals
    `ablation` where the loss is quadratic in the gate.

    Cost: one forward pass and about five replays of what lies downstream; memory for one chunk of candidates.
    """

    name = "taylor-2"

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed estimates over the batch."""
        return over_candidates(network, batch, parabola_at_zero)

    def conclude(self, sums: Statistics, num_samples: int) -> Statistics:
        """Return means over samples."""
        return mean_over_samples(sums, num_samples)


def parabola_at_zero(replay: Replay, group: Group, candidates: Tensor) -> Tensor:
    """Return the rise of the summed loss that each candidate's parabola predicts at gate 0."""
    slope, curvature = in_chunks(slope_and_curvature, replay, group, candidates)
    return -slope.double() + curvature.double() / 2
