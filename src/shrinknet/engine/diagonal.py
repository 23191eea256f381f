"""Second-order back-propagation that keeps only the diagonal of each layer's Hessian (LeCun, Denker, Solla 1989)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from shrinknet.core.errors import UnfollowedOperatorError
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import Program
from shrinknet.graph.operators import describe, is_elementwise, operator_name
from shrinknet.task.data import Batch
from shrinknet.task.losses import Loss, with_slope

Pair = tuple[Tensor, Tensor]
"""dL_n/dv and the diagonal of d2L_n/dv2, for each sample n and element of a value v."""


def diagonal_derivatives(
    network: GatedNetwork, values: dict[Node, Any], targets: Any, *, bent: bool = True
) -> dict[Node, Pair]:
    """Return, for each dense layer, slope and curvature in the value that it reads.

    Without `bent` the activations' own curvature is left out (Levenberg and Marquardt): none is negative then.
    """
    program = network.program
    program.check_one_output("taylor-2-diagonal")
    node, pair = program.output, loss_derivatives(network.loss, values[program.output], targets)
    read: dict[Node, Pair] = {}
    gated = {node for node in program.nodes if program.sites.get(node.name)}
    while not gated <= read.keys() and node is not program.input:
        node, pair, reader = _one_node_back(program, node, pair, values, bent)
        if reader is not None:
            read[reader] = pair
            pair = _gated(network, reader, values[node], pair)
    return read


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


def _one_node_back(
    program: Program, node: Node, pair: Pair, values: dict[Node, Any], bent: bool
) -> tuple[Node, Pair, Node | None]:
    """Step over one operator: the node below, the derivatives there, and the operator if it is a dense layer."""
    inputs = [given for given in node.all_input_nodes if given not in program.constants]
    if operator_name(node) == "linear":
        weight = values[node.args[1]]  # type: ignore[index]
        return inputs[0], (pair[0] @ weight, pair[1] @ weight.square()), node
    below = values[inputs[0]] if len(inputs) == 1 else None
    if below is None or below.shape != values[node].shape or not is_elementwise(node):
        raise UnfollowedOperatorError(
            f"Cannot take the paper's second-order recursion through {describe(node)}: criteria "
            f"'taylor-2-diagonal' and 'optimal-cell-damage' are for networks of dense layers. Use 'taylor-2', which is "
            f"exact on any network."
        )
    return inputs[0], _through_activation(node, inputs[0], values, pair, bent), None


def _through_activation(node: Node, below: Node, values: dict[Node, Any], pair: Pair, bent: bool) -> Pair:
    """Equation 10: `g s'` and `h s'^2 + g s''`."""
    with torch.enable_grad():
        x = values[below].detach().requires_grad_()
        args = map_arg(node.args, lambda given: x if given is below else values[given])
        out = node.target(*args, **node.kwargs)  # type: ignore[operator]
        (first,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        second = torch.zeros_like(x)
        if first.requires_grad and bent:
            (second,) = torch.autograd.grad(first.sum(), x)
    first = first.detach()
    return pair[0] * first, pair[1] * first.square() + pair[0] * second


def loss_derivatives(loss: Loss, outputs: Tensor, targets: Tensor) -> Pair:
    """Return the slope and the diagonal of the Hessian of each sample's loss in its outputs [batch, outputs]."""
    loss.needs_each_sample("second-order back-propagation")
    with torch.enable_grad():
        x = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(with_slope(loss.of(x, targets), loss.name).sum(), x, create_graph=True)
        curvature = torch.zeros_like(x)
        for position in range(x.shape[-1] if slope.requires_grad else 0):
            (row,) = torch.autograd.grad(slope[..., position].sum(), x, retain_graph=True)
            curvature[..., position] = row[..., position]
    return slope.detach(), curvature
