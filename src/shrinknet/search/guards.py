"""Guards: a step that breaks one is undone, and the run ends. All compare with the start, on validation data."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.core.quantities import ACCURACY, Quality
from shrinknet.core.records import Measures
from shrinknet.core.registry import registry_of_classes
from shrinknet.core.units import counted, parse_fraction, parse_number
from shrinknet.search.typed import Typed

ROUNDING = 1e-12
"""Shares of samples: their difference is rounded."""


class Guard(Typed, ABC):
    """What a run must not break. A subclass says when it is `broken`, by losses and metrics on validation data."""

    def check(self, start: Measures) -> None:
        """Raise BadInputError where the task cannot measure what is guarded."""

    @abstractmethod
    def broken(self, start: Measures, now: Measures) -> bool:
        """Whether the network as it is now breaks the guard."""


def _needs(measured: object, guard: str, what: str) -> None:
    if measured is None:
        raise BadInputError(
            guard,
            f"used with {what}",
            "a task without it",
            "Give the task validation data with class targets, and name an accuracy where a loss of your own has none.",
        )


@dataclass(frozen=True, slots=True)
class MetricDrop(Guard):
    """Guard: a metric of which more is better falls by at most so much, such as mean-iou=1%.

    It compares with the start, on validation data. One that is no number any more breaks the guard, too.

    Args:
        metric: its name, as in `Measures.metrics`.
        largest: in its own unit; of a share as a fraction (0.01) or in points ("1%").

    >>> str(MetricDrop("mean-iou", "1%")), str(MetricDrop("r2", 0.05))
    ('mean-iou at most 0.01 below the start', 'r2 at most 0.05 below the start')
    """

    name, is_repeated = "max-drop", True
    way: ClassVar[str] = "below"
    metric: str
    largest: float
    is_in_points: bool = field(compare=False)

    def __init__(self, metric: str, largest: int | float | str) -> None:
        object.__setattr__(self, "metric", metric)
        object.__setattr__(self, "is_in_points", str(largest).strip().endswith("%"))
        object.__setattr__(self, "largest", _amount(type(self).__name__, largest))

    @classmethod
    def typed(cls, text: str) -> Any:
        """Return the guard as it is typed: NAME=VALUE."""
        metric, equals, largest = text.partition("=")
        if not equals:
            raise BadInputError(cls.__name__, "NAME=VALUE, such as mean-iou=1%", repr(text), "Name the metric.")
        return cls(metric, largest)

    def check(self, start: Measures) -> None:
        """Need the metric, and one from -1 to 1 where points are meant."""
        known = did_you_mean(self.metric, [*start.metrics]) if start.metrics else ""
        if start.metrics.get(self.metric) is None:
            raise BadInputError(
                type(self).__name__,
                "used with a metric that is measured on validation data",
                repr(self.metric),
                f"{known} Give the task validation data, and the metric by `metrics`.".strip(),
            )
        if self.is_in_points and abs(start.metrics[self.metric] or 0) > 1:
            got = f"{100 * self.largest:g}% of {self.metric!r}, which is {start.metrics[self.metric]:.4g} at the start"
            do = f"Write {self.largest * abs(start.metrics[self.metric] or 0):.3g} for that share of it."
            raise BadInputError(type(self).__name__, "in the metric's own unit where that is no share of 1", got, do)

    def broken(self, start: Measures, now: Measures) -> bool:
        """Whether the drop since the start is larger."""
        before, after = (self._of(measures) for measures in (start, now))
        assert before is not None
        if after is None:
            return True
        worse = before - after if self.way == "below" else after - before
        return worse > self.largest + ROUNDING

    def _of(self, measures: Measures) -> float | None:
        return measures.metrics[self.metric]

    def __str__(self) -> str:
        return f"{self.metric} at most {self.largest:g} {self.way} the start"


class MetricRise(MetricDrop):
    """Guard: a metric of which less is better rises by at most so much, such as perplexity=0.5.

    >>> str(MetricRise("perplexity", 0.5))
    'perplexity at most 0.5 above the start'
    """

    name = "max-rise"
    way = "above"


class AccuracyDrop(MetricDrop):
    """Guard: accuracy falls by at most so many points, such as 1%.

    >>> str(AccuracyDrop("1%"))
    'accuracy at most 1 point below the start'
    """

    name, is_repeated = "max-accuracy-drop", False
    what = "accuracy"

    def __init__(self, largest: int | float | str) -> None:
        super().__init__(ACCURACY.name, parse_fraction(type(self).__name__, largest))

    @classmethod
    def typed(cls, text: str) -> Any:
        """Return the guard as it is typed."""
        return cls(text)

    def check(self, start: Measures) -> None:
        """Need classes."""
        _needs(self._of(start), type(self).__name__, "validation data whose targets are classes")

    def _of(self, measures: Measures) -> float | None:
        return measures.metrics.get(self.metric)

    def __str__(self) -> str:
        return f"{self.what} at most {counted(100 * self.largest, 'point')} below the start"


class WorstClassRecall(AccuracyDrop):
    """Guard on the worst class's recall, such as 5%: it falls by at most so many points.

    >>> str(WorstClassRecall("5%"))
    "worst class's recall at most 5 points below the start"
    """

    name = "max-recall-drop"
    what = "worst class's recall"

    def _of(self, measures: Measures) -> float | None:
        return measures.worst_class_recall


def check_ways(guards: Sequence[object], qualities: Mapping[str, Quality]) -> None:
    """Raise BadInputError where a guard holds a metric from getting better."""
    for guard in guards:
        if not isinstance(guard, MetricDrop) or guard.metric not in qualities:
            continue
        if qualities[guard.metric].higher_is_better is (guard.way != "below"):
            other, least = (MetricRise, "less") if guard.way == "below" else (MetricDrop, "more")
            kind = type(guard).__name__
            raise BadInputError(
                kind,
                "about a metric that gets worse that way",
                f"{guard.metric!r}, of which {least} is better",
                f"Use {other.__name__}.",
            )


def _amount(argument: str, given: int | float | str) -> float:
    try:
        amount = parse_number(argument, given)
    except BadInputError:
        amount = -1.0
    if amount < 0:
        raise BadInputError(argument, "a number of at least 0", repr(given), "Write it as 0.1, or 1% of a share.")
    return amount


@dataclass(frozen=True, slots=True)
class ClassRecall(Guard):
    """Guard: every class's recall stays above, as 70%.

    The run stops before a class is lost. This one is a floor and does not compare with the start; a network that lies
    below it at the start is refused.

    >>> str(ClassRecall("70%"))
    "every class's recall at least 70 %"
    """

    name = "min-class-recall"
    least: float | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "least", parse_fraction("ClassRecall", self.least))

    def check(self, start: Measures) -> None:
        """Need classes, and a start that is good enough."""
        _needs(start.worst_class_recall, "ClassRecall", "validation data whose targets are classes")
        if self.broken(start, start):
            recalls = [1.0 if recall != recall else recall for recall in start.validation_recalls or ()]
            worst = min(range(len(recalls)), key=recalls.__getitem__)
            raise BadInputError(
                "ClassRecall",
                f"at most {recalls[worst]:.4f}, the recall of class {worst} at the start",
                f"{float(self.least):g}",
                "Ask for less, or train the network for that class.",
            )

    def broken(self, start: Measures, now: Measures) -> bool:
        """Whether the worst class lies below."""
        assert now.worst_class_recall is not None
        return now.worst_class_recall < float(self.least) - ROUNDING

    def __str__(self) -> str:
        return f"every class's recall at least {100 * float(self.least):g} %"


@dataclass(frozen=True, slots=True)
class LossRise(Guard):
    """Guard, in the loss's unit: the mean validation loss rises by at most so much.

    >>> str(LossRise(0.1))
    'loss at most 0.1 above the start'
    """

    name = "max-loss-rise"
    largest: float

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


BY_NAME = registry_of_classes(Guard, "guard", "shrinknet.search.guards", "shrinknet.guards", "guard")  # type: ignore[type-abstract]
