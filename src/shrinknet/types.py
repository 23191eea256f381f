"""Scores: the nouns that carry numbers for every neuron."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shrinknet.records import Neuron

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """The estimated rise of the mean loss when each neuron is switched off; the lowest goes first.

    `values` maps a group's name to a float64 vector with one score for each of its neurons, those already gone
    included (their scores mean nothing). `unit` is "loss" where the criterion estimates the rise of the loss.
    """

    values: Mapping[str, Array]
    unit: str

    def __getitem__(self, neuron: Neuron) -> float:
        return float(self.values[neuron.group][neuron.index])
