"""Second-order back-propagation that keeps only the diagonal of each layer's Hessian (LeCun, Denker, Solla 1989)."""

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from shrinknet.core.errors import UnfollowedOperatorError
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import Program
from shrinknet.graph.operators import ALIASES, describe, is_elementwise, operator_name
from shrinknet.graph.widths import shape_of
from shrinknet.task.data import Batch
from shrinknet.task.losses import Loss, with_slope
from shrinknet.task.trees import floats_of, of_each

Pair = tuple[Tensor, Tensor]
"""dL_n/dv and the diagonal of d2L_n/dv2, for each sample n and element of a value v."""

SUMS = ALIASES | {"cat", "clone", "sum", "mean"}
"""Operators that move elements, or add them up: as dense layers do whose weights are all one number, or 0."""


def diagonal_derivatives(
    network: GatedNetwork, values: dict[Node, Any], targets: Any, *, bent: bool = True
) -> dict[Node, Pair]:
    """Return, for each dense layer, slope and curvature in the value that it reads.

    A value that several operators read is a layer below all of them: what they say adds up. So do several outputs, each
    with its own part of the loss's slope and diagonal. Without `bent` the activations' own curvature is left out
    (Levenberg and Marquardt): none is negative then.
    """
    program, read = network.program, dict[Node, Pair]()
    followed = nodes_followed(program)
    found = dict[Node, Pair]()
    for node, pair in zip(
        _judged(program), loss_derivatives(network.loss, program.judged(values), targets), strict=True
    ):
        _add(found, node, pair)
    for node in reversed(followed):
        if node not in found:
            continue
        pair = found.pop(node)
        if operator_name(node) == "linear":
            weight = values[node.args[1]]  # type: ignore[index]
            read[node] = pair[0] @ weight, pair[1] @ weight.square()
            pair = _gated(network, node, values[node.args[0]], read[node])  # type: ignore[index]
        for below in followed[node]:
            _add(found, below, _one_operator_back(node, below, values, pair, bent))
    return read


def _add(found: dict[Node, Pair], node: Node, pair: Pair) -> None:
    found[node] = pair if node not in found else (found[node][0] + pair[0], found[node][1] + pair[1])


def nodes_followed(program: Program) -> dict[Node, tuple[Node, ...]]:
    """Return the nodes between the gates and what the loss is given, in their order, each with those below it.

    Raises:
        UnfollowedOperatorError: one of them is not what the recursion is for.
    """
    behind, of_rows = dict[Node, tuple[Node, ...]](), set(program.inputs)
    for node in program.nodes:
        if of_rows.isdisjoint(node.all_input_nodes):
            continue  # a weight that is computed
        of_rows.add(node)
        below = tuple(given for given in node.all_input_nodes if given in behind)
        if below or node.name in program.sites:
            behind[node] = below
    judged, followed = set(_judged(program)), dict[Node, tuple[Node, ...]]()
    for node in reversed(behind):
        if node in judged or any(node in below for below in followed.values()):
            _check_followed(program, node, behind[node], of_rows)
            followed[node] = behind[node]
    return dict(reversed(followed.items()))


def summed_by_neuron(
    network: GatedNetwork, batch: Batch, of: Callable[[Tensor, Tensor, Tensor], Tensor], *, bent: bool = True
) -> dict[str, Tensor]:
    """Return the sum over samples of `of(o, slope, curvature)`, o what is read of a neuron, by group."""
    program = network.program
    values = program.run(batch.inputs, network.gating(), keep=True)
    totals = torch.zeros(len(network.present), dtype=torch.float64, device=batch.inputs.device)
    for node, (slope, curvature) in diagonal_derivatives(network, values, batch.targets, bent=bent).items():
        for site in program.sites.get(node.name, ()):
            read = values[program.source(site)] * network.factor(site, values[program.source(site)])
            totals.index_add_(0, program.ids[site], of(read, slope, curvature).double().flatten(0, -2).sum(0))
    return network.by_group(totals)


def _gated(network: GatedNetwork, reader: Node, value: Tensor, pair: Pair) -> Pair:
    """Derivatives in the value before its gates: what is switched off has none."""
    for site in network.program.sites.get(reader.name, ()):
        factor = network.factor(site, value)
        pair = pair[0] * factor, pair[1] * factor
    return pair


