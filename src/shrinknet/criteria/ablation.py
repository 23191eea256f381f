"""Ablation: the brute-force criterion, the oracle for all others."""

from torch import Tensor

from shrinknet.core.records import Group
from shrinknet.criteria.base import Cost, Criterion, Statistics, over_candidates
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.replay import Replay
from shrinknet.task.data import Batch


class Ablation(Criterion):
    """The true rise of the mean loss when a neuron is switched off: E(without k) - E, measured.

    Formula: `mean_n [ L(f(x_n; g_k = 0), t_n) - L(f(x_n), t_n) ]`, in the loss's own unit, signed: negative where
    the network is better off without the neuron (Sharma, Wolfe, Raj 2017: "brute force").

    Cost: one forward pass, then for each neuron the nodes downstream of its readers; memory for one chunk of
    candidates. Exact: the loss equals that of a network rebuilt without the neuron, up to rounding.
    """

    name, unit = "ablation", "loss"
    splits_by_group = True
    can_race = True
    foresees_refits = True

    def cost(self, network: GatedNetwork) -> Cost:
        """Return what one ranking costs."""
        return Cost(replays=1)

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed rise of the loss over the batch."""
        return over_candidates(network, batch, rise_without)


def rise_without(replay: Replay, group: Group, candidates: Tensor) -> Tensor:
    """Return the rise of the summed loss when each candidate is switched off."""
    return replay.summed_rises(group, candidates)
