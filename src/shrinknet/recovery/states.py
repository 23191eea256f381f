"""The state of a training as a file, what its optimizer remembers included: tensors and numbers, no pickle."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from shrinknet.core.errors import RunFolderError


def packed(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> bytes:
    """Return the safetensors file of a state."""
    whole = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    return save(whole, {"numbers": json.dumps(numbers)})


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Give the tensors and numbers of a state, for whoever goes on from it.

    Raises:
        RunFolderError: it cannot be read, or is another network's.
    """
    try:
        with safe_open(path, "pt") as file:
            numbers = json.loads(file.metadata()["numbers"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        yield tensors, numbers
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise RunFolderError(
            f"resume must come with the network and method that the run began with. Got {str(path)!r}, which "
            f"cannot be loaded ({type(error).__name__}: {error}). Use the same command, or another folder."
        ) from error


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
