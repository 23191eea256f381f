"""From a network to its graph, and from the graph to groups of neurons (design 4.1)."""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node

from shrinknet.errors import BadInputError, UnfollowedOperatorError
from shrinknet.graph.groups import Layout, Numbering, layout_of, solve
from shrinknet.graph.labels import LabelStore, Slots, along, names_in
from shrinknet.graph.operators import ALIASES, describe, operator_name
from shrinknet.graph.rules.base import Call, Site, find_rule, load_rules, shape_of
from shrinknet.records import Frozen, Group, Neuron
from shrinknet.task import evaluating

Present = NDArray[np.bool_]
"""One truth value for each neuron id: still there? Element 0 stands for all that is never removed."""

EXAMPLE_BATCH = 2


@dataclass(frozen=True, slots=True)
class Trace:
    """A network as a flat graph of ATen operators, with every neuron that can be removed from it.

    `module` holds copies of the network's tensors under the user's own names. `layouts` says, for each node and each
    parameter, which neuron each element of each axis belongs to; `sites` where neurons are read; `groups` and
    `frozen` are what `shrinknet inspect` shows.
    """

    module: GraphModule
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    layouts: Mapping[str, Layout]
    tensor_layouts: Mapping[str, Layout]
    sites: tuple[Site, ...]

    @property
    def num_neurons(self) -> int:
        """How many neurons can be removed, at least one of each group apart."""
        return sum(group.width for group in self.groups)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by its name; a shared tensor stands under each of its names."""
        return named_tensors(self.module)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The graph's nodes in the order in which they run."""
        return tuple(self.module.graph.nodes)

    def ids_of(self, group: Group) -> range:
        """Return the neuron ids of a group."""
        start = 1
        for other in self.groups:
            if other.name == group.name:
                return range(start, start + group.width)
            start += other.width
        raise KeyError(group.name)

    def present(self, removed: tuple[Neuron, ...] = ()) -> Present:
        """Return which neurons are there once some are removed."""
        present = np.ones(self.num_neurons + 1, np.bool_)
        starts = {group.name: self.ids_of(group).start for group in self.groups}
        present[[starts[neuron.group] + neuron.index for neuron in removed]] = False
        return present

    def shape(self, node: Node, present: Present, batch: int = 1) -> tuple[int, ...]:
        """Return the shape of a node's value once only `present` neurons are there."""
        sizes = list(shape_of(node.meta["val"]))
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt):
                sizes[axis] = sizes[axis] * batch // EXAMPLE_BATCH
        return kept_shape(tuple(sizes), self.layouts.get(node.name, ()), present)


