"""What a rule is given, what it may say, and the tables of what is known about operators.

A rule is a function of a `Call`. It returns the slots of the operator's output and says the rest through the call:
`unite`, `freeze`, `gate` (a mixing operator reads neurons here). What a rule neither returns, unites, gates nor
freezes is frozen by the engine, so that a forgotten operand costs freedom and never correctness.

Beside its rule an operator may have more entries, each under a decorator of its own and in the same file: `resize`
rewrites the widths in its arguments once neurons are gone, `weighted` computes it with a weight on each neuron (where a
factor on the input is not enough: statistics over neurons), `decomposed` writes it in operators that every transform of
torch.func follows, `windows` says how it moves over an axis, `macs` counts its work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.graph.labels import LabelStore, Slots, along, varying, vector
from shrinknet.graph.operators import describe, is_elementwise, operator_name
from shrinknet.graph.places import Windows
from shrinknet.graph.widths import Widths, shape_of


@dataclass(frozen=True, slots=True)
class Site:
    """A place where a mixing operator reads neurons: axis `axis` of one argument.

    `argument` is the way to it: (0,) is the first argument, (2, 1) the second tensor of the list that comes third.
    """

    node: str
    argument: tuple[int, ...]
    axis: int


def argument_at(args: Any, way: tuple[int, ...]) -> Any:
    """Return the argument at the end of the way."""
    for place in way:
        args = args[place]
    return args


@dataclass(frozen=True, slots=True)
class Call:
    """One operator in the graph, with the slots of its arguments."""

    node: Node
    slots_by_node: Mapping[Node, Slots]
    store: LabelStore
    sites: list[Site]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output (of the first, where there are several)."""
        return shape_of(first_of(self.node.meta["val"]))

    @property
    def tensors(self) -> list[Node]:
        """The arguments that are tensors, in their order."""
        return [node for node in self.node.all_input_nodes if isinstance(node.meta.get("val"), Tensor)]

    def argument(self, position: int, name: str = "", default: Any = None) -> Any:
        """Return an argument by position or name, or its default where the graph leaves it out."""
        return argument(self.node, position, name, default)

    def slots(self, node: Node | None) -> Slots:
        """Return the slots of an argument."""
        return self.slots_by_node.get(node, ()) if isinstance(node, Node) else ()

    def slot_along(self, node: Node, axis: int) -> Tensor | None:
        """Return the slot of an argument that varies on that axis, if there is one."""
        axis %= len(shape_of(first_of(node.meta["val"])))
        return next((slot for slot in self.slots(node) if axis in varying(slot)), None)

    def vector_along(self, node: Node | None, axis: int) -> Tensor | None:
        """Return the labels along one axis of an argument, uniting whatever else varies with them."""
        slot = self.slot_along(node, axis) if isinstance(node, Node) else None
        return None if slot is None else vector(self.united(slot, {axis % slot.dim()}), axis % slot.dim())

    def united(self, slot: Tensor, rigid: set[int]) -> Tensor:
        """Return a slot that varies on the given axes only, uniting what varies on the others."""
        for other in set(varying(slot)) - rigid:
            first = slot.narrow(other, 0, 1).expand_as(slot)
            self.unite(slot, first)
            slot = first
        return slot

    def unite(self, one: Tensor, other: Tensor) -> None:
        """Say that elements that meet belong to one neuron."""
        self.store.unite(one, other, f"meets values of fixed width at {self.where}")

    def unite_all(self, *given: Tensor | None, how: str = "meets") -> Tensor | None:
        """Say that vectors that meet belong together; where one carries no labels, the others are frozen."""
        vectors = [labels for labels in given if labels is not None]
        if len(vectors) < len(given):
            self.freeze(tuple(vectors), f"{how} values of fixed width at {self.where}")
            return None
        for labels in vectors[1:]:
            self.unite(vectors[0], labels)
        return vectors[0]

    def freeze(self, slots: Slots, reason: str) -> None:
        """Say that the neurons of these slots are never removed."""
        for slot in slots:
            self.store.freeze(slot, reason)

    def gate(self, argument: int | tuple[int, ...], axis: int) -> None:
        """Say that this operator mixes neurons along that axis of one argument."""
        way = (argument,) if isinstance(argument, int) else argument
        node = argument_at(self.node.args, way)
        axis %= node.meta["val"].dim()
        slots = tuple(slot for slot in self.slots(node) if axis in varying(slot))
        if isinstance(node.meta["val"].shape[axis], torch.SymInt):
            self.freeze(slots, f"mixed with samples at {self.where}")
        for slot in slots:
            self.store.mark_mixed(slot)
        self.sites.append(Site(self.node.name, way, axis))

    def window(self, slot: Tensor) -> Slots:
        """Say that this operator moves a window along the one axis on which a slot of its first argument varies.

        Neurons are read there. The places of the output are no neuron's until they meet some; beside several channels
        they stay, since both would lie on one axis once positions and channels are flattened.
        """
        (axis,) = varying(slot)
        if axis not in windows_of(self.node):
            self.freeze((slot,), f"a window over neighbours at {self.where}")
            return ()
        self.gate(0, axis)
        if self.shape[1] > 1 or self.shape[axis] == 1:
            return ()
        places = self.store.fresh(None, axis, self.shape[axis])
        self.store.mark_unwritten(places)
        return (along(axis, places, self.shape),)

    def mixed_along(self, node: Node | None, axis: int) -> Tensor | None:
        """Return the labels along an axis that the operator mixes.

        What varies elsewhere too becomes one neuron there (a head), inside which mixing is no matter.
        """
        slot = self.slot_along(node, axis) if isinstance(node, Node) else None
        if slot is None:
            return None
        axis %= slot.dim()
        if varying(slot) == (axis,):
            return vector(slot, axis)
        self.united(slot, set(varying(slot)) - {axis})
        return None

    def passing(self, node: Node, rigid: set[int]) -> Slots:
        """Return the slots of an argument in the shape of the output, where only `rigid` axes change or are mixed.

        Neurons along rigid axes alone are frozen; what varies elsewhere too becomes one neuron there. Ranks must be
        equal.
        """
        rigid = {axis % len(self.shape) for axis in rigid}
        return tuple(out for slot in self.slots(node) if (out := self.passed(slot, rigid)) is not None)

    def passed(self, slot: Tensor, rigid: set[int]) -> Tensor | None:
        """Return one slot of `passing`; None where it is frozen."""
        elsewhere = set(varying(slot)) - rigid
        if not elsewhere:
            self.freeze((slot,), f"mixed or moved at {self.where}")
            return None
        slot = self.united(slot, elsewhere)
        for axis in rigid:
            slot = slot.narrow(axis, 0, 1)
        return slot.expand(self.shape)

    @property
    def where(self) -> str:
        """The operator, and the module it stands in, in words."""
        return describe(self.node)


