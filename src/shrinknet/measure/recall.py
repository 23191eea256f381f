"""Recall by class, and how pruning widens or narrows the gap between classes (Good, Lin, Yu et al. 2022)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shrinknet.errors import BadInputError

Vector = NDArray[np.float64]


def recalls(
    predicted: Sequence[int] | NDArray[np.int64], targets: Sequence[int] | NDArray[np.int64], num_classes: int
) -> Vector:
    """Return the recall of each class [num_classes]: the share of its rows that is found.

    Raises:
        BadInputError: a class has no row; it is named, and nothing is divided by zero.

    >>> recalls([0, 0, 1, 1], [0, 0, 0, 1], 2).round(3).tolist()
    [0.667, 1.0]
    >>> recalls([0], [0], 2)
    Traceback (most recent call last):
    shrinknet.errors.BadInputError: data must be rows of every class. Got no row of class 1. Add some, or number the classes from 0.
    """  # noqa: E501
    hits, truth = np.asarray(predicted) == np.asarray(targets), np.asarray(targets)
    counts = np.bincount(truth, minlength=num_classes)
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        raise BadInputError(
            "data", "rows of every class", f"no row of class {missing[0]}", "Add some, or number the classes from 0."
        )
    found: Vector = np.bincount(truth, weights=hits, minlength=num_classes) / counts
    return found


def normalised_balance(recall: Vector, accuracy: float) -> Vector:
    """Return `(R^c - A) / A` of each class: how far its recall lies from the accuracy, as a part of the accuracy.

    Raises:
        BadInputError: the accuracy is 0.

    >>> normalised_balance(np.array([0.5, 1.0]), 0.75).round(3).tolist()
    [-0.333, 0.333]
    """
    if not accuracy > 0:
        raise BadInputError("accuracy", "above 0", repr(accuracy), "A network that is never right has no balance.")
    balance: Vector = (recall - accuracy) / accuracy
    return balance


def intensification(before: Vector, after: Vector) -> float:
    """Return alpha, the slope without intercept of the balances after pruning on those before::

        alpha_t = sum_c B^c B_t^c / sum_c (B^c)^2

    Above 1 the gaps between classes widened, below 1 they narrowed. No intercept is needed where the test rows are
    balanced: balances then add up to 0.

    Raises:
        BadInputError: every class was found equally often before, so that there is no gap to widen.

    >>> intensification(np.array([-0.1, 0.1]), np.array([-0.15, 0.15]))
    1.5
    """
    size = float(before @ before)
    if size == 0:
        raise BadInputError(
            "before", "a balance that is not 0 for every class", "0 for all", "There is no gap to widen."
        )
    return float(before @ after) / size
