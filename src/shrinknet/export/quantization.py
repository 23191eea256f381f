"""int8 by PT2E: weights by output channel, activations by range, both as a quantizer of the backend asks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim
from torch.fx import GraphModule


def quantized(network: GraphModule, inputs: Tensor, quantizer: Any, calibration: Sequence[Tensor]) -> GraphModule:
    """Return a network in int8, its ranges taken from calibration rows (Jacob et al. 2018; torchao's PT2E flow).

    Args:
        network: the float network.
        inputs: two rows.
        quantizer: what the backend wants quantized, and how.
        calibration: batches of rows.

    Cost: one pass over the calibration rows.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    program = torch.export.export(network, (inputs,), dynamic_shapes=({0: Dim("batch", min=1)},))
    prepared = prepare_pt2e(program.module(check_guards=False), quantizer)
    with torch.no_grad():
        for rows in calibration:
            prepared(rows)
    converted: GraphModule = convert_pt2e(prepared)
    return converted


def output_step(quantized: GraphModule) -> float | None:
    """Return how far apart two neighbouring outputs of a quantized network are; None where they are not quantized."""
    output = next(node for node in quantized.graph.nodes if node.op == "output")
    (last,) = output.all_input_nodes
    return float(last.args[1]) if "dequantize_per_tensor" in str(last.target) else None
