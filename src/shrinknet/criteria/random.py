"""Random: the baseline that every criterion must beat."""

import numpy as np
import torch

from shrinknet.core.errors import BadInputError
from shrinknet.criteria.base import Criterion, Statistics, Sums
from shrinknet.engine.gates import GatedNetwork


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

    def conclude(self, network: GatedNetwork, sums: Sums) -> Statistics:
        """Draw one number for each neuron, the same at every ranking of a run."""
        generator = np.random.default_rng(self.seed)
        return {group.name: torch.from_numpy(generator.random(group.width)) for group in network.groups}
