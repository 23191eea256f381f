"""Schedules: pure functions from a step to a fraction, a threshold or a phase. Every method takes its own from here."""

import math
from dataclasses import dataclass
from typing import Literal

from shrinknet.core.errors import BadInputError

Kind = Literal["dense", "sparsification", "sparse"]


def check_window(argument: str, *steps: int) -> None:
    """Raise where a schedule ends before it starts.

    Raises:
        BadInputError: the steps are negative, not whole numbers, or do not follow one another.

    >>> check_window("start, end", 10, 5)
    Traceback (most recent call last):
    shrinknet.core.errors.BadInputError: start, end must be whole steps of at least 0, each at least the one before. Got 10, 5. A schedule cannot end before it starts.
    """  # noqa: E501
    whole = all(isinstance(step, int) and not isinstance(step, bool) and step >= 0 for step in steps)
    if not whole or list(steps) != sorted(steps):
        allowed = "whole steps of at least 0, each at least the one before"
        raise BadInputError(argument, allowed, ", ".join(map(str, steps)), "A schedule cannot end before it starts.")


def check_sparsity(argument: str, sparsity: object) -> float:
    """Return a sparsity from 0 to less than 1.

    Raises:
        BadInputError: it is none, or nothing would be left.

    >>> check_sparsity("sparsity", 1.0)
    Traceback (most recent call last):
    shrinknet.core.errors.BadInputError: sparsity must be a fraction from 0 to less than 1. Got 1.0. At 1 nothing would be left.
    """  # noqa: E501
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise BadInputError(argument, "a fraction from 0 to less than 1", repr(sparsity), "At 1 nothing would be left.")
    return float(sparsity)


