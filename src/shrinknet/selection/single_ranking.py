"""Algorithm 1 of the source paper: one overall ranking, followed to the end."""

from collections.abc import Callable

from shrinknet.gates import GatedNetwork
from shrinknet.selection.rank import Choice, Ranked, ranked
from shrinknet.types import Scores


def single_ranking(
    start: GatedNetwork, score: Callable[[GatedNetwork], Scores]
) -> Callable[[GatedNetwork, int], Choice]:
    """Score the untouched network once; afterwards return what is left of that one order.

    Fast, and far worse than `reranking`: neurons that stand in for one another all look cheap.
    """
    order: Ranked = []

    def choose(network: GatedNetwork, count: int) -> Choice:
        if not order:
            order.extend(ranked(start, score(start)))
        alive = {group.name: set(network.alive(group).tolist()) for group in network.groups}
        return Choice([(neuron, value) for neuron, value in order if neuron.index in alive[neuron.group]])

    return choose
