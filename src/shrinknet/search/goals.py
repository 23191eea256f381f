"""Goals: a run ends once all of them are reached."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from shrinknet.core.errors import BadInputError
from shrinknet.core.quantities import FLASH, MACS, PARAMETERS, RAM, Cost
from shrinknet.core.records import Costs, Measures
from shrinknet.core.registry import registry_of_classes
from shrinknet.core.units import counted, parse_fraction
from shrinknet.search.typed import Typed


class Goal(Typed, ABC):
    """What a run wants to reach. A subclass says when it is `reached`; what else is not as here, it says, too.

    `start` and `now` are the untouched network and the one that is left. Goals look at their `costs` alone, which are
    known before anything is cut and measured again on the file that ships; losses and metrics are for guards.
    """

    @abstractmethod
    def reached(self, start: Measures, now: Measures) -> bool:
        """Whether the network as it is now is small enough."""

    def progress(self, start: Measures, now: Measures) -> float:
        """How much of the way is done, from 0 to 1: the share of the neurons that are gone, where nobody says."""
        return 1.0 if self.reached(start, now) else 1 - now.costs.num_neurons / start.costs.num_neurons

    def neurons_left(self, start: Measures, now: Measures) -> int | None:
        """How many more neurons may go at most, where the goal counts neurons: exactly k go."""
        return None


@dataclass(frozen=True)
class Corrected(Goal):
    """What a forecast must reach for a goal, where measurement found costs to be higher by an `error`."""

    goal: Goal
    error: Costs

    def reached(self, start: Measures, now: Measures) -> bool:
        """Whether the goal is reached if the forecast errs as it did."""
        return self.goal.reached(start, replace(now, costs=now.costs + self.error))

    def progress(self, start: Measures, now: Measures) -> float:
        """The goal's own."""
        return self.goal.progress(start, replace(now, costs=now.costs + self.error))

    def neurons_left(self, start: Measures, now: Measures) -> int | None:
        """The goal's own."""
        return self.goal.neurons_left(start, now)


@dataclass(frozen=True, slots=True)
class RemovedNeurons(Goal):
    """Remove that many neurons (40), or a share (60%).

    >>> str(RemovedNeurons(40))
    '40 neurons removed'
    >>> str(RemovedNeurons(1))
    '1 neuron removed'
    """

    name = "remove"
    count: int

    @classmethod
    def typed(cls, text: str) -> Goal:
        """Return a number of neurons, or a share of them."""
        if text.strip().endswith("%"):
            return RemovedFraction(text)
        if not (text.strip().isascii() and text.strip().isdigit()) or len(text) > 18:
            allowed = "a number of neurons or a percentage"
            raise BadInputError("RemovedNeurons", allowed, repr(text[:40]), "Write it as 40 or 60%.")
        return cls(int(text))

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 0:
            raise BadInputError(
                "RemovedNeurons",
                "a whole number of neurons",
                repr(self.count),
                "Use RemovedFraction for a share.",
            )

    def neurons_left(self, start: Measures, now: Measures) -> int | None:
        """What is still to go."""
        return self.count - (start.costs.num_neurons - now.costs.num_neurons)

    def reached(self, start: Measures, now: Measures) -> bool:
        """Whether that many are gone."""
        return (self.neurons_left(start, now) or 0) <= 0

    def progress(self, start: Measures, now: Measures) -> float:
        """The share of them that is gone."""
        return 1 - (self.neurons_left(start, now) or 0) / max(1, self.count)

    def __str__(self) -> str:
        return f"{counted(self.count, 'neuron')} removed"


