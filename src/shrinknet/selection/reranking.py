"""Algorithm 2 of the source paper: rank again after each removal."""

from collections.abc import Callable

from shrinknet.gates import GatedNetwork
from shrinknet.selection.rank import Ranked, ranked
from shrinknet.types import Scores


def reranking(start: GatedNetwork, score: Callable[[GatedNetwork], Scores]) -> Callable[[GatedNetwork], Ranked]:
    """Score the network as it is now, every time."""

    def choose(network: GatedNetwork) -> Ranked:
        return ranked(network, score(network))

    return choose
