"""Widths that a Hugging Face config says once: which axes follow each of its numbers."""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Path = tuple[str, ...]
"""Where a number stands in a config: ("hidden_size",), ("hidden_sizes[1]",), or ("text_config", "hidden_size")."""

Shapes = dict[str, tuple[int, ...]]


def has_config(model: nn.Module) -> bool:
    """Whether a network is one of transformers', which is made of its config alone."""
    return any(one.__name__ == "PreTrainedModel" and "transformers" in one.__module__ for one in type(model).__mro__)


def numbers(config: Any) -> dict[Path, int]:
    """Return the whole numbers of a config, of its lists and of the configs within it.

    >>> class Config:
    ...     def __init__(self, **said):
    ...         vars(self).update(said)
    ...     def to_dict(self):
    ...         return vars(self)
    >>> numbers(Config(widths=[8, 16], use_cache=True, text_config=Config(num_heads=2)))
    {('widths[0]',): 8, ('widths[1]',): 16, ('text_config', 'num_heads'): 2}
    """
    found: dict[Path, int] = {}
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            found |= {(name, *path): number for path, number in numbers(value).items()}
            continue
        listed = {f"{name}[{place}]": one for place, one in enumerate(value if isinstance(value, list | tuple) else ())}
        for key, one in (listed or {name: value}).items():
            if isinstance(one, int) and not isinstance(one, bool):
                found[key,] = one
    return found


def set_numbers(config: Any, values: Mapping[Path, int]) -> None:
    """Change some numbers of a config, in place."""
    for (*owners, name), value in values.items():
        part = config
        for owner in owners:
            part = getattr(part, owner)
        field, _, place = name.partition("[")
        if place:
            listed = list(getattr(part, field))
            listed[int(place.rstrip("]"))] = value
            setattr(part, field, listed)
        else:
            setattr(part, field, value)


def with_numbers(config: Any, values: Mapping[Path, int]) -> Any:
    """Return a copy of a config with other numbers."""
    changed = copy.deepcopy(config)
    set_numbers(changed, values)
    return changed


def shapes(model: nn.Module) -> Shapes:
    """Return the shape of each parameter, shared ones under each of their names."""
    return {name: tuple(one.shape) for name, one in model.named_parameters(remove_duplicate=False)}


def shapes_by(model: nn.Module, values: Mapping[Path, int]) -> Shapes | None:
    """Return the shapes of a network of that class whose config has other numbers; None where the class refuses them.

    Cost: the class is made without memory.
    """
    try:
        with torch.device("meta"), _silent():
            return shapes(type(model)(with_numbers(model.config, values)))
    except Exception:  # whatever a class says of numbers that do not go together
        return None


def axes_by_number(model: nn.Module) -> dict[Path, list[tuple[str, int]]]:
    """Return the parameter axes that become longer where a number of the config is doubled.

    Cost: the class is made, without memory, once for each number.
    """
    before = shapes(model)
    found = {}
    for path, number in numbers(model.config).items():
        after = shapes_by(model, {path: 2 * number}) or {}
        found[path] = [
            (name, axis)
            for name, shape in before.items()
            if len(after.get(name, ())) == len(shape)
            for axis, size in enumerate(shape)
            if after[name][axis] != size
        ]
    return {path: axes for path, axes in found.items() if axes}


@contextmanager
def _silent() -> Iterator[None]:
    """transformers says what it thinks of each config: of ours nobody wants to know."""
    log = logging.getLogger("transformers")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
