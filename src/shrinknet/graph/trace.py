"""From a network to its graph, and from the graph to groups of neurons (design 4.1)."""

import logging
import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_structure

from shrinknet.core.errors import BadInputError, first_line
from shrinknet.core.records import Frozen, Group, Neuron
from shrinknet.core.turns import alone, leaving_out
from shrinknet.core.units import counted
from shrinknet.graph.call import Call, Site, argument_at, find_rule, first_of, load_rules, makes_labels
from shrinknet.graph.free import (
    LARGEST,
    Axes,
    Free,
    at_example_sizes,
    bounds_of,
    free_sizes,
    other_sizes,
    steps_left_open,
    values_at_example,
)
from shrinknet.graph.groups import Layout, Numbering, layout_of, solve
from shrinknet.graph.labels import LabelStore, Slots, along
from shrinknet.graph.lines import line_of, line_of_node, remedy_for
from shrinknet.graph.names import is_tensor_name
from shrinknet.graph.operators import describe
from shrinknet.graph.rewrite import rewrite
from shrinknet.graph.widths import EXAMPLE_BATCH, Present, Widths, kept_shape, shape_of
from shrinknet.task.kinds import check_kind
from shrinknet.task.task import check_default_device, evaluating
from shrinknet.task.trees import AnyInputs, call_of, of_each


@dataclass(frozen=True, slots=True)
class Trace:
    """A network as a flat graph of ATen operators, with every neuron that can be removed from it.

    `module` holds copies of the network's tensors under the user's own names. `layouts` says, for each node and each
    parameter, which neuron each element of each axis belongs to; `sites` where neurons are read; `groups` and
    `frozen` are what `shrinknet inspect` shows. `exported` is the untouched network as torch exported it, with the same
    tensors.
    """

    module: GraphModule
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    layouts: Mapping[str, Layout]
    tensor_layouts: Mapping[str, Layout]
    sites: tuple[Site, ...]
    free: Free = field(default_factory=dict)
    exported: ExportedProgram | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        neurons, groups = counted(self.num_neurons, "neuron"), counted(len(self.groups), "group")
        return f"<Trace: {neurons} in {groups}, {len(self.frozen):,} frozen>"

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

    def returns(self, outputs: Any) -> None:
        """Let the graph return what it returns in the containers of these outputs."""
        codegen: Any = self.module.graph._codegen
        codegen.pytree_info = codegen.pytree_info._replace(out_spec=tree_structure(outputs))

    def other_sizes(self, inputs: AnyInputs) -> Iterator[AnyInputs]:
        """Yield the same rows with other sizes along the axes that are free."""
        yield from other_sizes(self.module, self.free, inputs)

    def largest_sizes(self, inputs: AnyInputs) -> Iterator[AnyInputs]:
        """Yield the same rows with the largest sizes along the axes that are free, where these are known."""
        if all(most is not None for axes in self.free.values() for _, most in axes.values()):
            yield from other_sizes(self.module, self.free, inputs, (LARGEST,))

    def at_example_sizes(self, inputs: AnyInputs) -> AnyInputs:
        """Return the same rows with the sizes that what is known of values speaks of."""
        return at_example_sizes(self.module, inputs) if self.free else inputs

    def widths(self, present: Present) -> Widths:
        """Return the width of every axis once only `present` neurons are there."""
        return Widths(self.layouts, present)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters, then buffers, by name; a shared tensor stands under each of its names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


@alone()
def trace(model: nn.Module, example_inputs: AnyInputs, free: Axes | None = None) -> Trace:
    """Find every neuron of a network that can be removed, with all that must shrink with it.

    The network is exported in eval mode with a free batch size; labels of the elements of every parameter axis then
    ride through the graph. Nothing of the user's model is changed.

    Where more sizes are free, the graph reads them off its inputs, and runs at any; what is known of its values (costs,
    labels) is said of the sizes of the example.

    Args:
        model: a network that takes tensors with samples along the first axis, and returns tensors.
        example_inputs: at least two samples (a batch of one would be taken as a constant): a tensor, a tuple of
            them for a network that takes several, or the arguments of a call.
        free: the axes of inputs, by name, whose sizes stay free.

    Raises:
        BadInputError: torch.export cannot follow the network, or fixes an axis that is to be free.
        UnfollowedOperatorError: a tensor is changed in place through a view, so that values cannot be followed.

    Cost: one export (seconds) and one pass over the graph; memory for a copy of the weights.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> [(group.name, group.width) for group in trace(model, torch.randn(2, 4)).groups]
    [('0', 8)]
    """
    check_kind(model)
    program = export_program(model, example_inputs, free)
    bounds = bounds_of(program, model, example_inputs, free or {})
    module = _own_copy(_with_own_names(program.module(check_guards=False), model))
    _share(named_tensors(module), program)
    if bounds:
        values_at_example(module)
    rewrite(module)
    store, slots, sites = _send_labels(module)
    numbering = solve(store, slots)
    return replace(_assemble(module, slots, sites, numbering), free=bounds, exported=program)


