"""Price: what a neuron of each group frees of what is scarce: the next removal is the cheapest for each unit."""

from collections.abc import Callable, Mapping, Sequence

from shrinknet.core.quantities import NEURONS
from shrinknet.engine.gates import GatedNetwork
from shrinknet.graph.widths import Present
from shrinknet.search.goals import Budget, Goal
from shrinknet.search.rank import Limits

Price = Callable[[GatedNetwork, Limits], Mapping[str, float]]
"""For each group of a masked network, how many units one of its neurons frees."""


def price_for(goals: Sequence[Goal]) -> str:
    """Return what to price by where nobody says: what is asked for; of several costs, what is still missing of each.

    >>> from shrinknet.search.goals import FlashBytes, Macs, RemovedNeurons
    >>> price_for([FlashBytes("8 KiB")]), price_for([FlashBytes("8 KiB"), Macs("50%")]), price_for([RemovedNeurons(3)])
    ('flash', 'budget', 'neuron')
    """
    asked = {goal.of for goal in goals if isinstance(goal, Budget)} - {NEURONS}
    if not asked:
        return "neuron"
    return asked.pop().name if len(asked) == 1 else "budget"


def by_neuron(network: GatedNetwork, limits: Limits) -> Mapping[str, float]:
    """Every neuron counts the same."""
    return {group.name: 1.0 for group in network.groups}


def by_units(freed: Callable[[Present, Present], float]) -> Price:
    """Return the price by what the next block of each group frees, for each of its neurons.

    Cost: for each group one count of units.
    """

    def price(network: GatedNetwork, limits: Limits) -> Mapping[str, float]:
        found: dict[str, float] = {}
        alive = {group.name: network.alive(group) for group in network.groups}
        for bundle in limits.bundles(network.groups):
            block = limits.block(bundle, {name: len(there) for name, there in alive.items()})
            after = network.present.copy()
            for group in bundle:
                after[network.trace.ids_of(group).start + alive[group.name][: block.get(group.name, 0)]] = False
            each = freed(network.present, after) / max(1, sum(block.values()))
            found |= {group.name: each for group in bundle}
        return found

    return price