def first_of(value: Any) -> Any:
    """Return a value, or the first of several."""
    return value[0] if isinstance(value, list | tuple) else value


def argument(node: Node, position: int, name: str = "", default: Any = None) -> Any:
    """Return an argument of a node by position or name, or its default where the graph leaves it out.

    A size that the graph reads off a value is the number that it was traced with.
    """
    given = node.args[position] if position < len(node.args) else node.kwargs.get(name, default)
    size = given.meta.get("val") if isinstance(given, Node) else None
    return size if isinstance(size, int) else given


Rule = Callable[[Call], Slots]
Resize = Callable[[Node, Widths], None]
Weighted = Callable[..., Tensor]
InferenceGraph = Callable[..., Any]
Macs = Callable[[Node, Callable[[Node], tuple[int, ...]]], int]

FACTORIES = frozenset({"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"})
RULES: dict[str, Rule] = {}
RESIZES: dict[str, Resize] = {}
WEIGHTED: dict[str, Weighted] = {}
DECOMPOSED: dict[str, InferenceGraph] = {}
MACS: dict[str, Macs] = {}
WINDOWS: dict[str, Callable[[Node], Windows]] = {}

Entry = TypeVar("Entry", bound=Callable[..., Any])


def _table(table: dict[str, Any], what: str) -> Callable[..., Callable[[Entry], Entry]]:
    def names(*operators: str) -> Callable[[Entry], Entry]:
        def enter(function: Entry) -> Entry:
            for operator in operators:
                if operator in table:
                    raise ValueError(f"two {what} for {operator}")
                table[operator] = function
            return function

        return enter

    return names


rule = _table(RULES, "rules")
"""`@rule("linear")`: what these operators do to neurons, a function of a `Call`."""
resize = _table(RESIZES, "resizes")
"""`@resize("reshape")`: rewrite the widths in a node's arguments, a function of the node and the new `Widths`."""
weighted = _table(WEIGHTED, "weighted forms")
"""`@weighted("layer_norm")`: the operator with a factor on each neuron, a function of the factors and its arguments."""
decomposed = _table(DECOMPOSED, "decompositions")
"""`@decomposed("lstm")`: the operator in others that vmap and second derivatives follow, as a function."""
macs = _table(MACS, "counts")
"""`@macs("linear")`: multiply-accumulate operations of a node, a function of the node and of shapes."""

windows = _table(WINDOWS, "windows")
"""`@windows("conv1d")`: the windows that a node moves over its first argument, a function of the node."""


def windows_of(node: Node) -> Windows:
    """Return the windows that an operator moves over its first argument, by axis; none where there is no such entry."""
    found = WINDOWS.get(operator_name(node))
    return {} if found is None else found(node)


def find_rule(node: Node) -> Rule | None:
    """Return the rule for a node's operator, if there is one; element-wise operators share theirs."""
    return RULES.get(operator_name(node)) or (RULES["elementwise"] if is_elementwise(node) else None)


def is_factory(node: Node) -> bool:
    """Whether an operator makes a tensor of nothing but a size."""
    return operator_name(node) in FACTORIES


def makes_labels(node: Node) -> bool:
    """Whether an operator's result has axes whose length follows what they meet, whatever it is given."""
    return is_factory(node) or operator_name(node) == "expand"


def load_rules() -> None:
    """Import every file of graph/rules, so that its rules enter the tables."""
    package = import_module("shrinknet.graph.rules")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