def kept_shape(shape: tuple[int, ...], layout: Layout, present: Present) -> tuple[int, ...]:
    """Return a shape with each axis as long as what is kept of it."""
    kept = list(shape)
    for axis, ids in enumerate(layout):
        if ids is not None:
            kept[axis] = int(np.count_nonzero(present[ids]))
    return tuple(kept)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters, then buffers, by name; a shared tensor stands under each of its names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def trace(model: nn.Module, example_inputs: Tensor) -> Trace:
    """Find every neuron of a network that can be removed, with all that must shrink with it.

    The network is exported in eval mode with a free batch size; labels of the elements of every parameter axis then
    ride through the graph. Nothing of the user's model is changed.

    Args:
        model: a network that takes one tensor, samples along the first axis.
        example_inputs: at least two samples (a batch of one would be taken as a constant).

    Raises:
        BadInputError: torch.export cannot follow the network.
        UnfollowedOperatorError: a tensor is changed in place through a view, so that values cannot be followed.

    Cost: one export (seconds) and one pass over the graph; memory for a copy of the weights.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> [(group.name, group.width) for group in trace(model, torch.randn(2, 4)).groups]
    [('0', 8)]
    """
    module = _own_copy(export_program(model, example_inputs).module(check_guards=False))
    _drop_assertions(module)
    _make_out_of_place(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    store, slots, sites = _send_labels(module)
    numbering = solve(store, slots)
    return _assemble(module, slots, sites, numbering)


def export_program(model: nn.Module, example_inputs: Tensor) -> ExportedProgram:
    """Export a network in eval mode with a free batch size.

    Raises:
        BadInputError: torch.export cannot follow the network, or it fixes the number of samples.
    """
    try:
        with evaluating(model), torch.no_grad():
            batch = Dim("batch", min=1)
            return torch.export.export(model, (example_inputs[:EXAMPLE_BATCH],), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch.export raises dozens of types, torch's internal ones among them
        raise BadInputError(
            "model",
            "a network that torch.export can follow with a free number of samples",
            f"{type(error).__name__}: {_first_line(error)}",
            "Export it yourself with dynamic_shapes=({0: Dim('batch')},) to see torch's full explanation.",
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _own_copy(module: nn.Module) -> GraphModule:
    """Give the graph tensors of its own (shared ones stay shared), none of which wants a gradient."""
    assert isinstance(module, GraphModule)
    copies: dict[int, Tensor] = {}
    for name, tensor in named_tensors(module).items():
        copy = copies.setdefault(id(tensor), tensor.detach().clone())
        owner, _, leaf = name.rpartition(".")
        parent: Any = operator.attrgetter(owner)(module) if owner else module
        if isinstance(tensor, nn.Parameter):
            copy = copies[id(tensor)] = copy if isinstance(copy, nn.Parameter) else nn.Parameter(copy, False)
        setattr(parent, leaf, copy)
    return module


def _drop_assertions(module: GraphModule) -> None:
    """Take out nodes that only assert a tensor's dtype: they compute nothing, and forbid another precision."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and operator_name(node) == "_assert_tensor_metadata":
            module.graph.erase_node(node)


def _make_out_of_place(module: GraphModule) -> None:
    """Replace `relu_(x)` by `relu(x)` and let later readers of x read the result, as they did in memory."""
    order = {node: position for position, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            continue
        name, overload = node.target._schema.name.removeprefix("aten::"), node.target._overloadname
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
        changed = node.args[0]
        later = [user for user in changed.users if order[user] > order[node]]
        if packet is None or overload not in packet.overloads() or _is_alias_still_read(changed, order[node], order):
            raise UnfollowedOperatorError(
                f"Cannot follow values through {describe(node)}: it changes a tensor in place. "
                f"Use the operator that returns a new tensor."
            )
        node.target = getattr(packet, overload)
        for user in later:
            user.replace_input_with(changed, node)


def _is_alias_still_read(changed: Node, position: int, order: dict[Node, int]) -> bool:
    """Whether another name of the changed memory (its source, a view of it, a view of its source) is read later."""
    source = changed
    while _shares_memory(source):
        source = source.all_input_nodes[0]
    aliases = [source]
    for alias in aliases:
        aliases += [user for user in alias.users if order[user] < position and _shares_memory(user)]
    return any(order[user] > position for alias in aliases if alias is not changed for user in alias.users)


def _shares_memory(node: Node) -> bool:
    """Whether a node's value is, or may be, another name of its first argument's memory."""
    return node.op == "call_function" and (getattr(node.target, "is_view", False) or operator_name(node) in ALIASES)


def _send_labels(module: GraphModule) -> tuple[LabelStore, dict[str, Slots], list[Site]]:
    load_rules()
    store, sites = LabelStore(), list[Site]()
    slots: dict[Node, Slots] = {}
    shared: dict[int, Slots] = {}
    tensors = named_tensors(module)
    for node in module.graph.nodes:
        for given in node.all_input_nodes:  # labels are given out in the order of their first reader
            if given.op == "get_attr" and given not in slots and isinstance(given.meta.get("val"), Tensor):
                tensor = tensors[given.target]
                if id(tensor) not in shared:
                    shared[id(tensor)] = _fresh_slots(store, given.target, tuple(tensor.shape))
                slots[given] = shared[id(tensor)]
        if node.op == "output":
            for given in node.all_input_nodes:
                for slot in slots.get(given, ()):
                    store.freeze(slot, "network output")
        elif node.op == "call_function" and any(slots.get(given) for given in node.all_input_nodes):
            slots[node] = _apply_rule(Call(node, slots, store, sites))
    return store, {node.name: node_slots for node, node_slots in slots.items()}, sites


def _fresh_slots(store: LabelStore, name: str, shape: tuple[int, ...]) -> Slots:
    return tuple(along(axis, store.fresh(name, axis, size), shape) for axis, size in enumerate(shape) if size > 1)


def _apply_rule(call: Call) -> Slots:
    """Run the rule of an operator, then freeze whatever it forgot."""
    mark, rule = call.store.mark, find_rule(call.node)
    given = tuple(slot for node in call.tensors for slot in call.slots(node))
    if rule is None or not isinstance(call.node.meta.get("val"), Tensor):
        call.freeze(given, f"no rule for {call.where}")
        return ()
    out = rule(call)
    known = np.union1d(names_in(out), call.store.said_since(mark))
    call.store.freeze(np.setdiff1d(names_in(given), known), f"not followed through {call.where}")
    return out


def _assemble(module: GraphModule, slots: dict[str, Slots], sites: list[Site], numbering: Numbering) -> Trace:
    layouts = {}
    for node in module.graph.nodes:
        if slots.get(node.name):
            layouts[node.name] = layout_of(slots[node.name], numbering.ids, node.meta["val"].dim())
    tensor_layouts = dict(_tensor_layouts(module, layouts))
    arguments = {node.name: node.args for node in module.graph.nodes}
    live = [site for site in sites if _ids_at(site, arguments, layouts) is not None]
    return Trace(module, numbering.groups, numbering.frozen, layouts, tensor_layouts, tuple(live))


def _ids_at(site: Site, arguments: Mapping[str, Any], layouts: Mapping[str, Layout]) -> Any:
    layout = layouts.get(arguments[site.node][site.argument].name)
    return None if layout is None else layout[site.axis]


def _tensor_layouts(module: GraphModule, layouts: Mapping[str, Layout]) -> Iterator[tuple[str, Layout]]:
    """Yield the layout of every tensor of the module under each of its names."""
    tensors = named_tensors(module)
    by_tensor = {
        id(tensors[node.target]): layouts[node.name]
        for node in module.graph.nodes
        if node.op == "get_attr" and node.target in tensors and node.name in layouts
    }
    for name, tensor in tensors.items():
        if id(tensor) in by_tensor:
            yield name, by_tensor[id(tensor)]
