"""A program that computes the same faster: batch norms in the layers before them, kernels as the CPU likes them.

Replays use it: they run the same few layers thousands of times, so that a pass over memory saved counts. So do
artefacts, which hold no more than they need.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.engine.program import Gating, Program
from shrinknet.graph.call import argument
from shrinknet.graph.operators import operator_name

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
DENSE = "linear"
NORM_ARGUMENTS = ("weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")


class FoldedProgram(Program):
    """A program in which a batch norm after a convolution or dense layer is part of that layer's weights and bias.

    With s = weight / sqrt(var + eps): `norm(conv(x, K, b)) = conv(x, s K, s (b - mean) + bias)`, equal up to rounding.
    On a CPU, 32-bit kernels for images are kept with their channels last, which convolutions hand on to their outputs.
    """

    def __init__(self, program: Program) -> None:
        super().__init__(program.trace, program.asked_dtype, program.scoring, program.tensors, program.reads)
        self.norms = {node: given for node in self.nodes if (given := self._folds_into(node)) is not None}
        self._norm_of = {given: norm for norm, given in self.norms.items()}
        kernels: dict[Node, tuple[Tensor, Tensor | None]] = {
            given: self._folded(given, node) for node, given in self.norms.items()
        }
        for node in self.nodes:
            if operator_name(node) in CONVOLUTIONS and node not in kernels and self._is_constant(node):
                kernels[node] = self._kernel_and_bias(node)
        self.kernels = {node: (_as_the_cpu_likes(kernel), bias) for node, (kernel, bias) in kernels.items()}

    def call(self, node: Node, values: Mapping[Node, Any], gating: Gating | None, **forms: Any) -> Any:
        """Run one node; a norm that is folded hands on what its convolution gave."""
        if node in self.norms:
            return values[self.norms[node]]
        return super().call(node, values, gating, **forms)

    def given(self, node: Node) -> Sequence[Node]:
        """Return the nodes whose values a node's value is a function of; for a folded layer its norm's too."""
        return [*node.all_input_nodes, *(self._norm_of[node].all_input_nodes[1:] if node in self._norm_of else ())]

    @property
    def handed_on(self) -> Mapping[Node, Node]:
        """Folded norms hand on what their convolutions gave."""
        return self.norms

    def shares_memory(self, node: Node) -> bool:
        """Whether a node's value may lie in the memory of the value before it; a folded norm's is that value."""
        return node in self.norms or super().shares_memory(node)

    def arguments(self, node: Node, values: Mapping[Node, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return a node's arguments, with the folded kernel and bias where it is a convolution."""
        args, kwargs = super().arguments(node, values)
        if node in self.kernels:
            kwargs.pop("bias", None)
            args = [args[0], *self.kernels[node], *args[3:]]
        return args, kwargs

    def _folds_into(self, node: Node) -> Node | None:
        """The convolution that a batch norm can be folded into: nothing else reads it, and both hold constants."""
        if operator_name(node) != "batch_norm" or node.name in self.sites or self._norm(node, "training"):
            return None
        given = argument(node, 0, "input")
        is_alone = len(given.users) == 1 and given not in self.outputs_of
        is_dense = operator_name(given) == DENSE and given.meta["val"].dim() == 2  # the norm runs along its outputs
        if not (is_dense or operator_name(given) in CONVOLUTIONS) or not is_alone or not self._is_constant(given):
            return None
        read = [self._norm(node, name) for name in NORM_ARGUMENTS[:4]]
        is_constant = read[3] is not None and all(one is None or one in self.constants for one in read)
        return given if is_constant else None

    def _norm(self, node: Node, name: str) -> Any:
        return argument(node, 1 + NORM_ARGUMENTS.index(name), name)

    def _is_constant(self, convolution: Node) -> bool:
        kernel, bias = argument(convolution, 1, "weight"), argument(convolution, 2, "bias")
        return kernel in self.constants and (bias is None or bias in self.constants)

    def _kernel_and_bias(self, convolution: Node) -> tuple[Tensor, Tensor | None]:
        kernel, bias = argument(convolution, 1, "weight"), argument(convolution, 2, "bias")
        return self.constants[kernel], None if bias is None else self.constants[bias]

    def _folded(self, convolution: Node, norm: Node) -> tuple[Tensor, Tensor]:
        kernel, bias = self._kernel_and_bias(convolution)
        given = {name: self._norm(norm, name) for name in NORM_ARGUMENTS[:4]}
        by_name = {name: self.constants[node].double() for name, node in given.items() if node is not None}
        scale = torch.rsqrt(by_name["running_var"] + self._norm(norm, "eps")) * by_name.get("weight", 1.0)
        centred = (0.0 if bias is None else bias.double()) - by_name["running_mean"]
        moved = scale * centred + by_name.get("bias", 0.0)
        along_out = (-1, *[1] * (kernel.dim() - 1))
        return (kernel.double() * scale.view(along_out)).to(kernel.dtype), moved.to(kernel.dtype)


def _as_the_cpu_likes(kernel: Tensor) -> Tensor:
    is_for_images = kernel.dim() == 4 and kernel.dtype == torch.float32 and kernel.device.type == "cpu"
    return kernel.contiguous(memory_format=torch.channels_last) if is_for_images else kernel


def folded(program: Program) -> Program:
    """Return the faster form of a program; the program itself where it has no convolution."""
    has_any = any(operator_name(node) in CONVOLUTIONS for node in program.nodes)
    return FoldedProgram(program) if has_any else program
