"""Scores: the nouns that carry numbers for every neuron."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from shrinknet.core.records import Neuron

Array = NDArray[np.float64]

MOST_NAMED = 8
"""How many groups are named in one line."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The estimated rise of the mean loss when each neuron is switched off; the lowest goes first.

    `values` maps a group's name to a float64 vector with one score for each of its neurons, those already gone
    included (their scores mean nothing). `unit` is "loss" where the criterion estimates the rise of the loss.
    `standard_errors` are those of scores that are means over samples drawn by chance; none where they are not known.
    """

    values: Mapping[str, Array]
    unit: str
    standard_errors: Mapping[str, Array] = field(default_factory=dict)

    def __repr__(self) -> str:
        groups = ", ".join(f"{len(values):,} in {name!r}" for name, values in islice(self.values.items(), MOST_NAMED))
        more = len(self.values) - MOST_NAMED
        return f"<Scores in {self.unit}: {groups}{f', and {more:,} groups more' if more > 0 else ''}>"

    def __getitem__(self, neuron: Neuron) -> float:
        return float(self.values[neuron.group][neuron.index])