@alone()
def export_program(
    model: nn.Module, example_inputs: AnyInputs, free: Axes | None = None, *, with_lines: bool = False
) -> ExportedProgram:
    """Export a network in eval mode with a free batch size, and other sizes that are to be free.

    `with_lines` the graph knows the lines of its operators.

    Raises:
        BadInputError: torch.export cannot follow the network, or it fixes the number of samples or another free size.
    """
    check_default_device()
    _check_names(model)
    few = of_each(example_inputs, lambda tensor: tensor[:EXAMPLE_BATCH])
    args, kwargs = call_of(few)
    try:
        with evaluating(model), torch.no_grad(), _quiet(with_lines), steps_left_open(free or {}):
            program = torch.export.export(model, args, kwargs, dynamic_shapes=free_sizes(model, few, free or {}))
    except BadInputError:
        raise
    except Exception as error:  # torch.export raises dozens of types, torch's internal ones among them
        line = line_of(error)
        if "data-dependent" in str(error) or type(error).__name__ == "GuardOnDataDependentSymNode":
            raise _decides_by_values("one that decides by values what it computes", line) from error
        do = "Export it yourself with dynamic_shapes=({0: Dim('batch')},) to see torch's full explanation."
        allowed = "a network that torch.export can follow with a free number of samples"
        got = f"{type(error).__name__}: {first_line(error).rstrip('.')}{_where(line)}"
        raise BadInputError("model", allowed, got, remedy_for(line, do, error)) from error
    for node in program.graph.nodes:
        if any(_is_unknown(size) for size in getattr(node.meta.get("val"), "shape", ())):
            if not with_lines:
                export_program(model, example_inputs, free, with_lines=True)
            raise _decides_by_values(f"{describe(node)}, whose size the values decide", line_of_node(node))
    bounds_of(program, model, few, free or {})
    return program


