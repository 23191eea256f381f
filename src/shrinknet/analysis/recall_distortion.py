"""Recall distortion: which classes pay for pruning, from the answers that a run has written; nothing is run again.

After Good, Lin, Yu et al., Recall Distortion in Neural Network Pruning and the Undecayed Pruning Algorithm (NeurIPS
2022). With A the accuracy and R^c the recall of class c, the normalised balance is `B^c = (R^c - A) / A`; pruning
intensifies where the slope of the balances after on those before, `alpha_t = sum_c B^c B_t^c / sum_c (B^c)^2`, lies
above 1: the weak classes fall behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy
from numpy.typing import NDArray

from shrinknet.core.errors import BadInputError
from shrinknet.core.recall import RecallHistory, intensification, normalised_balance
from shrinknet.core.records import Step

Vector = NDArray[np.float64]

CONFIDENCE = 0.99
"""Of every interval; the paper's."""

RELIABLE = 0.8
"""Below that part the balances before are mostly noise, and nothing is said of the slope."""

DRAWS = 1000
"""How often rows are drawn anew for the interval of one run."""


@dataclass(frozen=True, slots=True)
class ClassChange:
    """One class before and after.

    `p` is the chance of so uneven a change of its rows if none were worse off: McNemar's exact test on the rows that
    changed sides, times the number of classes that are left (Holm).
    """

    number: int
    rows: int
    recall_before: float
    recall_after: float
    precision_before: float
    precision_after: float
    balance_before: float
    balance_after: float
    p: float


@dataclass(frozen=True, slots=True)
class LostRow:
    """A validation row that was right and is wrong: what it is answered, and since which step for good."""

    row: int
    target: int
    answer: int
    since: int


@dataclass(frozen=True, slots=True, eq=False)
class RecallDistortion:
    """What the classes of one run paid, from its first step to one of its steps.

    Attributes:
        history: the answers.
        step: the step that is compared with the start.
        slopes: [S] alpha of each step; NaN where a network is never right.
        interval: the 99 % interval of alpha at that step, by drawing the rows of each class anew (1,000 times).
        classes: each class that has rows.
        lost: rows that became wrong.
    """

    history: RecallHistory
    step: int
    slopes: Vector
    interval: tuple[float, float]
    classes: tuple[ClassChange, ...]
    lost: tuple[LostRow, ...]

    @property
    def slope(self) -> float:
        """Alpha at the step that is compared."""
        return float(self.slopes[int(np.flatnonzero(self.history.steps == self.step)[0])])

    @property
    def verdict(self) -> str:
        """Whether the gaps between classes widened, narrowed, or whether that cannot be told."""
        if self.reliability < RELIABLE:
            return "cannot be told: the gaps between classes before are within the noise of so few rows"
        low, high = self.interval
        return "intensified" if low > 1 else "narrowed" if high < 1 else "cannot be told from unchanged"

    @property
    def reliability(self) -> float:
        """The part of the balances before that is not the noise of so few rows: 1 - sum var(B^c) / sum (B^c)^2.

        With `var(R^c) = R^c (1 - R^c) / rows`. Where it is small, so is the slope, whatever pruning did: a regression
        on noise is flat.
        """
        size = sum(one.balance_before**2 for one in self.classes)
        right = self.history.accuracies[0]
        noise = sum(one.recall_before * (1 - one.recall_before) / one.rows for one in self.classes) / right**2
        return float(1 - noise / size) if size > 0 else 0.0

    @property
    def worst(self) -> ClassChange:
        """The class with the lowest recall at that step."""
        return min(self.classes, key=lambda one: (one.recall_after, one.number))


def recall_distortion(history: Sequence[Step], step: int | None = None, *, seed: int = 0) -> RecallDistortion:
    """Compare one step of a run with its start: the last one where left out.

    Args:
        history: a run's history, its validation answers in it.
        step: the number of the step.
        seed: of the rows that are drawn anew.

    Raises:
        BadInputError: the history holds no answers, or no such step; or the network is never right at the start.

    Cost: no forward pass; numbers for each step, row and class.
    """
    answers = RecallHistory.of(history)
    step = int(answers.steps[-1]) if step is None else step
    places = np.flatnonzero(answers.steps == step)
    if not len(places):
        last = int(answers.steps[-1])
        raise BadInputError("step", f"one of the run's steps, 0 to {last}", repr(step), "Leave it out for the last.")
    place, present = int(places[0]), np.flatnonzero(answers.rows > 0)
    recalls, accuracies = answers.recalls[:, present], answers.accuracies
    before = normalised_balance(recalls[0], float(accuracies[0]))
    slopes = [
        intensification(before, normalised_balance(recall, float(right))) if right > 0 and before.any() else np.nan
        for recall, right in zip(recalls, accuracies, strict=True)
    ]
    interval, classes = _interval(answers, place, present, seed), _classes(answers, place, present)
    return RecallDistortion(answers, step, np.array(slopes), interval, classes, _lost(answers, place))


def _classes(answers: RecallHistory, place: int, present: NDArray[np.int64]) -> tuple[ClassChange, ...]:
    recalls, precisions, accuracies = answers.recalls, answers.precisions, answers.accuracies
    right = answers.answers[[0, place]] == answers.targets
    tests = []
    for number in present:
        own = answers.targets == number
        lost, won = int((right[0] & ~right[1] & own).sum()), int((~right[0] & right[1] & own).sum())
        test = scipy.stats.binomtest(lost, lost + won, alternative="greater") if lost + won else None
        tests.append(1.0 if test is None else float(test.pvalue))
    found = []
    for c, p in zip(present, holm(tests), strict=True):
        recall = float(recalls[0, c]), float(recalls[place, c])
        precision = float(precisions[0, c]), float(precisions[place, c])
        balance = _balance(recalls[0, c], accuracies[0]), _balance(recalls[place, c], accuracies[place])
        found.append(ClassChange(int(c), int(answers.rows[c]), *recall, *precision, *balance, p))
    return tuple(found)


