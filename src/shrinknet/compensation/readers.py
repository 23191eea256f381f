"""Readers: the dense layers and convolutions that read neurons, as matrices."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from shrinknet.engine.program import Program
from shrinknet.graph.call import Site, argument
from shrinknet.graph.operators import operator_name

DENSE = "linear"
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")


@dataclass(frozen=True, eq=False)
class Reader:
    """A dense layer or convolution whose weights nothing else uses: y = x W^T + b, a row for each sample and position.

    `owners` holds the neuron id of each column of W, laid out as [outputs, columns].
    """

    node: Node
    site: Site
    weight: Node
    bias: Node | None
    owners: Tensor

    @property
    def is_dense(self) -> bool:
        """Whether it is a dense layer."""
        return operator_name(self.node) == DENSE

    def read(self, x: Tensor) -> Tensor:
        """Lay out what is read as rows [samples x positions, columns]: for a convolution its patches."""
        if self.is_dense:
            return x.flatten(0, -2)
        kernel = argument(self.node, 1, "weight").meta["val"].shape[2:]
        wanted = ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
        steps = [list(argument(self.node, place, name, [default])) for place, name, default in wanted]
        strides, paddings, dilations = (one * len(kernel) if len(one) == 1 else one for one in steps)
        x = functional.pad(x, [padding for padding in reversed(paddings) for _ in range(2)])
        for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True), start=2):
            x = x.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]  # the window becomes the last axis
        return x.movedim(1, len(kernel) + 1).flatten(0, len(kernel)).flatten(1)

    def given(self, y: Tensor) -> Tensor:
        """Lay out what it gives as rows [samples x positions, outputs]."""
        return y.flatten(0, -2) if self.is_dense else y.flatten(2).transpose(1, 2).flatten(0, 1)

    def elements_per_sample(self, y: Tensor) -> int:
        """How many elements of rows one sample makes."""
        positions = y[0].numel() // y.shape[-1 if self.is_dense else 1]
        return positions * (len(self.owners) + 1)


def readers(program: Program) -> dict[Node, Reader]:
    """Return every reader of neurons that can be refit.

    Left out are grouped and transposed convolutions, weights that two nodes share, and everything that mixes
    neurons in another way (attention, recurrent layers, statistics over neurons).
    """
    found = {}
    for node in program.nodes:
        sites = program.sites.get(node.name, ())
        is_known = operator_name(node) in {DENSE, *CONVOLUTIONS} and not isinstance(argument(node, 4), str)
        if not is_known or len(sites) != 1 or not program.is_product(node, sites[0]):
            continue
        weight, bias = argument(node, 1, "weight"), argument(node, 2, "bias")
        if not all(is_own(program, one) for one in (weight, bias) if one is not None):
            continue
        per_neuron = math.prod(weight.meta["val"].shape[2:])
        owners = program.ids[sites[0]].repeat_interleave(per_neuron)
        found[node] = Reader(node, sites[0], weight, bias, owners)
    return found


def not_refit(program: Program) -> list[Node]:
    """Return every operator that reads neurons with weights of its own, and keeps these whatever goes."""
    known, constants = readers(program), program.constants
    read = (node for node in program.nodes if program.sites.get(node.name) and node not in known)
    return [node for node in read if any(_is_matrix(constants.get(one)) for one in node.all_input_nodes)]


def _is_matrix(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() > 1


def downstream(nodes: Iterable[Node]) -> set[Node]:
    """Return every operator that what some nodes give can change."""
    found, waiting = set[Node](), list(nodes)
    while waiting:
        for user in waiting.pop().users:
            if user.op == "call_function" and user not in found:
                found.add(user)
                waiting.append(user)
    return found


def is_own(program: Program, constant: Node) -> bool:
    """Whether a constant is read by one node only, under whatever name."""
    if constant not in program.constants:
        return False
    uses = Counter(value for node, value in program.constants.items() for _ in node.users)
    return uses[program.constants[constant]] == 1


def as_matrix(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return [outputs, columns + 1] in float64: a layer's weights, and its bias (or 0) as the last column."""
    last = weight.new_zeros(len(weight)) if bias is None else bias
    return torch.cat([weight.flatten(1), last[:, None]], 1).double()
