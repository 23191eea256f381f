"""Second-order Taylor with the Gauss-Newton part of the second derivative."""

from torch import Tensor

from shrinknet.core.records import Group
from shrinknet.criteria.base import Cost, Criterion, Statistics, over_candidates
from shrinknet.engine.derivatives import in_chunks, slope_and_gauss_newton
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.replay import Replay
from shrinknet.task.data import Batch


class GaussNewton(Criterion):
    """`-dE/dg + 1/2 J^T H J` at g = 1: the curvature of the loss along the change of the outputs, J = d outputs/dg.

    H is the Hessian of the loss in the outputs; the curvature of the network itself is dropped, so the second term
    is never negative for a convex loss. Equal to `taylor-2` in piecewise-linear networks (Schraudolph 2002).

    Cost: one forward pass, about two replays of what lies downstream and two backward passes through the loss alone;
    memory for one chunk of candidates.
    """

    name, unit = "gauss-newton", "loss"
    splits_by_group = True

    def cost(self, network: GatedNetwork) -> Cost:
        """Return what one ranking costs."""
        return Cost(replays=3)

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed estimates over the batch."""
        return over_candidates(network, batch, gauss_newton_at_zero)


def gauss_newton_at_zero(replay: Replay, group: Group, candidates: Tensor) -> Tensor:
    """Return the rise of the summed loss that slope and Gauss-Newton curvature predict at gate 0."""
    slope, curvature = in_chunks(slope_and_gauss_newton, replay, group, candidates)
    return -slope.double() + curvature.double() / 2
