"""What is given as rows, made trees of tensors: inputs and targets of as many rows."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_structure
from torch.utils.data import DataLoader, Dataset

from shrinknet.core.errors import BadInputError
from shrinknet.task.trees import Inputs, inputs_of, is_tree_of_rows, named_leaves, num_rows, tensors_of
from shrinknet.task.unpacking import Unpack

Part = tuple[Inputs, Any]
"""Inputs and targets of some rows."""


def is_at_once(source: object) -> bool:
    """Return whether something holds all rows at once, as a batch does."""
    if isinstance(source, Dataset | PackedSequence | DataLoader):
        return False
    return isinstance(source, tuple | Mapping | Tensor | np.ndarray) or is_dataclass(source)


def as_part(role: str, item: Any, unpack: Unpack) -> Part:
    """Return inputs and targets as trees of tensors of as many rows.

    Raises:
        BadInputError: they are something else; the message says what to do.
    """
    args, kwargs, targets = unpack(role, item)
    what = f"{role} inputs"
    places = [_tensors(what if len(args) == 1 else f"{what}[{place}]", given) for place, given in enumerate(args)]
    inputs = inputs_of(places, {name: _tensors(f"{what}[{name!r}]", given) for name, given in kwargs.items()})
    targets = None if targets is None else _tensors(f"{role} targets", targets)
    if not tensors_of(inputs):
        do = "Samples lie along the first axis of a tensor."
        raise BadInputError(f"{role} inputs", "tensors with a row for each sample", _named(item), do)
    count = num_rows(inputs)
    if isinstance(inputs, Tensor) and isinstance(targets, Tensor) and len(targets) != count:
        do = "Give one target for each row of inputs."
        raise BadInputError(role, "as many targets as inputs", f"{count} inputs and {len(targets)} targets", do)
    if not is_tree_of_rows(tensors_of((inputs, targets)), count):
        leaves = [*named_leaves(inputs, "inputs"), *named_leaves(targets, "targets")]
        got = ", ".join(f"{name} {list(leaf.shape)}" for name, leaf in leaves if isinstance(leaf, Tensor))
        do = "Give each a row for each sample; what is the same for all samples belongs into the network."
        raise BadInputError(role, "tensors with as many rows each", got, do)
    return inputs, targets


PARTS = ("inputs", "targets")


def _tensors(argument: str, tree: Any) -> Any:
    """A tree whose arrays, and lists of numbers, are tensors."""
    if isinstance(tree, PackedSequence):
        raise BadInputError(argument, "one tensor with a row for each sample", _named(tree), str(_remedy(tree)))
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        named = tree._asdict().items()  # type: ignore[attr-defined]
        return type(tree)(*(_tensors(f"{argument}.{name}", value) for name, value in named))
    if isinstance(tree, Mapping):
        return {key: _tensors(f"{argument}[{key!r}]", value) for key, value in tree.items()}
    if isinstance(tree, tuple | list) and not is_numbers(tree):
        names = [argument if len(tree) == 1 else f"{argument}[{place}]" for place in range(len(tree))]
        return type(tree)(map(_tensors, names, tree))
    if is_dataclass(tree) and tree_structure(tree).is_leaf():
        do = "Register its class with torch.utils._pytree.register_dataclass, or take it apart: "
        do += "unpack=batch -> (args, kwargs, targets)."
        got = f"{_named(tree)}, which it does not"
        raise BadInputError(argument, "tensors, and containers that torch knows", got, do)
    if tree is None or isinstance(tree, bool | int | float | str) or is_dataclass(tree):
        return tree
    return _as_tensor(argument, tree)


def is_numbers(values: Any) -> bool:
    """Return whether a list holds plain numbers alone, however deep."""
    if isinstance(values, tuple | list):
        return len(values) > 0 and all(map(is_numbers, values))
    return isinstance(values, bool | int | float)


def _as_tensor(argument: str, value: Any) -> Tensor:
    """One plain tensor of rows."""
    do = _remedy(value)
    if do is None:
        try:
            tensor = torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value)
        except (ValueError, TypeError, RuntimeError) as error:
            do = f"Make it one with torch.as_tensor, which said: {str(error).splitlines()[0]}"
        else:
            if tensor.dim() > 0:
                return tensor
            do = "Samples lie along the first axis."
    raise BadInputError(argument, "one tensor with a row for each sample", _named(value), do)


def _remedy(value: Any) -> str | None:
    """What to do with something that is no plain tensor; None where it may be one."""
    if isinstance(value, Tensor):
        if value.is_nested:
            return "Pad it with torch.nested.to_padded_tensor."
        if value.is_quantized:
            return "Give it with dequantize()."
        return None if value.layout == torch.strided else "Give it with to_dense()."
    if isinstance(value, PackedSequence):
        return "Pad the sequences to one length, as pad_packed_sequence does, and let the network take that."
    if hasattr(value, "to_numpy"):
        return "Write torch.tensor(frame.to_numpy())."
    if hasattr(value, "toarray"):
        return "Write torch.tensor(matrix.toarray())."
    return None


def _named(value: Any) -> str:
    """A value in a few words.

    >>> _named((torch.zeros(2), torch.zeros(2))), _named({"ids": 1, "mask": 2}), _named(torch.zeros(()))
    ('a tuple of 2', "a dict of 'ids', 'mask'", 'a Tensor of shape []')
    """
    kind = type(value).__name__
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        return f"a {kind} of shape {list(value.shape)}" if value.layout == torch.strided else f"a sparse {kind}"
    if hasattr(value, "keys"):
        return f"a {kind} of {', '.join(map(repr, list(value.keys())[:8]))}"
    return f"a {kind} of {len(value)}" if isinstance(value, tuple | list) else f"a {kind}"
