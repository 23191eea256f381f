"""Recurrent layers, one layer and one direction a call (see graph/rewrite.py): hidden units are neurons."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from shrinknet.graph.call import Call, decomposed, macs, resize, rule
from shrinknet.graph.labels import Slots, along
from shrinknet.graph.operators import operator_name
from shrinknet.graph.widths import Widths

NUM_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule(*NUM_GATES)
def recurrent(call: Call) -> Slots:
    """Unit j: row j of every gate's weights and biases, column j of the recurrent weights, its first state.

    The recurrent read happens inside the operator, so it is the columns of the recurrent weights that are gated. Where
    an LSTM projects, its cells (read by the projection's columns) and its outputs (its rows) are neurons apart.
    """
    x, gates = call.argument(0), NUM_GATES[operator_name(call.node)]
    states = call.argument(1) if isinstance(call.argument(1), list | tuple) else [call.argument(1)]
    weights, projection = _with_projection(call.argument(2))
    inputs, columns = call.vector_along(x, -1), call.vector_along(weights[0], 1)
    recurrent_columns = call.vector_along(weights[1], 1)
    for labels in (columns, recurrent_columns):
        if labels is not None:
            call.store.mark_read(labels)
    if call.unite_all(inputs, columns, how="reads") is not None:
        call.gate(0, -1)
    rows = [call.vector_along(weight, 0) for weight in weights]
    by_gate = [None if labels is None else labels.view(gates, -1)[gate] for labels in rows for gate in range(gates)]
    outputs, *cells = (call.vector_along(state, -1) for state in states)
    if projection is None:
        units = call.unite_all(*by_gate, recurrent_columns, outputs, *cells)
    else:
        read, units = call.vector_along(projection, 1), call.vector_along(projection, 0)
        if read is not None:
            call.store.mark_read(read)
        if call.unite_all(*by_gate, read, *cells) is not None:
            call.gate((2, len(weights)), 1)
        units = call.unite_all(units, recurrent_columns, outputs)
    if units is None:
        return ()
    call.gate((2, 1), 1)
    return (along(len(call.shape) - 1, units, call.shape),)


def _with_projection(weights: Sequence[Any]) -> tuple[Sequence[Any], Any]:
    """The weights and biases of one layer, and the projection's weight behind them, if there is one."""
    return (weights[:-1], weights[-1]) if len(weights) % 2 else (weights, None)


@decomposed("lstm")
def decomposed_lstm(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Step by step: gates i, f, g, o; `c = sigmoid(f) c + sigmoid(i) tanh(g)`, `h = sigmoid(o) tanh(c)`, or `P h`."""
    (h, c), outputs = (state[0] for state in states), []
    weights, projection = _with_projection(weights)
    for row in _rows(x, weights, rest):
        i, f, g, o = (row + _recurrent(weights, h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        h = h if projection is None else functional.linear(h, projection)
        outputs.append(h)
    return _stacked(outputs, rest), h[None], c[None]


@resize("lstm")
def keep_projection(node: Node, widths: Widths) -> None:
    """Torch takes a projection that has become as wide as its cells for none: it then stands beside one cell more."""
    states, weights = cast("list[list[Node]]", node.args[1:3])
    output, cells = (widths.of(state, -1) for state in states)
    if len(weights) % 2 and output == cells:
        node.target = lstm_of_one_width


def lstm_of_one_width(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """An LSTM whose projection is as wide as its cells: behind these stands one that stays 0, and that nobody reads."""
    weights, projection = _with_projection(weights)
    wider = [*map(_with_one_more, weights), functional.pad(projection, (0, 1))]
    outputs, h, c = torch.ops.aten.lstm.input(x, [states[0], functional.pad(states[1], (0, 1))], wider, *rest)
    return outputs, h, c[..., :-1]


def is_recurrent(node: Node) -> bool:
    """Whether a node of a graph, cut or not, is a recurrent layer."""
    return node.target is lstm_of_one_width or (node.op == "call_function" and operator_name(node) in NUM_GATES)


def projects(node: Node) -> bool:
    """Whether a node of a graph, cut or not, is an LSTM with a projection."""
    is_lstm = is_recurrent(node) and (node.target is lstm_of_one_width or operator_name(node) == "lstm")
    return is_lstm and len(cast(Sequence[Node], node.args[2])) % 2 == 1


def _with_one_more(rows: Tensor) -> Tensor:
    """Rows of four gates, with a row of zeros behind each gate's: i tanh(g) = 0 there, so that c stays as it is."""
    behind = (0, 0) * (rows.dim() - 1) + (0, 1)
    return functional.pad(rows.unflatten(0, (4, -1)), behind).flatten(0, 1)


@decomposed("gru")
def decomposed_gru(x: Tensor, state: Tensor, weights: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor]:
    """Step by step: gates r, z, n; `n = tanh(x_n + r h_n)`, `h = (1 - z) n + z h`."""
    h, outputs = state[0], []
    for row in _rows(x, weights, rest):
        (x_r, x_z, x_n), (h_r, h_z, h_n) = row.chunk(3, -1), _recurrent(weights, h).chunk(3, -1)
        z = torch.sigmoid(x_z + h_z)
        h = (1 - z) * torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n) + z * h
        outputs.append(h)
    return _stacked(outputs, rest), h[None]


@decomposed("rnn_tanh")
def decomposed_rnn_tanh(x: Tensor, state: Tensor, weights: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor]:
    """Step by step: `h = tanh(x + h)`."""
    return _decomposed_rnn(torch.tanh, x, state, weights, rest)


@decomposed("rnn_relu")
def decomposed_rnn_relu(x: Tensor, state: Tensor, weights: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor]:
    """Step by step: `h = relu(x + h)`."""
    return _decomposed_rnn(torch.relu, x, state, weights, rest)


def _decomposed_rnn(
    activation: Callable[[Tensor], Tensor], x: Tensor, state: Tensor, weights: Sequence[Tensor], rest: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    h, outputs = state[0], []
    for row in _rows(x, weights, rest):
        h = activation(row + _recurrent(weights, h))
        outputs.append(h)
    return _stacked(outputs, rest), h[None]


def _rows(x: Tensor, weights: Sequence[Tensor], rest: Sequence[Any]) -> Sequence[Tensor]:
    """What each step reads of the input, through its weights and bias. `rest` ends with batch_first."""
    read = functional.linear(x, weights[0], weights[2] if rest[0] else None)
    return read.unbind(1 if rest[-1] else 0)


def _recurrent(weights: Sequence[Tensor], h: Tensor) -> Tensor:
    return functional.linear(h, weights[1], weights[3] if len(weights) > 2 else None)


def _stacked(outputs: list[Tensor], rest: Sequence[Any]) -> Tensor:
    return torch.stack(outputs, 1 if rest[-1] else 0)


@macs(*NUM_GATES)
def recurrent_macs(node: Node, shape: Callable[[Node], tuple[int, ...]]) -> int:
    """Every step takes as many as there are weights."""
    steps = math.prod(shape(node.args[0])[:-1])  # type: ignore[arg-type]
    return steps * sum(math.prod(shape(weight)) for weight in node.args[2] if len(shape(weight)) > 1)  # type: ignore
