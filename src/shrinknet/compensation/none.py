"""No compensation: readers keep their weights, and nobody has to ask whether there is one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shrinknet.core.records import Measures, Neuron
from shrinknet.engine.gates import GatedNetwork

Portions = Iterable[Sequence[Neuron]]
"""Neurons that go together, one portion after another: a refit follows each."""


@dataclass(frozen=True)
class NoCompensation:
    """What a `Compensation` does, where nothing is refit. `network` is the untouched one."""

    network: GatedNetwork

    def restart(self) -> GatedNetwork:
        """Return the untouched network."""
        return self.network

    def refit(self, network: GatedNetwork, removed: Sequence[Neuron]) -> GatedNetwork:
        """Return the masked network as it is."""
        return network

    def after(self, portions: Portions) -> GatedNetwork:
        """Return the untouched network without some neurons."""
        return self.network.without(neuron for some in portions for neuron in some)

    def trial(self) -> "NoCompensation":
        """Return this one: nothing is refit."""
        return self

    def scoring(self, network: GatedNetwork) -> GatedNetwork:
        """Return the network as it is."""
        return network

    def bare_measures(self, network: GatedNetwork, measured: Callable[[GatedNetwork], Measures]) -> Measures | None:
        """Return None: the network itself is the one without compensation."""
        return None
