"""Writing an exported graph in fewer kinds of operators, each of which computes the same as before.

In-place operators become those that return a new tensor; pieces of a split become slices; a recurrent layer becomes
one call for each layer and direction, so that each can have a width of its own.
"""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from shrinknet.core.errors import UnfollowedOperatorError
from shrinknet.graph.autocast import inline_regions
from shrinknet.graph.decompose import decompose
from shrinknet.graph.operators import ALIASES, describe, operator_name, returning

aten = torch.ops.aten


PIECE = "piece"
"""Where a slice's `meta` says that it was one of the equal pieces of a split."""


def rewrite(module: GraphModule) -> None:
    """Rewrite a graph in place.

    Raises:
        UnfollowedOperatorError: a tensor is changed in place in a way that cannot be followed.
    """
    for step in (
        inline_regions,
        _drop_assertions,
        decompose,
        _make_out_of_place,
        _write_copies,
        _write_sizes,
        _join_stacks,
        _slice_pieces,
        _separate_recurrent_layers,
    ):
        step(module.graph)
        module.graph.eliminate_dead_code()
    module.recompile()


def _calls(graph: Graph, *names: str) -> Iterator[Node]:
    for node in list(graph.nodes):
        if node.op == "call_function" and (not names or operator_name(node) in names):
            yield node


def insert(before: Node, target: Any, *args: Any, value: Any = None, **kwargs: Any) -> Node:
    """Insert a call in front of a node, with its traced value and the node's place in the user's modules."""
    graph = before.graph
    with graph.inserting_before(before):
        node = graph.call_function(target, args, kwargs)
    given = map_arg((args, kwargs), lambda node: node.meta["val"])
    with fake_mode_of(graph):
        node.meta["val"] = target(*given[0], **given[1]) if value is None else value
    node.meta["nn_module_stack"] = before.meta.get("nn_module_stack", {})
    return node


def fake_mode_of(graph: Graph) -> Any:
    """Return the mode in which the graph was traced: values without storage, sizes that may be symbols."""
    values = (node.meta.get("val") for node in graph.nodes)
    return next(value.fake_mode for value in values if isinstance(value, FakeTensor))


def _drop_assertions(graph: Graph) -> None:
    """Take out nodes that only assert a tensor's dtype: they compute nothing, and forbid another precision."""
    for node in _calls(graph, "_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"):
        graph.erase_node(node)


def _write_copies(graph: Graph) -> None:
    """What is copied into a tensor is spread over its sizes, in its precision: `copy` itself has no derivative."""
    for node in _calls(graph, "copy"):
        into, values = node.args[:2]
        spread = insert(node, aten.expand.default, values, _sizes(into, before=node))  # type: ignore[arg-type]
        node.replace_all_uses_with(insert(node, aten.to.dtype, spread, into.meta["val"].dtype))  # type: ignore[union-attr]
        graph.erase_node(node)


def _write_sizes(graph: Graph) -> None:
    """A view is a reshape, which asks nothing of strides."""
    for node in _calls(graph, "view", "_unsafe_view"):
        if node.target in {aten.view.default, aten._unsafe_view.default}:
            node.target = aten.reshape.default


def _sizes(like: Node, before: Node) -> list[Any]:
    """The sizes of a value, those that follow the samples as nodes."""
    return [
        insert(before, aten.sym_size.int, like, axis) if isinstance(size, torch.SymInt) else size
        for axis, size in enumerate(like.meta["val"].shape)
    ]


def _join_stacks(graph: Graph) -> None:
    """A stack is a concatenation along a new axis."""
    for node in _calls(graph, "stack"):
        parts: Any = node.args[0]
        axis = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % node.meta["val"].dim()  # type: ignore
        node.args = ([insert(node, aten.unsqueeze.default, part, axis) for part in parts], axis)
        node.target, node.kwargs = aten.cat.default, {}


def _slice_pieces(graph: Graph) -> None:
    """A piece of `split` or `unbind` is a slice of, or one place in, what is split."""
    for node in _calls(graph, "split", "split_with_sizes", "unbind", "unsafe_split", "unsafe_split_with_sizes"):
        x, axis = node.args[0], _axis_of_pieces(node)
        starts = [0]
        for piece in node.meta["val"]:
            starts.append(starts[-1] + (piece.shape[axis] if operator_name(node) != "unbind" else 1))
        for piece in [user for user in node.users if user.target is operator.getitem]:
            place: Any = piece.args[1]
            if operator_name(node) == "unbind":
                new = insert(piece, aten.select.int, x, axis, place)
            elif isinstance(starts[-1], torch.SymInt):
                continue
            else:
                new = insert(piece, aten.slice.Tensor, x, axis, starts[place], starts[place + 1])
                new.meta[PIECE] = operator_name(node) in ("split", "unsafe_split")
            piece.replace_all_uses_with(new)
            graph.erase_node(piece)


def _axis_of_pieces(node: Node) -> int:
    position = 1 if operator_name(node) == "unbind" else 2
    axis: Any = node.args[position] if len(node.args) > position else node.kwargs.get("dim", 0)
    return int(axis % node.args[0].meta["val"].dim())  # type: ignore[union-attr]


def _make_out_of_place(graph: Graph) -> None:
    """Replace `relu_(x)` by `relu(x)`; later readers of x, and of whatever x is a view of, read the result."""
    for node in _calls(graph):
        if not getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            continue
        changed = node.args[0]
        target = returning(node.target)
        if target is None or not isinstance(changed, Node):
            raise _unfollowed(node)
        node.target = target
        _replace_later(changed, node, node)