def check_least(least: float, **given: object) -> None:
    """Raise where an option is no number, or less than the least it may be.

    Raises:
        BadInputError: it is.

    >>> check_least(0.0, gamma=-1)
    Traceback (most recent call last):
    shrinknet.core.errors.BadInputError: gamma must be a number of at least 0. Got -1. Leave it out for the paper's.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            allowed = f"a number of at least {least:g}"
            raise BadInputError(name, allowed, repr(value), "Leave it out for the paper's.")


def exponential(progress: float, steepness: float = 4.0) -> float:
    """Return `(1 - e^{-c t}) / (1 - e^{-c})`: 0 at t = 0, 1 at t = 1, fast first (Yasuda et al. 2024, section 2).

    >>> exponential(0.0), exponential(1.0), round(exponential(0.5), 4)
    (0.0, 1.0, 0.8808)
    """
    return (1 - math.exp(-steepness * progress)) / (1 - math.exp(-steepness))


def inverse_decay(step: int, rate: float, power: float) -> float:
    """Return `(1 + gamma step)^(-power)`: 1 at step 0, never rising (Guo et al. 2016, their sigma).

    >>> inverse_decay(0, 0.001, 1.0), round(inverse_decay(1000, 0.001, 1.0), 3)
    (1.0, 0.5)
    """
    return float((1 + rate * step) ** -power)


def doubling(step: int, first: float, every: int) -> float:
    """Return a density that starts at `first` and doubles every so many steps, up to 1 (Changpinyo et al. 2017).

    >>> [doubling(step, 0.1, 100) for step in (0, 99, 100, 399, 400)]
    [0.1, 0.1, 0.2, 0.8, 1.0]
    """
    return min(1.0, first * 2.0 ** (step // every))


def cosine(progress: float) -> float:
    """Return the rate at a progress: down a cosine from 1 to 0.

    >>> [round(cosine(p), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, slots=True)
class Ramp:
    """The rising threshold of Narang et al. 2017, Table 1 and equation 1, with `q` as its value at the end::

        theta = 2 q freq / (2 (ramp - start) + 3 (end - ramp)),      phi = 1.5 theta
        eps   = theta (step - start + 1) / freq                                          before `ramp`
        eps   = (theta (ramp - start + 1) + phi (step - ramp + 1)) / freq                after it

    With `phi = 1.5 theta` it ends at q (up to the ones in the formula); steeper ramps overshoot q.

    >>> ramp = Ramp(start=100, ramp=500, end=1000, freq=10)
    >>> [round(ramp.threshold(step, 1.0), 3) for step in (99, 100, 500, 1000)]
    [0.0, 0.001, 0.35, 1.002]
    """

    start: int
    ramp: int
    end: int
    freq: int = 100
    steepness: float = 1.5

    def __post_init__(self) -> None:
        check_window("start, ramp, end", self.start, self.ramp, self.end)
        if self.freq < 1 or self.end == self.start:
            got = f"freq {self.freq}, start {self.start}, end {self.end}"
            do = "Leave room for at least one pruning step."
            raise BadInputError("freq and end", "a whole number of at least 1, and a step after start", got, do)

    def is_due(self, step: int) -> bool:
        """Whether masks are made anew at this step: every `freq` steps from start to end, and at the end."""
        return self.start <= step <= self.end and ((step - self.start) % self.freq == 0 or step == self.end)

    def threshold(self, step: int, q: float) -> float:
        """Return eps at a step, in the unit of q."""
        theta = 2 * q * self.freq / (2 * (self.ramp - self.start) + 3 * (self.end - self.ramp))
        if step < self.start:
            return 0.0
        if step < self.ramp:
            return theta * (step - self.start + 1) / self.freq
        first = theta * (self.ramp - self.start + 1)
        return (first + self.steepness * theta * (step - self.ramp + 1)) / self.freq


@dataclass(frozen=True, slots=True)
class Phases:
    """Dense first, then `cycles` of sparse and dense phases, sparse at the end (Peste et al. 2021; Yasuda et al. 2024).

    With `sparsifying` each cycle begins with a sparsification phase and its parts are equal thirds (the paper does not
    say how they share the cycle); the last cycle, with its extension, is one sparsification phase. Without it a cycle
    is half sparse, half dense, and the extension lengthens the last dense phase.

    >>> phases = Phases(100, sparsifying=True)
    >>> [phases.at(step)[0] for step in (0, 10, 14, 17, 20, 70, 84, 85, 99)]
    ['dense', 'sparsification', 'sparse', 'dense', 'sparsification', 'sparsification', 'sparsification', 'sparse', 'sparse']
    """  # noqa: E501

    num_steps: int
    sparsifying: bool
    first_dense: float = 0.10
    last_sparse: float = 0.15
    extension: float = 0.05
    cycles: int = 7

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.cycles < 1 or self._cycle <= 0:
            raise BadInputError(
                "num_steps, cycles and the shares of the phases",
                "at least one step, one cycle, and shares that leave time for the cycles",
                f"{self.num_steps} steps, {self.cycles} cycles, {self.first_dense} dense first, "
                f"{self.last_sparse} sparse last, {self.extension} of extension",
                "A schedule cannot end before it starts.",
            )

    @property
    def _cycle(self) -> float:
        return (1 - self.first_dense - self.last_sparse - self.extension) / self.cycles

    def at(self, step: int) -> tuple[Kind, float]:
        """Return the phase that a step lies in, and how far the phase is (from 0 to 1)."""
        time = (step - self.first_dense * self.num_steps) / self.num_steps
        if time < -1e-9:
            return "dense", step / (self.first_dense * self.num_steps)
        end = self._cycle * self.cycles + self.extension
        if time >= end - 1e-9:
            return "sparse", 0.0
        number = min(int(time / self._cycle + 1e-9), self.cycles - 1)
        inside = time - number * self._cycle
        is_last = number == self.cycles - 1
        if not self.sparsifying:
            half = self._cycle / 2
            return ("sparse", inside / half) if inside < half - 1e-9 else ("dense", (inside - half) / half)
        if is_last:
            return "sparsification", inside / (self._cycle + self.extension)
        part, third = min(int(3 * inside / self._cycle + 1e-9), 2), self._cycle / 3
        kinds: tuple[Kind, ...] = ("sparsification", "sparse", "dense")
        return kinds[part], inside / third - part
