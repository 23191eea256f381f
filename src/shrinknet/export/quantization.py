"""int8 by PT2E: weights by output channel, activations by range, both as a quantizer of the backend asks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.node import map_arg

from shrinknet.graph.free import Axes, free_sizes
from shrinknet.task.trees import AnyInputs, tensors_of


def quantized(
    network: GraphModule, inputs: AnyInputs, quantizer: Any, calibration: Sequence[AnyInputs], free: Axes | None = None
) -> GraphModule:
    """Return a network in int8, its ranges taken from calibration rows (Jacob et al. 2018; torchao's PT2E flow).

    Args:
        network: the float network, which takes its tensors one by one; those of whole numbers stay what they are.
        inputs: two rows.
        quantizer: what the backend wants quantized, and how.
        calibration: batches of rows.
        free: the sizes of inputs that stay free.

    Cost: one pass over the calibration rows.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    two = tuple(tensors_of(inputs))
    program = torch.export.export(network, two, dynamic_shapes=free_sizes(network, two, free or {}))
    prepared = prepare_pt2e(program.module(check_guards=False), quantizer)
    with torch.no_grad():
        for rows in calibration:
            prepared(*tensors_of(rows))
    converted: GraphModule = convert_pt2e(prepared)
    return converted


def output_steps(quantized: GraphModule) -> tuple[float | None, ...]:
    """Return how far apart two neighbouring values of each output of a quantized network are.

    It is None where the output is not quantized.
    """
    last = list[Any]()
    map_arg(next(node for node in quantized.graph.nodes if node.op == "output").args, last.append)
    return tuple(float(one.args[1]) if "dequantize_per_tensor" in str(one.target) else None for one in last)