def _balance(recall: float, accuracy: float) -> float:
    return float((recall - accuracy) / accuracy) if accuracy > 0 else float("nan")


def _lost(answers: RecallHistory, place: int) -> tuple[LostRow, ...]:
    right = answers.answers[: place + 1] == answers.targets
    found = []
    for row in np.flatnonzero(right[0] & ~right[-1]):
        last_right = int(np.flatnonzero(right[:, row])[-1])
        since = int(answers.steps[last_right + 1])
        found.append(LostRow(int(row), int(answers.targets[row]), int(answers.answers[place, row]), since))
    return tuple(found)


def _interval(answers: RecallHistory, place: int, present: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """The rows of each class, drawn anew with replacement: only whether a row was right before and after counts."""
    generator, right = np.random.default_rng(seed), answers.answers[[0, place]] == answers.targets
    counts = []
    for number in present:
        kinds = 2 * right[0] + right[1]
        sides = np.bincount(kinds[answers.targets == number].astype(np.int64), minlength=4)
        counts.append(generator.multinomial(sides.sum(), sides / sides.sum(), DRAWS))
    drawn = np.stack(counts, 1).astype(np.float64)  # [draws, classes, wrong or right before and after: 4]
    rows = drawn.sum(2)
    balances = []
    for kinds_right in ([2, 3], [1, 3]):
        hits = drawn[:, :, kinds_right].sum(2)
        accuracy = hits.sum(1, keepdims=True) / rows.sum(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            balances.append((hits / rows - accuracy) / accuracy)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = (balances[0] * balances[1]).sum(1) / (balances[0] ** 2).sum(1)
    slopes = slopes[np.isfinite(slopes)]
    if not len(slopes):
        return float("nan"), float("nan")
    low, high = np.quantile(slopes, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def holm(tests: Sequence[float]) -> list[float]:
    """Return p-values of several tests so that the chance of any false alarm among them stays as stated (Holm 1979).

    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    order, worst = sorted(range(len(tests)), key=tests.__getitem__), 0.0
    adjusted = [0.0] * len(tests)
    for place, k in enumerate(order):
        worst = max(worst, min(1.0, (len(tests) - place) * tests[k]))
        adjusted[k] = worst
    return adjusted


@dataclass(frozen=True, slots=True)
class AtRatio:
    """The slopes of several runs at one compression ratio.

    `low` and `high` hold the mean of alpha for 95 % of families of as many ratios (Student's t, Bonferroni); `label`
    is "<", ">" or "?" as the interval lies below 1, above 1 or around it. `p_rise` tests that alpha rises from the
    ratio before (paired, one-sided), times the number of such tests; NaN for the first.
    """

    ratio: float
    slopes: tuple[float, ...]
    accuracies: tuple[float, ...]
    mean: float
    low: float
    high: float
    label: str
    p_rise: float


def over_runs(histories: Sequence[Sequence[Step]], ratios: Sequence[int | float]) -> list[AtRatio]:
    """Return alpha over independently trained networks at some compression ratios, as the paper tests it.

    Each run gives, at each ratio, the slope at its first step that is at least so small.

    Args:
        histories: of runs on networks that were trained apart (the paper: 30).
        ratios: parameters before / after, ascending.

    Raises:
        BadInputError: fewer than two runs, or one that never gets so small.
    """
    if len(histories) < 2:
        do = "Name more."
        raise BadInputError("histories", "two runs or more, of networks trained apart", str(len(histories)), do)
    slopes, accuracies = (np.empty((len(ratios), len(histories))) for _ in range(2))
    for column, history in enumerate(histories):
        found = recall_distortion(history)
        for row, ratio in enumerate(ratios):
            places = np.flatnonzero(found.history.ratios >= ratio)
            if not len(places):
                most = f"at most {found.history.ratios.max():.3g}, which run {column + 1} reaches"
                raise BadInputError("ratio", most, f"{ratio:g}", "Make the runs with `whole_curve=True`.")
            slopes[row, column] = found.slopes[places[0]]
            accuracies[row, column] = found.history.accuracies[places[0]]
    return over_slopes(ratios, slopes, accuracies)


def over_slopes(ratios: Sequence[int | float], slopes: Vector, accuracies: Vector) -> list[AtRatio]:
    """Return the means, intervals and tests of slopes [ratios, runs] that were measured elsewhere; see `over_runs`."""
    rises = [
        float(scipy.stats.ttest_rel(slopes[one], slopes[other], alternative="less").pvalue)
        for one, other in pairwise(range(len(ratios)))
    ]
    rises = [float("nan"), *(float(np.minimum(1.0, p * len(rises))) for p in rises)]
    return [
        _at_ratio(float(ratio), slopes[row], accuracies[row], len(ratios), rises[row])
        for row, ratio in enumerate(ratios)
    ]


def _at_ratio(ratio: float, slopes: Vector, accuracies: Vector, num_ratios: int, p_rise: float) -> AtRatio:
    error = slopes.std(ddof=1) / len(slopes) ** 0.5
    width = float(scipy.stats.t.ppf(1 - 0.05 / num_ratios / 2, len(slopes) - 1) * error)
    mean = float(slopes.mean())
    label = "<" if mean + width < 1 else ">" if mean - width > 1 else "?"
    return AtRatio(
        ratio, tuple(map(float, slopes)), tuple(map(float, accuracies)), mean, mean - width, mean + width, label, p_rise
    )