def _replace_later(changed: Node, new: Node, since: Node) -> None:
    """Let whatever runs later read `new` for `changed`, and the changed whole for what `changed` is a view of."""
    order = {node: place for place, node in enumerate(changed.graph.nodes)}
    for user in [user for user in changed.users if order[user] > order[new] and user is not new]:
        user.replace_input_with(changed, new)
    views = [user for user in changed.users if order[user] < order[since] and _shares_memory(user)]
    if any(order[user] > order[new] for view in views for user in view.users):
        raise _unfollowed(since)
    if not _shares_memory(changed):
        return
    base = changed.all_input_nodes[0]
    if not any(order[user] > order[since] for user in base.users) and not _shares_memory(base):
        return
    _replace_later(base, _written_back(changed, base, new, since), since)


def _written_back(view: Node, base: Node, new: Node, since: Node) -> Node:
    """The base with the changed view written into it."""
    after = new.next
    name, rest = operator_name(view), view.args[1:]
    if name == "slice":
        return insert(after, aten.slice_scatter.default, base, new, *rest, **view.kwargs)
    if name == "select":
        return insert(after, aten.select_scatter.default, base, new, *rest)
    if name in {"transpose", "t", "unsqueeze", "squeeze", "permute", "expand"} or name not in ALIASES:
        raise _unfollowed(since)
    return insert(after, aten.reshape.default, new, _sizes(base, before=after))


def _unfollowed(node: Node) -> UnfollowedOperatorError:
    return UnfollowedOperatorError(
        f"Cannot follow values through {describe(node)}: it changes a tensor in place. "
        f"Use the operator that returns a new tensor."
    )


def _shares_memory(node: Node) -> bool:
    """Whether a node's value is, or may be, another name of its first argument's memory."""
    return node.op == "call_function" and (getattr(node.target, "is_view", False) or operator_name(node) in ALIASES)


def _separate_recurrent_layers(graph: Graph) -> None:
    """One call for each layer and direction, each with a first state of its own."""
    for node in _calls(graph, "lstm", "gru", "rnn_tanh", "rnn_relu"):
        if node.target._overloadname != "input":  # type: ignore[union-attr]
            continue
        args: Any = node.args
        num_layers, bidirectional = args[4], args[7]
        if num_layers * (1 + bidirectional) > 1:
            _Layers(node).write()


class _Layers:
    """A recurrent node of several layers or directions, written as several nodes of one."""

    def __init__(self, node: Node) -> None:
        self.node = node
        args: Any = node.args
        x, states, weights, has_biases, layers, dropout, train, bidirectional, batch_first = args
        self.x: Any = x
        self.states: list[Any] = list(states) if isinstance(states, list | tuple) else [states]
        self.weights: Any = weights
        self.has_biases, self.num_layers, self.num_directions = has_biases, int(layers), 1 + int(bidirectional)
        self.dropout, self.train, self.batch_first = dropout, train, batch_first
        self.last: list[list[Node]] = [[] for _ in self.states]

    def write(self) -> None:
        y = self.x
        for layer in range(self.num_layers):
            outputs = [self._one(y, layer, direction) for direction in range(self.num_directions)]
            y = outputs[0] if len(outputs) == 1 else self._add(aten.cat.default, outputs, -1)
            if layer < self.num_layers - 1 and self.dropout:
                y = self._add(aten.dropout.default, y, self.dropout, self.train)
        self._hand_over(y)

    def _add(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return insert(self.node, target, *args, **kwargs)

    def _one(self, x: Any, layer: int, direction: int) -> Node:
        place = layer * self.num_directions + direction
        time = 1 if self.batch_first else 0
        x = self._add(aten.flip.default, x, [time]) if direction else x
        first = [self._first_state(state, place) for state in self.states]
        width = len(self.weights) // (self.num_layers * self.num_directions)
        weights = list(self.weights[place * width : (place + 1) * width])
        given = first if len(first) > 1 else first[0]
        rest = (self.has_biases, 1, 0.0, self.train, False, self.batch_first)
        node = self._add(self.node.target, x, given, weights, *rest, value=self._values(x, first))
        y = self._add(operator.getitem, node, 0)
        for state, last in enumerate(self.last):
            last.append(self._add(operator.getitem, node, 1 + state))
        return self._add(aten.flip.default, y, [time]) if direction else y

    def _values(self, x: Node, states: list[Node]) -> tuple[Any, ...]:
        """The traced outputs: torch's own kernels cannot take sizes that are symbols."""
        shape, last = x.meta["val"].shape, [state.meta["val"] for state in states]
        with fake_mode_of(self.node.graph):
            return (last[0].new_empty([*shape[:-1], last[0].shape[-1]]), *map(torch.empty_like, last))

    def _first_state(self, state: Node, place: int) -> Node:
        if operator_name(state) == "zeros" and state.op == "call_function":
            sizes: Any = state.args[0]
            return self._add(aten.zeros.default, [1, *sizes[1:]], **state.kwargs)
        return self._add(aten.slice.Tensor, state, 0, place, place + 1)

    def _hand_over(self, y: Node) -> None:
        """Let readers of the node's outputs read the last layer's, or the one state that they pick."""
        for output in [user for user in self.node.users if user.target is operator.getitem]:
            which: Any = output.args[1]
            if which == 0:
                output.replace_all_uses_with(y)
            else:
                self._hand_over_states(output, self.last[which - 1])
            self.node.graph.erase_node(output)
        self.node.graph.erase_node(self.node)

    def _hand_over_states(self, output: Node, states: list[Node]) -> None:
        for pick in [user for user in output.users if user.target is aten.select.int and user.args[1] == 0]:
            place: Any = pick.args[2]
            pick.replace_all_uses_with(insert(pick, aten.squeeze.dim, states[place], 0))
            self.node.graph.erase_node(pick)
        if output.users:
            output.replace_all_uses_with(insert(output, aten.cat.default, states, 0))
