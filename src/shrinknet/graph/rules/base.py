"""What a rule is given, what it may say, and the table of rules.

A rule is a function of a `Call`. It returns the slots of the operator's output and says the rest through the call:
`unite`, `freeze`, `gate` (a mixing operator reads neurons here). What a rule neither returns, unites nor freezes is
frozen by the engine, so that a forgotten operand costs freedom and never correctness.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.graph.labels import LabelStore, Slots, varying, vector
from shrinknet.graph.operators import describe, is_elementwise, operator_name


@dataclass(frozen=True, slots=True)
class Site:
    """A place where a mixing operator reads neurons: axis `axis` of its `argument`-th argument."""

    node: str
    argument: int
    axis: int


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the traced shape of a node's value, the batch at its traced size."""
    return tuple(_size(size) for size in value.shape)


def _size(size: int | torch.SymInt) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


@dataclass(frozen=True, slots=True)
class Call:
    """One operator in the graph, with the slots of its arguments."""

    node: Node
    slots_by_node: dict[Node, Slots]
    store: LabelStore
    sites: list[Site]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output."""
        return shape_of(self.node.meta["val"])

    @property
    def tensors(self) -> list[Node]:
        """The arguments that are tensors, in their order."""
        return [node for node in self.node.all_input_nodes if isinstance(node.meta.get("val"), Tensor)]

    def argument(self, position: int, default: Any = None) -> Any:
        """Return a positional argument, or its default where the graph leaves it out."""
        return self.node.args[position] if position < len(self.node.args) else default

    def slots(self, node: Node) -> Slots:
        """Return the slots of an argument."""
        return self.slots_by_node.get(node, ())

    def slot_along(self, node: Node, axis: int) -> Tensor | None:
        """Return the slot of an argument that varies on that axis, if there is one."""
        axis %= len(shape_of(node.meta["val"]))
        return next((slot for slot in self.slots(node) if axis in varying(slot)), None)

    def vector_along(self, node: Node, axis: int) -> Tensor | None:
        """Return the labels along one axis of an argument, uniting whatever else varies with them."""
        slot = self.slot_along(node, axis)
        if slot is None:
            return None
        axis %= slot.dim()
        for other in set(varying(slot)) - {axis}:
            first = slot.narrow(other, 0, 1).expand_as(slot)
            self.unite(slot, first)
            slot = first
        return vector(slot, axis)

    def unite(self, one: Tensor, other: Tensor) -> None:
        """Say that elements that meet belong to one neuron."""
        self.store.unite(one, other, f"meets values of fixed width at {self.where}")

    def freeze(self, slots: Slots, reason: str) -> None:
        """Say that the neurons of these slots are never removed."""
        for slot in slots:
            self.store.freeze(slot, reason)

    def gate(self, argument: int, axis: int) -> None:
        """Say that this operator mixes neurons along that axis of one argument."""
        value = self.node.args[argument].meta["val"]  # type: ignore[union-attr]
        self.sites.append(Site(self.node.name, argument, axis % value.dim()))

    @property
    def where(self) -> str:
        """The operator, and the module it stands in, in words."""
        return describe(self.node)


Rule = Callable[[Call], Slots]
_RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Enter a rule in the table, under the names of ATen operators ("linear", "conv2d", ...)."""

    def enter(function: Rule) -> Rule:
        for operator in operators:
            if operator in _RULES:
                raise ValueError(f"two rules for {operator}")
            _RULES[operator] = function
        return function

    return enter


def find_rule(node: Node) -> Rule | None:
    """Return the rule for a node's operator, if there is one; element-wise operators share theirs."""
    return _RULES.get(operator_name(node)) or (_RULES["elementwise"] if is_elementwise(node) else None)


def load_rules() -> None:
    """Import every file of this folder, so that its rules enter the table."""
    package = import_module("shrinknet.graph.rules")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
