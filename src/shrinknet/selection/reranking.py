"""Algorithm 2 of the source paper: rank again after each removal."""

from collections.abc import Callable

from shrinknet.gates import GatedNetwork
from shrinknet.selection.rank import Choice, ranked
from shrinknet.types import Scores


def reranking(start: GatedNetwork, score: Callable[[GatedNetwork], Scores]) -> Callable[[GatedNetwork, int], Choice]:
    """Score the network as it is now, every time."""

    def choose(network: GatedNetwork, count: int) -> Choice:
        return Choice(ranked(network, score(network)))

    return choose
