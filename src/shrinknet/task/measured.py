"""The metrics of a task: found by name, and computed along with a pass over the data."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from inspect import isabstract, isclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from shrinknet.core.errors import BadInputError
from shrinknet.core.named import as_object, import_path
from shrinknet.core.quantities import ACCURACY, Quality
from shrinknet.core.registry import Registry
from shrinknet.task.metrics import Metric
from shrinknet.task.trees import shapes_text

LOSS = "loss"
"""A name that is taken: each task has one."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of a task: what is known of it, and what computes it.

    Attributes:
        quality: its name, how it is shown, which way is better.
        of: what has `update`, `compute` and `reset`; never updated itself, copies are.
        spec: the name or `package.module:Class` by which it is found again; empty where there is none.
    """

    quality: Quality
    of: Any
    spec: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.quality.name

    @property
    def facts(self) -> dict[str, object]:
        """What a run's config says of it."""
        known = {name: getattr(self.quality, name) for name in ("name", "is_share", "higher_is_better")}
        return {**known, "spec": self.spec}

    def begun(self, device: torch.device) -> Any:
        """Return a copy without rows; what holds tensors (a `torchmetrics.Metric`) on that device."""
        copy = deepcopy(self.of)
        copy.reset()
        return copy.to(device) if hasattr(copy, "to") else copy


class Computation:
    """The metrics of a task, computed along with a pass over a role's data: over the whole role, not batch by batch."""

    def __init__(self, metrics: Iterable[Measured], device: torch.device) -> None:
        self._begun = [(metric, metric.begun(device)) for metric in metrics]

    def update(self, outputs: Any, targets: Any) -> None:
        """Take a batch in.

        Raises:
            BadInputError: a metric fails.
        """
        for metric, begun in self._begun:
            with _told(metric, outputs, targets):
                begun.update(outputs, targets)

    def values(self) -> dict[str, float | None]:
        """Return each metric's figure by its name; None for one that is no finite number."""
        found = dict[str, float | None]()
        for metric, begun in self._begun:
            with _told(metric):
                value = float(begun.compute())
            found[metric.name] = value if abs(value) < float("inf") else None
        return found


@contextmanager
def _told(metric: Measured, *given: Any) -> Iterator[None]:
    """Say in one sentence what a metric's own code could not do."""
    try:
        yield
    except BadInputError:
        raise
    except Exception as error:  # a metric of the user's own
        shapes = " and ".join(map(shapes_text, given))
        allowed = "ones that take outputs and targets of a role and give one number"
        got = f"{metric.name!r}, which said: {type(error).__name__}: {error}"
        do = f"It was given outputs and targets {shapes}." if given else "Leave it out."
        raise BadInputError("metrics", allowed, got, do) from error


Given = str | object | Iterable[object] | Mapping[str, object]
"""Metrics as they are given: one, several, or by the names that they shall have."""


def find_metrics(given: Given) -> tuple[Measured, ...]:
    """Return metrics by their names.

    Args:
        given: a name, `package.module:Class`, an object with `update`, `compute` and `reset` (a `torchmetrics.Metric`),
            or a function of outputs and targets that gives a number for each row; several; or a mapping by name.

    Raises:
        BadInputError: there is no such metric, or two have one name.

    >>> [metric.name for metric in find_metrics(["top-5", "f1"])]
    ['top-5', 'f1']
    """
    if isinstance(given, Mapping):
        found = [replace(one, quality=replace(one.quality, name=str(name))) for name, one in _named(given)]
    elif isinstance(given, str) or not isinstance(given, Iterable):
        found = [find_metric(given)]
    else:
        found = [find_metric(one) for one in given]
    names = [ACCURACY.name, *(one.name for one in found)]
    if wrong := next((name for name in names if names.count(name) > 1 or name == LOSS), None):
        do = "Give them by name: {'mine': metric}."
        raise BadInputError("metrics", "ones with names of their own", f"{wrong!r} twice or of ours", do)
    return tuple(found)


def _named(given: Mapping[str, object]) -> Iterator[tuple[str, Measured]]:
    return ((name, find_metric(one)) for name, one in given.items())


def find_metric(metric: object) -> Measured:
    """Return the metric of that name or `package.module:Class`, or an object as a metric.

    Raises:
        BadInputError: the name is unknown, or it is no metric.
    """
    found = BY_NAME.find(metric)
    return replace(found, spec=metric) if isinstance(metric, str) else found


def _own(found: object) -> Measured | None:
    """A metric as it is; a class, an object or a function as one."""
    if isinstance(found, Measured):
        return found
    made = as_object("metrics", found) if hasattr(found, "compute") else found
    if all(callable(getattr(made, method, None)) for method in ("update", "compute", "reset")):
        name = str(getattr(made, "name", None) or type(made).__name__)
        better = getattr(made, "higher_is_better", None)
        quality = Quality(name, bool(getattr(made, "is_share", False)), better)
        is_ours = type(made).__module__ == Metric.__module__
        return Measured(quality, made, name if is_ours else import_path(getattr(made, "function", made)) or "")
    return _own(_Function(made)) if callable(made) and not isclass(made) else None


class _Function(Metric):
    """The mean of what a function of outputs and targets gives for each row."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function
        self.name = getattr(function, "__qualname__", type(function).__name__).replace("<lambda>", "metric")  # type: ignore[misc]

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.as_tensor(self.function(outputs, targets))


def _ours(module: ModuleType) -> Iterator[Any]:
    classes = (one for one in vars(module).values() if isclass(one) and issubclass(one, Metric))
    return (_own(one) for one in classes if one is not Metric and not isabstract(one))


BY_NAME = Registry[Measured]("metrics", "shrinknet.task.metrics", "shrinknet.metrics", _ours, _own, "metric")