def _is_unknown(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and size.node.hint is None


def _decides_by_values(got: str, line: str) -> BadInputError:
    do = "Write item(), tolist(), if and boolean indexing on values as torch.where or a product with a mask."
    allowed = "a network that computes the same operators on the same sizes, whatever the values"
    return BadInputError("model", allowed, got + _where(line), remedy_for(line, do))


def _where(line: str) -> str:
    return f" ({line})" if line else ""


def _check_names(model: nn.Module) -> None:
    for name in named_tensors(model):
        if not is_tensor_name(name):
            allowed = (
                "a network whose modules have names without quotes, backslashes, line breaks and Python keywords, none "
                "of them a word that torch's graphs use, such as code or graph"
            )
            do = "Give that module another name."
            if is_tensor_name(f"net.{name}"):  # torch runs no export of its own in which a graph's word comes first
                do = (
                    "Give that module another name, or hand over nn.Sequential(OrderedDict(net=model)), whose class "
                    "comes back as run.model.net."
                )
            raise BadInputError("model", allowed, repr(name), do)


@contextmanager
def _quiet(with_lines: bool) -> Iterator[None]:
    """Leave out what torch says of an export.

    No line of source is looked up for each node (a quarter of an export, and nothing here reads it). A warning goes
    that every recurrent layer of torch's own causes, and every hook that computes a weight. Whole graphs that torch
    prints and logs where an export fails go too: the error says it.
    """
    before = fx.config.do_not_emit_stack_traces
    fx.config.do_not_emit_stack_traces = not with_lines
    handlers = logging.getLogger("torch").handlers
    for handler in handlers:
        handler.addFilter(_silent)
    try:
        with leaving_out(UserWarning, r"The tensor attributes? .* assigned during export"), redirect_stderr(StringIO()):
            yield
    finally:
        fx.config.do_not_emit_stack_traces = before
        for handler in handlers:
            handler.removeFilter(_silent)


def _silent(record: logging.LogRecord) -> bool:
    return False


def _with_own_names(module: nn.Module, model: nn.Module) -> nn.Module:
    """Let constants of the graph that are the network's own tensors be read as such.

    A forward that holds its weights beside its modules (a layer of Keras does) reads them behind torch.export's back.
    """
    assert isinstance(module, GraphModule)
    own = {_place(tensor): name for name, tensor in reversed(named_tensors(model).items()) if tensor.numel()}
    known = named_tensors(module)
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target not in known:
            constant = getattr(module, node.target, None)
            name = own.get(_place(constant)) if isinstance(constant, Tensor) else None
            node.target = name if name in known else node.target
    return module


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _own_copy(module: nn.Module) -> GraphModule:
    """Give the graph tensors of its own (shared ones stay shared), none of which wants a gradient."""
    assert isinstance(module, GraphModule)
    copies: dict[Tensor, Tensor] = {}
    for name, tensor in named_tensors(module).items():
        copy = copies.setdefault(tensor, tensor.detach().clone())
        owner, _, leaf = name.rpartition(".")
        parent: Any = operator.attrgetter(owner)(module) if owner else module
        if isinstance(tensor, nn.Parameter):
            copy = copies[tensor] = copy if isinstance(copy, nn.Parameter) else nn.Parameter(copy, False)
        setattr(parent, leaf, copy)
    return module


def _share(tensors: Mapping[str, Tensor], program: ExportedProgram) -> None:
    """Let an exported program hold these tensors in the place of the network's own, which may change."""
    views: dict[Tensor, Tensor] = {}
    for held in (program.state_dict, program.constants):
        for name in held.keys() & tensors.keys():
            own, copy = held[name], tensors[name]
            is_parameter = isinstance(own, nn.Parameter)
            view = nn.Parameter(copy.detach(), own.requires_grad) if is_parameter else copy.detach()
            held[name] = views.setdefault(copy, view)


def _send_labels(module: GraphModule) -> tuple[LabelStore, dict[str, Slots], list[Site]]:
    load_rules()
    store, sites = LabelStore(), list[Site]()
    slots: dict[Node, Slots] = {}
    shared: dict[Tensor, Slots] = {}
    weights = set[Node]()
    tensors = named_tensors(module)
    for node in module.graph.nodes:
        for given in node.all_input_nodes:  # labels are given out in the order of their first reader
            if given.op == "get_attr" and given not in slots and isinstance(given.meta.get("val"), Tensor):
                tensor = tensors.get(given.target)
                if tensor is None:  # a constant that the forward wrote down: of fixed width
                    continue
                if tensor not in shared:
                    shared[tensor] = _fresh_slots(store, given.target, tuple(tensor.shape))
                slots[given] = shared[tensor]
                weights.add(given)
        if node.op == "output":
            for given in node.all_input_nodes:
                for slot in slots.get(given, ()):
                    store.freeze(slot, "network output")
        elif node.op == "call_function" and (makes_labels(node) or any(map(slots.get, node.all_input_nodes))):
            edges = len(store.edges)
            slots[node] = _apply_rule(Call(node, slots, store, sites))
            if all(map(weights.__contains__, node.all_input_nodes)):
                weights.add(node)
                store.among_weights += store.edges[edges:]
    return store, {node.name: node_slots for node, node_slots in slots.items()}, sites


def _fresh_slots(store: LabelStore, name: str, shape: tuple[int, ...]) -> Slots:
    return tuple(along(axis, store.fresh(name, axis, size), shape) for axis, size in enumerate(shape) if size > 1)


def _apply_rule(call: Call) -> Slots:
    """Run the rule of an operator, then freeze whatever it forgot."""
    mark, rule = call.store.mark, find_rule(call.node)
    given = tuple(slot for node in call.tensors for slot in call.slots(node))
    if rule is None:
        call.freeze(given, f"no rule for {call.where}")
        return ()
    out = rule(call)
    call.store.freeze(call.store.forgotten_since(mark, given, out), f"not followed through {call.where}")
    return out


def _assemble(module: GraphModule, slots: dict[str, Slots], sites: list[Site], numbering: Numbering) -> Trace:
    layouts = {}
    for node in module.graph.nodes:
        if slots.get(node.name):
            layouts[node.name] = layout_of(slots[node.name], numbering.ids, first_of(node.meta["val"]).dim())
    tensor_layouts = dict(_tensor_layouts(module, layouts))
    arguments = {node.name: node.args for node in module.graph.nodes}
    live = [site for site in sites if _ids_at(site, arguments, layouts) is not None]
    return Trace(module, numbering.groups, numbering.frozen, layouts, tensor_layouts, tuple(live))


def _ids_at(site: Site, arguments: Mapping[str, Any], layouts: Mapping[str, Layout]) -> Any:
    layout = layouts.get(argument_at(arguments[site.node], site.argument).name)
    return None if layout is None else layout[site.axis]


def _tensor_layouts(module: GraphModule, layouts: Mapping[str, Layout]) -> Iterator[tuple[str, Layout]]:
    """Yield the layout of every tensor of the module under each of its names."""
    tensors = named_tensors(module)
    by_tensor = {
        tensors[node.target]: layouts[node.name]
        for node in module.graph.nodes
        if node.op == "get_attr" and node.target in tensors and node.name in layouts
    }
    for name, tensor in tensors.items():
        if tensor in by_tensor:
            yield name, by_tensor[tensor]
