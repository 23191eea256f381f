"""Guards: a step that breaks one is undone, and the run ends. All compare with the start, on validation data."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Measures
from shrinknet.core.registry import Registry
from shrinknet.core.units import parse_fraction
from shrinknet.search.goals import own_typed, typed_in


@runtime_checkable
class Guard(Protocol):
    """What a run must not break."""

    def check(self, start: Measures) -> None:
        """Raise BadInputError where the task cannot measure what is guarded."""

    def broken(self, start: Measures, now: Measures) -> bool:
        """Whether the network as it is now breaks the guard."""

    def __str__(self) -> str:
        """The guard in words."""


def _needs(measured: object, guard: str, what: str) -> None:
    if measured is None:
        raise BadInputError(
            guard,
            f"used with {what}",
            "a task without it",
            "Give the task validation data with class targets, and name an accuracy where a loss of your own has none.",
        )


@dataclass(frozen=True, slots=True)
class _Drop:
    """A share of right answers falls by at most `largest` below the start."""

    measure: str
    largest: float
    what: str

    @classmethod
    def typed(cls, text: str) -> Any:
        """Return the guard as it is typed."""
        return cls(text)  # type: ignore[call-arg]

    def check(self, start: Measures) -> None:
        """Need classes."""
        _needs(getattr(start, self.measure), type(self).__name__, "validation data whose targets are classes")

    def broken(self, start: Measures, now: Measures) -> bool:
        """Whether the drop since the start is larger."""
        drop = float(getattr(start, self.measure)) - float(getattr(now, self.measure))
        return drop > self.largest + 1e-12  # shares of samples: their difference is rounded

    def __str__(self) -> str:
        return f"{self.what} at most {100 * self.largest:g} points below the start"


class AccuracyDrop(_Drop):
    """Validation accuracy falls by at most that many points, as a fraction: 0.01 is one point.

    >>> str(AccuracyDrop("1%"))
    'accuracy at most 1 points below the start'
    """

    name, help = "max-accuracy-drop", "Guard: accuracy falls by at most so many points, such as 1%."

    def __init__(self, largest: float | str) -> None:
        super().__init__("validation_accuracy", parse_fraction("AccuracyDrop", largest), "accuracy")


class WorstClassRecall(_Drop):
    """The recall of the worst class falls by at most that many points: 0.05 is five points.

    >>> str(WorstClassRecall("5%"))
    "worst class's recall at most 5 points below the start"
    """

    name, help = "max-recall-drop", "Guard on the worst class's recall, such as 5%."

    def __init__(self, largest: float | str) -> None:
        super().__init__("worst_class_recall", parse_fraction("WorstClassRecall", largest), "worst class's recall")


@dataclass(frozen=True, slots=True)
class ClassRecall:
    """The recall of every class stays at least so high: the run stops before a class is lost.

    This one is a floor and does not compare with the start; a network that lies below it at the start is refused.

    >>> str(ClassRecall("70%"))
    "every class's recall at least 70 %"
    """

    name: ClassVar[str] = "min-class-recall"
    help: ClassVar[str] = "Guard: every class's recall stays above, as 70%."
    least: float | str

    @classmethod
    def typed(cls, text: str) -> "ClassRecall":
        """Return the guard as it is typed."""
        return cls(text)

    def __post_init__(self) -> None:
        object.__setattr__(self, "least", parse_fraction("ClassRecall", self.least))

    def check(self, start: Measures) -> None:
        """Need classes, and a start that is good enough."""
        _needs(start.worst_class_recall, "ClassRecall", "validation data whose targets are classes")
        if self.broken(start, start):
            recalls = [1.0 if recall != recall else recall for recall in start.validation_recalls or ()]
            worst = min(range(len(recalls)), key=recalls.__getitem__)
            raise BadInputError(
                "ClassRecall", f"at most {recalls[worst]:.4f}, the recall of class {worst} at the start",
                f"{float(self.least):g}", "Ask for less, or train the network for that class.",
            )  # fmt: skip

    def broken(self, start: Measures, now: Measures) -> bool:
        """Whether the worst class lies below."""
        assert now.worst_class_recall is not None
        return now.worst_class_recall < float(self.least) - 1e-12

    def __str__(self) -> str:
        return f"every class's recall at least {100 * float(self.least):g} %"


@dataclass(frozen=True, slots=True)
class LossRise:
    """The mean validation loss rises by at most that much, in the loss's own unit.

    >>> str(LossRise(0.1))
    'loss at most 0.1 above the start'
    """

    name: ClassVar[str] = "max-loss-rise"
    help: ClassVar[str] = "Guard, in the loss's unit."
    largest: float

    @classmethod
    def typed(cls, text: str) -> "LossRise":
        """Return the guard as it is typed."""
        try:
            return cls(float(text))
        except ValueError:
            raise BadInputError("LossRise", "a number of at least 0", repr(text), "Write it as 0.1.") from None

    def __post_init__(self) -> None:
        if not (isinstance(self.largest, int | float) and math.isfinite(self.largest) and self.largest >= 0):
            raise BadInputError("LossRise", "a number of at least 0", repr(self.largest), "Write it as 0.1.")

    def check(self, start: Measures) -> None:
        """Need a validation loss."""
        _needs(start.validation_loss, "LossRise", "validation data")

    def broken(self, start: Measures, now: Measures) -> bool:
        """Whether the rise since the start is larger."""
        assert start.validation_loss is not None
        assert now.validation_loss is not None
        return now.validation_loss - start.validation_loss > self.largest

    def __str__(self) -> str:
        return f"loss at most {self.largest:g} above the start"


BY_NAME = Registry[Any]("guard", "shrinknet.search.guards", "shrinknet.guards", typed_in, own_typed, "guard")
