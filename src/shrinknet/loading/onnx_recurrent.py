"""Recurrent layers of ONNX as those of torch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shrinknet.core.errors import BadInputError
from shrinknet.loading.onnx_values import Known, Node

RECURRENT = {"LSTM": ([0, 2, 3, 1], nn.LSTM), "GRU": ([1, 0, 2], nn.GRU), "RNN": ([0], nn.RNN)}
"""Torch's order of the gates by their places in ONNX's, and the layer."""


def recurrent(node: Node, constants: list[Any]) -> nn.Module:
    """Return a recurrent layer of torch's with the weights of the file, whose gates stand in another order.

    Raises:
        NotImplementedError: it does what torch's does not.
    """
    order, layer = RECURRENT[node.kind]
    odd = {"clip", "input_forget", "layout", "activation_alpha", "activation_beta"} & {
        name for name, value in node.attributes.items() if value
    }
    usual = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[node.kind]
    activations = node.get("activations") or usual
    activations = [one.decode() if isinstance(one, bytes) else one for one in activations]
    directions = 2 if node.get("direction") == "bidirectional" else 1
    if node.kind == "RNN" and activations == ["Relu"] * directions:
        usual = ["Relu"]
    if activations not in (usual, usual * directions):
        odd.add("activations")
    if node.kind == "GRU" and not node.get("linear_before_reset", 0):
        odd.add("linear_before_reset=0")
    if len(node.inputs) > 4 and node.inputs[4]:
        odd.add("sequence_lens")
    if len(node.inputs) > 7:
        odd.add("peepholes")
    weights = constants[1:4]
    if odd or any(one is None for one in weights[:2]):
        got = ", ".join(sorted(odd)) or "weights that the inputs decide"
        allowed = "an .onnx file of recurrent layers as torch has them"
        raise BadInputError("spec", allowed, f"{node.kind} {node.name!r} with {got}", "Export it without.")
    biases = weights[2] if len(weights) > 2 else None
    width = weights[1].shape[-1]
    more = {"nonlinearity": "relu"} if usual == ["Relu"] else {}
    made: Any = layer(weights[0].shape[-1], width, bias=biases is not None, bidirectional=directions == 2, **more)

    def turned(array: Known) -> Tensor:
        return torch.from_numpy(array.reshape(len(order), width, *array.shape[1:])[order].reshape(array.shape).copy())

    for direction, ending in enumerate(("_l0", "_l0_reverse")[:directions]):
        for name, array in _parts(weights[0][direction], weights[1][direction], biases, direction):
            getattr(made, name + ending).data = turned(array)
    layer_made: nn.Module = made.eval()
    return layer_made


def _parts(own: Known, back: Known, biases: Known | None, direction: int) -> Iterator[tuple[str, Known]]:
    yield "weight_ih", own
    yield "weight_hh", back
    if biases is not None:
        yield from zip(("bias_ih", "bias_hh"), np.split(biases[direction], 2), strict=True)
