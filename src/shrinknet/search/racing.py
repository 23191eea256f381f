"""The next neurons by a race, or among those that a cheap estimate puts first."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import scipy

from shrinknet.core.records import Neuron, RaceResult
from shrinknet.core.scores import Scores
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.racing import race
from shrinknet.search.rank import Choice, Limits, ranked, takeable
from shrinknet.task.data import Data

Scorer = Callable[[GatedNetwork], Scores]


def racing(
    score: Scorer,
    estimate: Scorer | None,
    parts: Sequence[Data],
    confidence: float,
    screen: int | None,
    limits: Limits,
    tie_loss: float = 0.0,
) -> Callable[[GatedNetwork, int], Choice]:
    """Choose the next neurons by a race.

    Args:
        score: the exact scores of all neurons: for an order of all that is left, and where limits ask for more neurons
            than won (blocks of several).
        estimate: cheap scores; with them only the first `screen` neurons take part.
        parts: the rows, in the parts that are looked at one after another.
        confidence: how sure each choice is.
        screen: how many neurons take part; None lets all.
        limits: what every group keeps.
        tie_loss: by how much the losses of candidates may differ that count as equal.
    """

    def choose(network: GatedNetwork, count: int) -> Choice:
        candidates = removable(network, limits)
        estimates: dict[Neuron, float] = {}
        if estimate is not None and screen is not None and count < len(candidates):
            estimates = dict(ranked(network, estimate(network)))
            cheapest = set(sorted(candidates, key=estimates.__getitem__)[: max(screen, count + 1)])
            num_out = len(candidates) - len(cheapest)
            candidates = [one for one in candidates if one in cheapest]
        if count < len(candidates):
            result = race(network, parts, candidates, count, confidence, tie_loss)
            if estimates:
                result = replace(result, num_screened_out=num_out, agreement=_agreement(result, estimates))
            choice = Choice([(c.neuron, c.score) for c in result.contenders], result)
            if len(takeable(network, choice.order[:count], count, limits)) >= count:
                return choice
        return Choice(ranked(network, score(network)))

    return choose


def _agreement(result: RaceResult, estimates: dict[Neuron, float]) -> float:
    """The rank correlation of estimates and scores among those that took part."""
    scores = [contender.score for contender in result.contenders]
    return float(scipy.stats.spearmanr(scores, [estimates[c.neuron] for c in result.contenders]).statistic)


def removable(network: GatedNetwork, limits: Limits) -> list[Neuron]:
    """Return the neurons of the groups that can still lose some, in the order that breaks ties."""
    alive = {group.name: network.alive(group) for group in network.groups}
    left = {name: len(indices) for name, indices in alive.items()}
    free = {name for bundle in limits.bundles(network.groups) for name in limits.block(bundle, left)}
    return [Neuron(name, index) for name, indices in alive.items() if name in free for index in indices.tolist()]
