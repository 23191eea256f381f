"""Recall by class, and how pruning widens or narrows the gap between classes (Good, Lin, Yu et al. 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Step

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
    shrinknet.core.errors.BadInputError: data must be rows of every class. Got no row of class 1. Add some, or number the classes from 0.
    """  # noqa: E501
    hits, truth = np.asarray(predicted) == np.asarray(targets), np.asarray(targets)
    counts = np.bincount(truth, minlength=num_classes)
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        do = "Add some, or number the classes from 0."
        raise BadInputError("data", "rows of every class", f"no row of class {missing[0]}", do)
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
        do = "There is no gap to widen."
        raise BadInputError("before", "a balance that is not 0 for every class", "0 for all", do)
    return float(before @ after) / size


@dataclass(frozen=True, eq=False)
class RecallHistory:
    """What the validation rows were answered along a run of S steps, for C classes.

    Attributes:
        steps: [S] their numbers, 0 being the untouched network.
        ratios: [S] parameters before / parameters after: the compression ratio t.
        targets: [rows] the class of each validation row.
        answers: [S, rows] what each step answers.
    """

    steps: NDArray[np.int64]
    ratios: Vector
    targets: NDArray[np.int64]
    answers: NDArray[np.int32]

    @classmethod
    def of(cls, history: Sequence[Step]) -> "RecallHistory":
        """Put the answers of a history together: each step names the rows that it answers otherwise.

        Raises:
            BadInputError: the history holds no answers: targets were no classes, or nothing was validated.
        """
        if not history or not history[0].answers:
            got = "one without answers.csv"
            do = "Make it again with data that have classes and a split."
            raise BadInputError("history", "a run whose validation data have classes as targets", got, do)
        targets = np.array([one.target for one in history[0].answers])
        answers = np.empty((len(history), len(targets)), np.int32)
        for place, step in enumerate(history):
            answers[place] = answers[max(0, place - 1)]
            for one in step.answers or ():
                answers[place, one.row] = one.answer
        parameters = np.array([step.measures.costs.num_parameters for step in history], np.float64)
        return cls(np.array([step.number for step in history]), parameters[0] / parameters, targets, answers)

    @cached_property
    def num_classes(self) -> int:
        """One more than the largest class among targets and answers."""
        return 1 + int(max(self.targets.max(), self.answers.max()))

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """[C] how many rows each class has."""
        found: NDArray[np.int64] = np.bincount(self.targets, minlength=self.num_classes)
        return found

    @cached_property
    def accuracies(self) -> Vector:
        """[S] the share of rows that are right."""
        found: Vector = (self.answers == self.targets).mean(1)
        return found

    @cached_property
    def recalls(self) -> Vector:
        """[S, C] the share of each class's rows that is found; NaN for a class without rows."""
        return self._shares(self.rows[None])

    @cached_property
    def precisions(self) -> Vector:
        """[S, C] the share of each class's answers that is right; NaN where a class was never the answer."""
        count = self.num_classes
        answered = np.stack([np.bincount(one, minlength=count) for one in self.answers])
        return self._shares(answered)

    def _shares(self, of: NDArray[np.int64]) -> Vector:
        """The right answers of each class, as a share of some counts [S or 1, C]."""
        count = self.num_classes
        hits = np.stack([np.bincount(self.targets[one == self.targets], minlength=count) for one in self.answers])
        found: Vector = np.divide(hits, of, out=np.full(hits.shape, np.nan), where=of > 0)
        return found

    @cached_property
    def without_rows(self) -> tuple[int, ...]:
        """The classes that are among the answers and have no row."""
        return tuple(int(c) for c in np.flatnonzero(self.rows == 0))
