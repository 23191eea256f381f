"""Rank: the one order that everything else follows."""

from collections.abc import Iterable

import numpy as np

from shrinknet.gates import GatedNetwork
from shrinknet.records import Neuron
from shrinknet.types import Scores

Ranked = list[tuple[Neuron, float]]


def ranked(network: GatedNetwork, scores: Scores) -> Ranked:
    """Return the neurons that are still there with their scores, lowest first; ties by (group, index), NaN last.

    Groups count in the order of the graph. Dead ReLU neurons tie at zero, so ties are the common case.
    """
    alive = [(group, network.alive(group)) for group in network.groups]
    neurons = [Neuron(group.name, index) for group, indices in alive for index in indices.tolist()]
    values = np.concatenate([scores.values[group.name][indices] for group, indices in alive])
    return [(neurons[place], float(values[place])) for place in np.argsort(values, kind="stable").tolist()]


def takeable(network: GatedNetwork, order: Iterable[tuple[Neuron, float]], count: int) -> Ranked:
    """Return the first `count` of an order that can go while at least one neuron of each group stays."""
    left = {group.name: len(network.alive(group)) for group in network.groups}
    taken: Ranked = []
    for neuron, score in order:
        if len(taken) == count:
            break
        if left[neuron.group] > 1:
            left[neuron.group] -= 1
            taken.append((neuron, score))
    return taken


def clipped(network: GatedNetwork, scores: Scores, how: str) -> Scores:
    """Return the scores with those of too steep a parabola set to the mean or median size.

    "Any change above a threshold was assigned a mean or median value" (Sharma, Wolfe, Raj 2017): with
    t the mean (or upper median) of |score| over the neurons that are still there, a score of size above t becomes t.
    A steep fall is mistrusted as much as a steep rise: both become +t.
    """
    if how == "none":
        return scores
    alive = [scores.values[group.name][network.alive(group)] for group in network.groups]
    sizes = np.sort(np.abs(np.concatenate(alive)))
    limit = float(sizes.mean() if how == "mean" else sizes[len(sizes) // 2])
    values = {name: np.where(np.abs(vector) > limit, limit, vector) for name, vector in scores.values.items()}
    return Scores(values, scores.unit)
