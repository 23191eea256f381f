"""Lazy evaluation: each of several neurons that go in one step is chosen with the ones before it gone.

Neurons stand in for one another: once one is gone, others cost more. So after each that is taken, and its readers are
refit where they make up for it, those that a ranking puts first are scored again, a few at a time, until the first of
the order is one whose score is of now. Where removals only make others dearer, that is the very order in which they
would go one at a time, each after a ranking of all: a score of before is a bound from below (Minoux 1978, "Accelerated
greedy algorithms").
"""

from dataclasses import replace

from shrinknet.compensation.compensate import Compensation
from shrinknet.compensation.none import NoCompensation
from shrinknet.core.records import Neuron
from shrinknet.core.scores import Scores
from shrinknet.engine.gates import GatedNetwork
from shrinknet.search.methods import Choose, Scorer
from shrinknet.search.price import Price
from shrinknet.search.rank import Choice, Limits, Ranked, ranked, takeable
from shrinknet.search.schedule import num_there

SCORED_AGAIN = 4
"""So many neurons are scored again at a time."""


def lazily(score: Scorer, limits: Limits, price: Price, compensation: Compensation | NoCompensation) -> Choose:
    """Return what finds the next neurons by scores that are the same among few candidates as among all.

    Args:
        score: scores of a network's candidates.
        limits: what every group keeps.
        price: what a neuron of each group frees.
        compensation: how readers make up for what is gone; what it knows stays as it is.

    Cost: a ranking of all, and for each neuron that goes a refit and the scores of a few candidates, `SCORED_AGAIN` at
    a time.
    """

    def choose(network: GatedNetwork, count: int) -> Choice:
        trial = compensation.trial()
        scores = score(trial.scoring(network))
        if count == 1 or count >= num_there(network):
            return Choice(ranked(network, scores))
        prices, taken = price(network, limits), Ranked()
        of_now = {neuron for neuron, _ in ranked(network, scores)}
        while len(taken) < count:
            order = ranked(network, scores)
            some = takeable(network, order, 1, limits, prices)
            neurons = {neuron for neuron, _ in some}
            if not neurons:
                break
            if neurons <= of_now:
                taken, network, of_now = taken + some, trial.refit(network.without(neurons), [*neurons]), set()
            else:
                first = {neuron for neuron, _ in takeable(network, order, SCORED_AGAIN, limits, prices)} - of_now
                scores, of_now = _renewed(scores, score(trial.scoring(network).among(first)), first), of_now | first
        return Choice(taken, is_settled=True)

    return choose


def _renewed(scores: Scores, newer: Scores, neurons: set[Neuron]) -> Scores:
    """Return the scores with those of some neurons as they are now."""
    values = {name: own.copy() for name, own in scores.values.items()}
    for neuron in neurons:
        values[neuron.group][neuron.index] = newer[neuron]
    return replace(scores, values=values)
