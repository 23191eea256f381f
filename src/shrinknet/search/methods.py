"""The two methods of the source paper, and how one is found by its name."""

from collections.abc import Callable

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.core.scores import Scores
from shrinknet.engine.gates import GatedNetwork
from shrinknet.search.rank import Choice, Ranked, ranked

Scorer = Callable[[GatedNetwork], Scores]
Choose = Callable[[GatedNetwork, int], Choice]
Method = Callable[[GatedNetwork, Scorer], Choose]


def single_ranking(start: GatedNetwork, score: Scorer) -> Choose:
    """Algorithm 1: score the untouched network once; afterwards return what is left of that one order.

    Fast, and far worse than `reranking`: neurons that stand in for one another all look cheap.
    """
    order: Ranked = []

    def choose(network: GatedNetwork, count: int) -> Choice:
        if not order:
            order.extend(ranked(start, score(start)))
        alive = {group.name: set(network.alive(group).tolist()) for group in network.groups}
        return Choice([(neuron, value) for neuron, value in order if neuron.index in alive[neuron.group]])

    return choose


def reranking(start: GatedNetwork, score: Scorer) -> Choose:
    """Algorithm 2: score the network as it is now, every time."""

    def choose(network: GatedNetwork, count: int) -> Choice:
        return Choice(ranked(network, score(network)))

    return choose


METHODS: dict[str, Method] = {"single-ranking": single_ranking, "reranking": reranking}


def find_method(name: str) -> Method:
    """Return the method of that name.

    Raises:
        BadInputError: there is none.
    """
    if name not in METHODS:
        raise BadInputError("method", "the name of a method", repr(name), did_you_mean(name, METHODS))
    return METHODS[name]
