"""What a batch means: which parts of it a network is called with, and which are the targets."""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec

from shrinknet.core.errors import BadInputError
from shrinknet.core.units import names_in

Call = tuple[Sequence[Any], Mapping[str, Any], Any]
"""Positional arguments, named arguments, targets (None: there are none)."""

PLACES = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
"""Parameters that can be given by their place."""

Unpack = Callable[[str, Any], Call]
"""Given the role and a batch, the call of the network and the targets."""

TARGETS = names_in("""
    labels, label, targets, target, start_positions, end_positions, next_sentence_label, sentence_order_label
""")
"""Keys of a batch that are targets, also where the network's `forward` would take them."""


def by_place(role: str, batch: Any) -> Call:
    """Take the last part of a batch for the targets, all before it for the network's arguments.

    >>> by_place("test", (1, 2, 3))
    ([1, 2], {}, 3)
    """
    if isinstance(batch, tuple | list) and len(batch) > 1:
        return list(batch[:-1]), {}, batch[-1]
    if isinstance(batch, tuple | list) and len(batch) == 1:
        return list(batch), {}, None
    if isinstance(batch, Tensor | np.ndarray):
        return [batch], {}, None
    raise _odd(role, batch)


class ByForward:
    """Take a batch apart by what a network's `forward` is called with.

    Of a mapping (a dict, a `BatchEncoding`, a dataclass, a named tuple whose fields are arguments), keys that `forward`
    takes are arguments, `labels` and `targets` and those that it does not take are targets. Of a tuple or list the last
    part is the targets, unless `forward` needs it, and the others are arguments; where it is `(inputs, targets)` with
    several inputs, they are spread over the arguments, by their names where they have those of arguments, if `forward`
    needs more than one: one that needs one is called with all of them.

    >>> class Two(nn.Module):
    ...     def forward(self, left, right): ...
    >>> ByForward(Two())("test", {"left": 1, "right": 2, "y": 3})
    ([], {'left': 1, 'right': 2}, 3)
    >>> ByForward(Two())("test", ((1, 2), 3))
    ([1, 2], {}, 3)
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = list(inspect.signature(model.forward).parameters.values())
        kinds = {one.name: one.kind for one in parameters}
        self.takes_any_name = inspect.Parameter.VAR_KEYWORD in kinds.values()
        of_any_number = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        self.names = [name for name, kind in kinds.items() if kind not in of_any_number]
        self.first = next((one.name for one in parameters if one.kind in PLACES), None)
        self.needed = [one.name for one in parameters if one.default is one.empty and one.name in self.names]
        self.exported: TreeSpec | None = getattr(model, "_in_spec", None)
        is_any = inspect.Parameter.VAR_POSITIONAL in kinds.values()
        self.most_places = sys.maxsize if is_any else sum(one.kind in PLACES for one in parameters)
        self.num_needed = sum(one.default is one.empty and one.kind in PLACES for one in parameters)

    def __call__(self, role: str, batch: Any) -> Call:
        """Return the call and the targets."""
        args, kwargs, targets = self._taken_apart(role, batch)
        if len(args) > self.most_places:
            raise self._too_many(role, len(args))
        return (args, kwargs, targets) if self.exported is None else (*self._as_exported(args, kwargs), targets)

    def _too_many(self, role: str, count: int) -> BadInputError:
        """A network of one input is called several times in a training loop with a triplet; here it is called once."""
        names = ", ".join(self.names)
        do = "Say unpack=batch -> (args, kwargs, targets)."
        if self.most_places == 1:
            do = (
                "Where your loop calls the network on each part, let a forward of your own do so, forward(self, a, b): "
                f"return self.net(a), self.net(b): run.model.net is then the smaller one. Where {names} is a tuple, "
                f"give the parts as one, ((a, b), targets)."
            )
        got = f"{count} parts beside the targets"
        return BadInputError(role, f"a batch with what the network's forward takes ({names})", got, do)

    def _as_exported(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The same call in the form of the export, which takes no other: by place what came by place there."""
        assert self.exported is not None
        by_place, by_name = self.exported.children()
        given = dict(zip(self.names, args, strict=False)) | dict(kwargs)
        if len(given) < len(args) + len(kwargs) or given.keys() != {*self.names}:
            return args, kwargs  # the network will say what is wrong
        placed = self.names[: by_place.num_children]
        return [given[name] for name in placed], {name: given[name] for name in by_name.context}

    def _taken_apart(self, role: str, batch: Any) -> Call:
        said = _by_field(batch)
        if said is not None and (not isinstance(batch, tuple) or {*said} & {*self.names}):
            batch = said
        if isinstance(batch, Mapping):
            return self._by_name(role, dict(batch))
        if self._is_all_inputs(batch):
            return list(batch), {}, None
        args, _, targets = by_place(role, batch)
        if len(args) == 1 and isinstance(args[0], Mapping) and self._takes(args[0]):
            return [], self._in_order(args[0]), targets
        if len(args) == 1 and (said := _by_field(args[0])) is not None and {*said} <= {*self.names}:
            return [], self._in_order(said), targets
        if len(args) == 1 and isinstance(args[0], tuple | list) and self.num_needed > 1:
            return list(args[0]), {}, targets
        return args, {}, targets

    def _is_all_inputs(self, batch: Any) -> bool:
        """Whether `forward` needs every tensor of a tuple."""
        is_spread = isinstance(batch, tuple | list) and 1 < len(batch) <= self.num_needed
        return is_spread and all(isinstance(one, Tensor | np.ndarray) for one in batch)

    def _takes(self, names: Iterable[str]) -> bool:
        return self.takes_any_name or set(names) <= set(self.names)

    def _in_order(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The same in the order of the network's parameters: one call has one form."""
        first = [name for name in self.names if name in batch]
        return {name: batch[name] for name in (*first, *(name for name in batch if name not in first))}

    def _by_name(self, role: str, batch: dict[str, Any]) -> Call:
        given = {
            name: value for name, value in self._in_order(batch).items() if name not in TARGETS and self._takes([name])
        }
        rest = {name: value for name, value in batch.items() if name not in given}
        if not given:
            allowed = f"a mapping with what the network's forward takes ({', '.join(self.names)})"
            do = "Name the arrays so, or say unpack=batch -> (args, kwargs, targets)."
            raise BadInputError(role, allowed, f"keys {', '.join(map(repr, batch))}", do)
        if missing := [name for name in self.needed if name not in given]:
            allowed = f"a mapping with all that the network's forward needs ({', '.join(self.needed)})"
            do = "Name the arrays so, or say unpack=batch -> (args, kwargs, targets)."
            others = [name for name in rest if name not in TARGETS]
            raise BadInputError(role, allowed, f"no {missing[0]!r}{f' but {others[0]!r}' if others else ''}", do)
        known = {name: value for name, value in rest.items() if name in TARGETS}
        if known and len(known) < len(rest):
            odd = next(name for name in rest if name not in known)
            allowed = f"a mapping of what the network's forward takes ({', '.join(self.names)}) and of targets"
            do = "Leave it out, or say unpack=batch -> (args, kwargs, targets)."
            raise BadInputError(role, allowed, f"a key {odd!r} that nothing takes", do)
        targets = next(iter(rest.values())) if len(rest) == 1 else rest or None
        if [*given] == [self.first]:
            return [*given.values()], {}, targets  # one tensor: the same call as model(x)
        return [], given, targets


def _by_field(batch: Any) -> dict[str, Any] | None:
    """The parts of a dataclass or a named tuple by their names; None for anything else."""
    if is_dataclass(batch) and not isinstance(batch, type | Mapping):
        return {one.name: getattr(batch, one.name) for one in fields(batch)}
    return batch._asdict() if isinstance(batch, tuple) and hasattr(batch, "_asdict") else None


def of_the_users(unpack: Callable[[Any], Call]) -> Unpack:
    """Return the user's own way of taking a batch apart, which returns (args, kwargs, targets)."""

    def checked(role: str, batch: Any) -> Call:
        try:
            args, kwargs, targets = unpack(batch)
            return tuple(args), dict(kwargs), targets
        except Exception as error:  # the user's own code
            allowed = "a function of a batch that returns (args, kwargs, targets)"
            got = f"one that said of a batch of {role} data: {type(error).__name__}: {error}"
            do = "Return ((x,), {}, y) for a network that is called with x."
            raise BadInputError("unpack", allowed, got, do) from error

    return checked


def _odd(role: str, batch: Any) -> BadInputError:
    do = "Give (inputs, targets), or say unpack=batch -> (args, kwargs, targets)."
    return BadInputError(role, "batches that are tuples, lists, mappings or tensors", type(batch).__name__, do)
