"""Random: the baseline that every criterion must beat."""

from collections.abc import Iterable

import numpy as np

from shrinknet.criteria.base import Criterion, Statistics
from shrinknet.data import Batch
from shrinknet.errors import BadInputError
from shrinknet.gates import GatedNetwork
from shrinknet.types import Scores


class Random(Criterion):
    """Uniform numbers in [0, 1), the same for the same seed. Not in loss units.

    Cost: no pass over the data.

    >>> Random(seed=1).seed
    1
    """

    name = "random"
    unit = "none"

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise BadInputError("seed", "a whole number of at least 0", seed, "Leave it out for 0.")
        self.seed = seed

    @classmethod
    def with_seed(cls, seed: int) -> "Random":
        """Return the criterion with that seed."""
        return cls(seed)

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return nothing: the data are not looked at."""
        return {}

    def conclude(self, sums: Statistics, num_samples: int) -> Statistics:
        """Return nothing: see `score`."""
        return sums

    def score(self, network: GatedNetwork, batches: Iterable[Batch]) -> Scores:
        """Draw one number for each neuron, the same at every ranking of a run."""
        generator = np.random.default_rng(self.seed)
        return Scores({group.name: generator.random(group.width) for group in network.groups}, self.unit)
