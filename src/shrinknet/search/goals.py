"""Goals: a run ends once all of them are reached."""

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import isclass
from types import ModuleType
from typing import Any, ClassVar, Protocol, runtime_checkable

from shrinknet.core.errors import BadInputError
from shrinknet.core.quantities import FLASH, MACS, PARAMETERS, RAM, Cost
from shrinknet.core.records import Costs, Measures
from shrinknet.core.registry import Registry
from shrinknet.core.units import parse_fraction


@runtime_checkable
class Goal(Protocol):
    """What a run wants to reach."""

    def reached(self, start: Measures, now: Measures) -> bool:
        """Whether the network as it is now is small enough."""

    def progress(self, start: Measures, now: Measures) -> float:
        """How much of the way is done, from 0 to 1."""

    def neurons_left(self, start: Measures, now: Measures) -> int | None:
        """How many more neurons may go at most, where the goal counts neurons: exactly k go."""

    def tightened(self, wanted: "Goal", forecast: Costs, measured: Costs) -> "Goal":
        """What the forecast must reach next, `wanted` until now, for the measurement to reach this goal."""
        return wanted

    def __str__(self) -> str:
        """The goal in words."""


@runtime_checkable
class Typed(Protocol):
    """A goal or guard that can be typed: `--flash 64KiB`, or `--goal package.module:Class=64KiB`.

    Attributes:
        name: the flag.
        help: what it says.
    """

    name: str
    help: str

    @classmethod
    def typed(cls, text: str) -> Any:
        """Return what a text stands for."""


@dataclass(frozen=True, slots=True)
class RemovedNeurons:
    """Exactly `count` neurons are removed.

    >>> str(RemovedNeurons(40))
    '40 neurons removed'
    """

    name: ClassVar[str] = "remove"
    help: ClassVar[str] = "Remove that many neurons (40), or a share (60%)."
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

    def tightened(self, wanted: Goal, forecast: Costs, measured: Costs) -> Goal:
        """Neurons are counted, not forecast."""
        return wanted

    def __str__(self) -> str:
        return f"{self.count} neurons removed"


@dataclass(frozen=True, slots=True, init=False)
class RemovedFraction:
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

    def tightened(self, wanted: Goal, forecast: Costs, measured: Costs) -> Goal:
        """Neurons are counted, not forecast."""
        return wanted

    def __str__(self) -> str:
        return f"{100 * self.fraction:g} % of the neurons removed"


@dataclass(frozen=True, slots=True)
class Budget:
    """A cost is at most `budget`, a number or text. A subclass says which cost `of` is."""

    of: ClassVar[Cost]
    name: ClassVar[str]
    help: ClassVar[str]
    budget: int

    def __init_subclass__(cls) -> None:
        cls.name, cls.help = cls.of.name, cls.of.help

    def __init__(self, budget: int | str) -> None:
        object.__setattr__(self, "budget", self.of.parse(type(self).__name__, budget))

    @classmethod
    def typed(cls, text: str) -> Goal:
        """Return a budget as it is typed."""
        return cls(text)

    @property
    def cost(self) -> str:
        """The cost's column."""
        return self.of.column

    @property
    def unit(self) -> str:
        """What stands behind a number of it."""
        return self.of.unit

    def neurons_left(self, start: Measures, now: Measures) -> int | None:
        """Not counted in neurons."""
        return None

    def reached(self, start: Measures, now: Measures) -> bool:
        """Whether the cost is within its budget."""
        return self.of.of(now.costs) <= self.budget

    def progress(self, start: Measures, now: Measures) -> float:
        """How far the cost has come down."""
        first, here = self.of.of(start.costs), self.of.of(now.costs)
        return 1.0 if first <= self.budget else min(1.0, (first - here) / (first - self.budget))

    def tightened(self, wanted: Goal, forecast: Costs, measured: Costs) -> Goal:
        """Lower by what the measurement misses the budget by; `wanted` where it misses nothing."""
        missed = self.of.of(measured) - self.budget
        return wanted if missed <= 0 else type(self)(max(0, self.of.of(forecast) - missed))

    def __str__(self) -> str:
        return f"at most {self.budget:,} {self.unit}"


class FlashBytes(Budget):
    """The file that ships is at most that many bytes long: the weights file, or the artefact that the run is for.

    >>> str(FlashBytes("32 KiB"))
    'at most 32,768 bytes of flash'
    """

    of = FLASH


class PeakRamBytes(Budget):
    """The arena that the runtime's memory planner asks for is at most that many bytes long, at batch 1.

    >>> str(PeakRamBytes("4 KiB"))
    'at most 4,096 bytes of RAM'
    """

    of = RAM


class NumParameters(Budget):
    """At most that many parameters are left."""

    of = PARAMETERS


class Macs(Budget):
    """One sample takes at most that many multiply-accumulate operations."""

    of = MACS


def typed_in(module: ModuleType) -> Iterator[Any]:
    """Yield what a module has of goals or guards that can be typed."""
    for one in vars(module).values():
        if isclass(one) and one.__module__ == module.__name__ and hasattr(one, "typed") and hasattr(one, "name"):
            yield one


def own_typed(found: object) -> Any:
    """A class of the user's own that can be typed."""
    return found if isclass(found) and hasattr(found, "typed") else None


BY_NAME = Registry[Any]("goal", "shrinknet.search.goals", "shrinknet.goals", typed_in, own_typed, "goal")
