"""Goals: a run ends once all of them are reached."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Costs, Measures
from shrinknet.core.units import parse_bytes, parse_count, parse_fraction


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

    def __str__(self) -> str:
        """The goal in words."""


@dataclass(frozen=True, slots=True)
class RemovedNeurons:
    """Exactly `count` neurons are removed.

    >>> str(RemovedNeurons(40))
    '40 neurons removed'
    """

    count: int

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
class _CostBudget:
    """A cost is at most `budget`."""

    cost: str
    budget: int
    unit: str

    def neurons_left(self, start: Measures, now: Measures) -> int | None:
        """Not counted in neurons."""
        return None

    def reached(self, start: Measures, now: Measures) -> bool:
        """Whether the cost is within its budget."""
        return int(getattr(now.costs, self.cost)) <= self.budget

    def progress(self, start: Measures, now: Measures) -> float:
        """How far the cost has come down."""
        first, here = getattr(start.costs, self.cost), getattr(now.costs, self.cost)
        return 1.0 if first <= self.budget else min(1.0, (first - here) / (first - self.budget))

    def tightened(self, wanted: Goal, forecast: Costs, measured: Costs) -> Goal:
        """Lower by what the measurement misses the budget by; `wanted` where it misses nothing."""
        missed = getattr(measured, self.cost) - self.budget
        if missed <= 0:
            return wanted
        return type(self)(max(0, getattr(forecast, self.cost) - missed))  # type: ignore[call-arg]

    def __str__(self) -> str:
        return f"at most {self.budget:,} {self.unit}"


class FlashBytes(_CostBudget):
    """The file that ships is at most that many bytes long: the weights file, or the artefact that the run is for.

    >>> str(FlashBytes("32 KiB"))
    'at most 32,768 bytes of flash'
    """

    def __init__(self, budget: int | str) -> None:
        super().__init__("flash_bytes", parse_bytes("FlashBytes", budget), "bytes of flash")


class PeakRamBytes(_CostBudget):
    """The arena that the runtime's memory planner asks for is at most that many bytes long, at batch 1.

    >>> str(PeakRamBytes("4 KiB"))
    'at most 4,096 bytes of RAM'
    """

    def __init__(self, budget: int | str) -> None:
        super().__init__("peak_ram_bytes", parse_bytes("PeakRamBytes", budget), "bytes of RAM")


class NumParameters(_CostBudget):
    """At most that many parameters are left."""

    def __init__(self, budget: int | str) -> None:
        super().__init__("num_parameters", parse_count("NumParameters", budget), "parameters")


class Macs(_CostBudget):
    """One sample takes at most that many multiply-accumulate operations."""

    def __init__(self, budget: int | str) -> None:
        super().__init__("macs", parse_count("Macs", budget), "MACs")
