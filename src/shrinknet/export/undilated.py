"""Dilated convolutions of whole numbers, which torch cannot run: zeros between the weights give the same sums."""

from operator import attrgetter

import torch
from torch import Tensor
from torch.fx import GraphModule

CONVOLUTIONS = ("cortex_m::quantized_conv2d", "cortex_m::quantized_depthwise_conv2d")
WEIGHT, DILATION = 1, 5
"""Where these operators take them."""


def undilated(program: GraphModule) -> GraphModule:
    """Write the dilated convolutions of an int8 program anew, in place, so that reference implementations run them.

    Weights stand as the kernels read them, height and width at axes 1 and 2.
    """
    for node in list(program.graph.nodes):
        is_one = hasattr(node.target, "name") and node.target.name() in CONVOLUTIONS
        if not is_one or max(node.args[DILATION]) == 1:
            continue
        weight, name = attrgetter(str(node.args[WEIGHT].target))(program), f"spread_{node.name}"
        program.register_buffer(name, _spread(_spread(weight, 1, node.args[DILATION][0]), 2, node.args[DILATION][1]))
        with program.graph.inserting_before(node):
            node.update_arg(WEIGHT, program.graph.get_attr(name))
        node.update_arg(DILATION, [1, 1])
    program.recompile()
    return program


def _spread(weight: Tensor, axis: int, by: int) -> Tensor:
    """Put zeros between neighbours along an axis.

    >>> _spread(torch.tensor([1, 2]), 0, 3)
    tensor([1, 0, 0, 2])
    """
    length = weight.shape[axis]
    spread = weight.new_zeros([(length - 1) * by + 1 if at == axis else size for at, size in enumerate(weight.shape)])
    return spread.index_copy(axis, torch.arange(length) * by, weight)
