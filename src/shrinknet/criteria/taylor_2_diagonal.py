"""The source paper's second-order back-propagation, which keeps only the diagonal of each layer's Hessian."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from shrinknet.criteria.base import Criterion, Statistics, mean_over_samples
from shrinknet.data import Batch
from shrinknet.errors import UnfollowedOperatorError
from shrinknet.gates import GatedNetwork
from shrinknet.graph.operators import describe, is_elementwise, operator_name
from shrinknet.losses import Loss
from shrinknet.program import Program

Pair = tuple[Tensor, Tensor]
"""dL_n/dv and the diagonal of d2L_n/dv2, for each sample n and element of a value v."""


class Taylor2Diagonal(Criterion):
    """`mean_n [ -o g + 1/2 o^2 h ]` with h from the recursion of Sharma, Wolfe, Raj 2017, equations 8 to 10.

    For o = s(x), x = W o_below + b, from the outputs backwards::

        g(x) = g(o) s'(x)        h(x) = h(o) s'(x)^2 + g(o) s''(x)        (10)
        g(o_below) = g(x) W      h(o_below) = h(x) W^2                    (8): cross terms are dropped

    It equals `taylor-2` in the last hidden layer when the loss treats the outputs independently (squared error with
    element-wise outputs) and falls behind in deeper layers. For networks of dense layers and element-wise
    activations only.

    Cost: one forward pass, one pass backwards and one backward pass for each output; memory for one batch's values.

    Raises:
        UnfollowedOperatorError: the network holds another operator.
    """

    name = "taylor-2-diagonal"

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed estimates over the batch."""
        program = network.program
        values = program.run(batch.inputs, network.gating(), keep=True)
        totals = torch.zeros(len(network.present), dtype=torch.float64, device=batch.inputs.device)
        for node, (slope, curvature) in _backwards(network, values, batch.targets).items():
            for site in program.sites.get(node.name, ()):
                read = values[program.source(site)] * network.factor(site, values[program.source(site)])
                estimate = -read * slope + read.square() * curvature / 2
                totals.index_add_(0, program.ids[site], estimate.double().flatten(0, -2).sum(0))
        return network.by_group(totals)

    def conclude(self, sums: Statistics, num_samples: int) -> Statistics:
        """Return means over samples."""
        return mean_over_samples(sums, num_samples)


def _backwards(network: GatedNetwork, values: dict[Node, Any], targets: Tensor) -> dict[Node, Pair]:
    """Return, for each dense layer, slope and curvature in the value that it reads."""
    program = network.program
    node, pair = program.output, loss_derivatives(network.loss, values[program.output], targets)
    read: dict[Node, Pair] = {}
    while node is not program.input:
        node, pair, reader = _one_node_back(program, node, pair, values)
        if reader is not None:
            read[reader] = pair
            pair = _gated(network, reader, values[node], pair)
    return read


def _gated(network: GatedNetwork, reader: Node, value: Tensor, pair: Pair) -> Pair:
    """Derivatives in the value before its gates: what is switched off has none."""
    for site in network.program.sites.get(reader.name, ()):
        factor = network.factor(site, value)
        pair = pair[0] * factor, pair[1] * factor
    return pair


def _one_node_back(program: Program, node: Node, pair: Pair, values: dict[Node, Any]) -> tuple[Node, Pair, Node | None]:
    """Step over one operator: the node below, the derivatives there, and the operator if it is a dense layer."""
    inputs = [given for given in node.all_input_nodes if given not in program.constants]
    if operator_name(node) == "linear":
        weight = values[node.args[1]]  # type: ignore[index]
        return inputs[0], (pair[0] @ weight, pair[1] @ weight.square()), node
    below = values[inputs[0]] if len(inputs) == 1 else None
    if below is None or below.shape != values[node].shape or not is_elementwise(node):
        raise UnfollowedOperatorError(
            f"Cannot take the paper's second-order recursion through {describe(node)}: criterion "
            f"'taylor-2-diagonal' is for networks of dense layers. Use 'taylor-2', which is exact on any network."
        )
    return inputs[0], _through_activation(node, inputs[0], values, pair), None


def _through_activation(node: Node, below: Node, values: dict[Node, Any], pair: Pair) -> Pair:
    """Equation 10: `g s'` and `h s'^2 + g s''`."""
    with torch.enable_grad():
        x = values[below].detach().requires_grad_()
        args = map_arg(node.args, lambda given: x if given is below else values[given])
        out = node.target(*args, **node.kwargs)  # type: ignore[operator]
        (first,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        second = torch.zeros_like(x)
        if first.requires_grad:
            (second,) = torch.autograd.grad(first.sum(), x)
    first = first.detach()
    return pair[0] * first, pair[1] * first.square() + pair[0] * second


def loss_derivatives(loss: Loss, outputs: Tensor, targets: Tensor) -> Pair:
    """Return the slope and the diagonal of the Hessian of each sample's loss in its outputs [batch, outputs]."""
    with torch.enable_grad():
        x = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss.of(x, targets).sum(), x, create_graph=True)
        curvature = torch.zeros_like(x)
        for position in range(x.shape[-1] if slope.requires_grad else 0):
            (row,) = torch.autograd.grad(slope[..., position].sum(), x, retain_graph=True)
            curvature[..., position] = row[..., position]
    return slope.detach(), curvature
