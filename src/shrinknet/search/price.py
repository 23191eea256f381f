"""Price: what a neuron of each group frees of what is scarce: the next removal is the cheapest for each unit."""

from collections.abc import Callable, Mapping

from shrinknet.engine.gates import GatedNetwork
from shrinknet.graph.widths import Present
from shrinknet.search.rank import Limits

Price = Callable[[GatedNetwork, Limits], Mapping[str, float]]
"""For each group of a masked network, how many units one of its neurons frees."""


def by_neuron(network: GatedNetwork, limits: Limits) -> Mapping[str, float]:
    """Every neuron counts the same."""
    return {group.name: 1.0 for group in network.groups}


def by_units(freed: Callable[[Present, Present], float]) -> Price:
    """Return the price by what the next block of each group frees, for each of its neurons.

    Cost: for each group one count of units.
    """

    def price(network: GatedNetwork, limits: Limits) -> Mapping[str, float]:
        found = {}
        for group in network.groups:
            alive = network.alive(group)
            block = limits.block(group, len(alive))
            after = network.present.copy()
            after[network.trace.ids_of(group).start + alive[:block]] = False
            found[group.name] = freed(network.present, after) / max(1, block)
        return found

    return price
