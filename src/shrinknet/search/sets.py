"""Sets: neurons that go at once, chosen such that they do not hurt each other.

Two neurons that do the same are both cheap to lose, and dear to lose together. With s_i the score of each and H the
curvature of the loss in the gates, a set Q raises the loss by about

    sum_{i in Q} s_i + sum_{i < j in Q} H_ij,

exactly where the loss is quadratic in the gates. Neurons join the set one after another: the next is the one that adds
least to that sum for each unit that it frees.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shrinknet.core.records import Neuron
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.sampled import Interactions
from shrinknet.search.rank import Limits, Ranked, takeable

Places = NDArray[np.int64]
Scored = NDArray[np.float64]

MOST_PARTS = 100
"""A set is chosen in so many parts at most: where very many go at once, some join at the same time."""


def apart(
    network: GatedNetwork,
    order: Sequence[tuple[Neuron, float]],
    count: int,
    limits: Limits,
    prices: Mapping[str, float],
    interactions: Interactions,
) -> Ranked:
    """Return the neurons that go next as `takeable` does, each with what it adds once those before it are gone.

    Args:
        network: the masked network.
        order: its candidates with their scores, lowest first.
        count: how many go.
        limits: what every group keeps.
        prices: for each group, the units that one of its neurons frees.
        interactions: what two neurons do to each other.

    Cost: for each part products of the interactions' rows with its own (see `Interactions`), and a sort of each group.
    """
    starts = {group.name: network.trace.ids_of(group).start for group in network.groups}
    places, added = dict[str, list[int]](), np.array([score for _, score in order])
    for place, (neuron, _) in enumerate(order):
        places.setdefault(neuron.group, []).append(place)
    left = {name: np.array(own) for name, own in places.items()}
    numbers = np.array([starts[neuron.group] + neuron.index for neuron, _ in order])
    taken: Ranked = []
    while order and len(taken) < count:
        size = min(max(1, count // MOST_PARTS), count - len(taken))
        now = _first(left, added, len(order) if limits.in_blocks else size)
        some = takeable(network, [(order[place][0], float(added[place])) for place in now], size, limits, prices)
        if not some:
            break
        taken += some
        network = network.without(neuron for neuron, _ in some)
        gone = [starts[neuron.group] + neuron.index for neuron, _ in some]
        left = {name: own[~np.isin(numbers[own], gone)] for name, own in left.items()}
        added += interactions.with_these(gone).cpu().numpy()[numbers]
    return taken


def _first(places: Mapping[str, Places], added: Scored, count: int) -> list[int]:
    """Return the places of the first few of each group, all in order: no more of them can go."""
    some = np.concatenate([own[np.argsort(added[own], kind="stable")[:count]] for own in places.values()])
    return some[np.lexsort((some, added[some]))].tolist()  # type: ignore[no-any-return]