def _judged(program: Program) -> list[Node]:
    """The nodes of floating numbers that the loss is given."""
    given = program.outputs_of if program.output is program.end else (program.output,)
    return [node for node in given if node.meta["val"].is_floating_point()]


def _check_followed(program: Program, node: Node, below: tuple[Node, ...], of_rows: Set[Node]) -> None:
    name = operator_name(node)
    if name == "linear" and node.args[1] not in of_rows:
        return
    is_followed = name in SUMS or (is_elementwise(node) and all(_is_alike(node, given) for given in below))
    if not is_followed or node.name in program.sites:
        raise UnfollowedOperatorError(
            f"Cannot take the paper's second-order recursion through {describe(node)}: criteria "
            f"'taylor-2-diagonal' and 'optimal-cell-damage' are for networks of dense layers. Use 'taylor-2', which is "
            f"exact on any network."
        )


def _is_alike(node: Node, below: Node) -> bool:
    """Whether an operator's value has the shape of one that it is given."""
    return shape_of(node.meta["val"]) == shape_of(below.meta["val"])


def _one_operator_back(node: Node, below: Node, values: dict[Node, Any], pair: Pair, bent: bool) -> Pair:
    """The derivatives in one of the values that an operator is given; behind a dense layer they are there already."""
    if operator_name(node) == "linear":
        return pair
    if operator_name(node) not in SUMS:
        return _through_activation(node, below, values, pair, bent)
    with torch.enable_grad():
        x, out = _called_at(node, below, values)
        slope, curvature = (torch.autograd.grad(out, x, one, retain_graph=True)[0] for one in pair)
    weight = out.numel() / x.numel() if operator_name(node) == "mean" else 1  # of the elements that are added up
    return slope, curvature * weight


def _called_at(node: Node, below: Node, values: dict[Node, Any]) -> tuple[Tensor, Tensor]:
    """An operator's value as a function of one of those that it is given: both."""
    x = values[below].detach().requires_grad_()
    args, kwargs = map_arg((node.args, node.kwargs), lambda given: x if given is below else values[given])
    return x, node.target(*args, **kwargs)  # type: ignore[operator]


def _through_activation(node: Node, below: Node, values: dict[Node, Any], pair: Pair, bent: bool) -> Pair:
    """Equation 10: `g s'` and `h s'^2 + g s''`."""
    with torch.enable_grad():
        x, out = _called_at(node, below, values)
        (first,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        second = torch.zeros_like(x)
        if first.requires_grad and bent:
            (second,) = torch.autograd.grad(first.sum(), x)
    first = first.detach()
    return pair[0] * first, pair[1] * first.square() + pair[0] * second


def loss_derivatives(loss: Loss, outputs: Any, targets: Any) -> list[Pair]:
    """Return slope and diagonal of the Hessian of each sample's loss, in each tensor of floating numbers it is given.

    Cost: a backward pass through the loss for each of their elements.
    """
    loss.needs_each_sample("second-order back-propagation")
    with torch.enable_grad():
        moved = [one.detach().requires_grad_() for one in floats_of(outputs)]
        rest = iter(moved)
        given = of_each(outputs, lambda one: next(rest) if one.is_floating_point() else one)
        losses = with_slope(loss.of(given, targets), loss.name).sum()
        slopes = torch.autograd.grad(losses, moved, create_graph=True, materialize_grads=True)
        return [(slope.detach(), _diagonal(slope, x)) for slope, x in zip(slopes, moved, strict=True)]


def _diagonal(slope: Tensor, x: Tensor) -> Tensor:
    """The derivative of each element of a slope in the element of x that it is the slope in, both [batch, ...]."""
    found = torch.zeros_like(x).flatten(1) if x.dim() > 1 else torch.zeros_like(x)[:, None]
    rows = slope.reshape(found.shape)
    for position in range(found.shape[1] if slope.requires_grad else 0):
        (row,) = torch.autograd.grad(rows[:, position].sum(), x, retain_graph=True, materialize_grads=True)
        found[:, position] = row.reshape(found.shape)[:, position]
    return found.view(x.shape)
