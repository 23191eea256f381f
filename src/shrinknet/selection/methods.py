"""What the two methods have in common, and how one is found by its name."""

from collections.abc import Callable

from shrinknet.errors import BadInputError, did_you_mean
from shrinknet.gates import GatedNetwork
from shrinknet.selection.rank import Choice
from shrinknet.selection.reranking import reranking
from shrinknet.selection.single_ranking import single_ranking
from shrinknet.types import Scores

Scorer = Callable[[GatedNetwork], Scores]
Choose = Callable[[GatedNetwork, int], Choice]
Method = Callable[[GatedNetwork, Scorer], Choose]

METHODS: dict[str, Method] = {"single-ranking": single_ranking, "reranking": reranking}


def find_method(name: str) -> Method:
    """Return the method of that name.

    Raises:
        BadInputError: there is none.
    """
    if name not in METHODS:
        raise BadInputError("method", "the name of a method", repr(name), did_you_mean(name, METHODS))
    return METHODS[name]
