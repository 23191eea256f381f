"""Records as JSON, and back by what their fields say: one mechanism for every file of a run folder."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def as_json(value: Any) -> Any:
    """Return a value as JSON holds it: records as objects, numbers that JSON has no word for as text.

    >>> from shrinknet.core.records import Neuron
    >>> as_json([Neuron("fc1", 3), float("nan")])
    [{'group': 'fc1', 'index': 3}, 'nan']
    """
    if is_dataclass(value):
        return {one.name: as_json(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        return str(value)
    return value


def restored(kind: type[T], content: Any) -> T:
    """Return the value of a type that `as_json` wrote.

    Fields that are not there, as in a file of an older version, have their defaults.

    Raises:
        TypeError, ValueError: something is of another kind.

    >>> from shrinknet.core.records import Difference
    >>> restored(Difference, {"precision": "float32", "worst": "nan", "tolerance": 1e-3, "num_samples": 8}).holds
    False
    """
    return _restored(kind, content)  # type: ignore[no-any-return]


def all_restored(kind: type[T], content: Any) -> tuple[T, ...]:
    """Return the values of a type of which `as_json` wrote a list; see `restored`."""
    _must_be(content, list)
    return tuple(restored(kind, item) for item in content)


def _restored(kind: Any, content: Any) -> Any:
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if content is None and NoneType in inside else _restored(inside[0], content)
    if is_dataclass(kind):
        _must_be(content, dict)
        hints = get_type_hints(kind)
        return kind(**{name: _restored(hints[name], value) for name, value in _as_now(content).items()})  # type: ignore[operator]
    if origin is tuple:
        _must_be(content, list)
        return tuple(_restored(inside[0], item) for item in content)
    if origin is Mapping:
        _must_be(content, dict)
        return {str(key): _restored(inside[1], item) for key, item in content.items()}
    if kind is float:
        return float(content)
    if kind in (int, str, bool):
        _must_be(content, kind)
    return content


FORMERLY = {
    "validation_accuracy": "metrics",
    "accuracy": "metrics",
    "accuracy_before": "metrics_before",
    "accuracy_after": "metrics_after",
}
"""What older versions called otherwise: accuracy was the only metric."""


def _as_now(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record's content under the names of today."""
    old = {name: value for name, value in content.items() if name in FORMERLY}
    accuracies = {FORMERLY[name]: {} if value is None else {"accuracy": value} for name, value in old.items()}
    return {name: value for name, value in content.items() if name not in old} | accuracies


def _must_be(content: Any, kind: type) -> None:
    if not isinstance(content, kind) or (kind is int and isinstance(content, bool)):
        raise TypeError(f"{str(content)[:40]!r} is not {'an' if kind is int else 'a'} {kind.__name__}")
