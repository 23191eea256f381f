"""What an optimizer remembers, as tensors and numbers: no pickle is needed to keep it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimizer's tensors ("0/momentum_buffer") and its numbers (settings and counters).

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.grad = torch.ones(2)
    >>> optimizer.step()
    >>> list(optimizer_state(optimizer)[0])
    ['0/momentum_buffer']
    """
    content = optimizer.state_dict()
    tensors, numbers = dict[str, Tensor](), dict[str, Any]()
    for place, values in content["state"].items():
        for key, value in values.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{place}/{key}"] = value
    return tensors, {"state": numbers, "param_groups": content["param_groups"]}


def under(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of one part of a state by their own names.

    >>> list(under({"mask/fc1": torch.ones(1), "own/fc1": torch.ones(1)}, "mask"))
    ['fc1']
    """
    return {name.removeprefix(f"{part}/"): one for name, one in tensors.items() if name.startswith(f"{part}/")}


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Go on from what `optimizer_state` returned."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in (*tensors.items(), *numbers["state"].items()):
        place, _, key = name.partition("/")
        state.setdefault(int(place), {})[key] = value.clone() if isinstance(value, Tensor) else value
    groups = [
        {key: tuple(value) if isinstance(value, list) and key != "params" else value for key, value in group.items()}
        for group in numbers["param_groups"]
    ]
    with torch.no_grad():
        optimizer.load_state_dict({"state": state, "param_groups": groups})