@dataclass(frozen=True, slots=True, init=False)
class RemovedFraction(Goal):
    """That fraction of all neurons is removed (rounded to a whole neuron).

    >>> str(RemovedFraction("60%"))
    '60 % of the neurons removed'
    """

    fraction: float

    def __init__(self, fraction: float | str) -> None:
        object.__setattr__(self, "fraction", parse_fraction("RemovedFraction", fraction))

    def _count(self, start: Measures) -> RemovedNeurons:
        return RemovedNeurons(round(self.fraction * start.costs.num_neurons))

    def neurons_left(self, start: Measures, now: Measures) -> int | None:
        """What is still to go."""
        return self._count(start).neurons_left(start, now)

    def reached(self, start: Measures, now: Measures) -> bool:
        """Whether that many are gone."""
        return self._count(start).reached(start, now)

    def progress(self, start: Measures, now: Measures) -> float:
        """The share of them that is gone."""
        return self._count(start).progress(start, now)

    def __str__(self) -> str:
        return f"{100 * self.fraction:g} % of the neurons removed"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Budget(Goal):
    """A cost is at most a `budget`: a number, a text, or a share (70%) of what it is before anything is removed.

    A subclass says which cost `of` is.

    >>> str(Macs("70%")), str(Macs("1.5M"))
    ('at most 70 % of the MACs', 'at most 1,500,000 MACs')
    """

    of: ClassVar[Cost]
    budget: int | None
    share: float | None

    def __init_subclass__(cls) -> None:
        cls.name = cls.of.name

    def __init__(self, budget: int | str) -> None:
        argument, is_share = type(self).__name__, isinstance(budget, str) and budget.strip().endswith("%")
        object.__setattr__(self, "budget", None if is_share else self.of.parse(argument, budget))
        object.__setattr__(self, "share", parse_fraction(argument, budget) if is_share else None)

    def __repr__(self) -> str:
        said = repr(self.budget) if self.share is None else f"'{100 * self.share:g}%'"
        return f"{type(self).__name__}({said})"

    def limit(self, start: Measures) -> int:
        """Return what the cost may be."""
        return int((self.share or 0) * self.of.of(start.costs) + 1e-9) if self.budget is None else self.budget

    @property
    def cost(self) -> str:
        """The cost's column."""
        return self.of.column

    @property
    def unit(self) -> str:
        """What stands behind a number of it."""
        return self.of.unit

    def reached(self, start: Measures, now: Measures) -> bool:
        """Whether the cost is within its budget."""
        return self.of.of(now.costs) <= self.limit(start)

    def progress(self, start: Measures, now: Measures) -> float:
        """How far the cost has come down."""
        first, here, limit = self.of.of(start.costs), self.of.of(now.costs), self.limit(start)
        return 1.0 if first <= limit else min(1.0, (first - here) / (first - limit))

    def __str__(self) -> str:
        if self.share is not None:
            return f"at most {100 * self.share:g} % of the {self.unit}"
        return f"at most {self.budget:,} {self.unit}"


def limits_of(goals: Sequence[Goal], start: Measures) -> dict[str, int]:
    """Return what each cost that goals are about may be, by its column; of several the least.

    >>> from shrinknet.core.records import Costs
    >>> limits_of([Macs("70%"), FlashBytes(900), RemovedNeurons(3)], Measures(0.5, None, Costs(8, 100, 600, 64, 90)))
    {'macs': 63, 'flash_bytes': 900}
    """
    found = dict[str, int]()
    for goal in goals:
        if isinstance(goal, Budget):
            found[goal.cost] = min(found.get(goal.cost, goal.limit(start)), goal.limit(start))
    return found


class FlashBytes(Budget):
    """At most that many bytes of the file that ships (the weights file, or the run's artefact), such as 64KiB or 70%.

    >>> str(FlashBytes("32 KiB"))
    'at most 32,768 bytes of flash'
    """

    of = FLASH


class PeakRamBytes(Budget):
    """At most that many bytes of the planner's arena at batch 1, such as 20KiB or 70%.

    >>> str(PeakRamBytes("4 KiB"))
    'at most 4,096 bytes of RAM'
    """

    of = RAM


class NumParameters(Budget):
    """At most that many parameters, such as 20k or 70%."""

    of = PARAMETERS


class Macs(Budget):
    """At most that many MACs (multiply-accumulate operations) a sample, such as 1.5M or 70%."""

    of = MACS


BY_NAME = registry_of_classes(Goal, "goal", "shrinknet.search.goals", "shrinknet.goals", "goal")  # type: ignore[type-abstract]
