"""What a network with only some neurons present costs, from its graph."""

import itertools
import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.fx import Node

from shrinknet.graph.operators import ALIASES, operator_name
from shrinknet.graph.trace import Present, Trace, kept_shape
from shrinknet.records import Costs


def costs(trace: Trace, present: Present) -> Costs:
    """Return the costs of the network that has only the present neurons.

    Cost: one walk over the graph, no tensor is touched.
    """
    shapes = tensor_shapes(trace, present)
    return Costs(
        num_neurons=int(present[1:].sum()),
        num_parameters=num_parameters(trace, shapes),
        flash_bytes=flash_bytes(trace, shapes),
        peak_ram_bytes=peak_ram_bytes(trace, present),
        macs=macs(trace, present),
    )


def tensor_shapes(trace: Trace, present: Present) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter and buffer once only the present neurons are there."""
    return {
        name: kept_shape(tuple(tensor.shape), trace.tensor_layouts.get(name, ()), present)
        for name, tensor in trace.tensors.items()
    }


def num_parameters(trace: Trace, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the elements of all parameters, shared ones once."""
    counted = {
        id(tensor): math.prod(shapes[name])
        for name, tensor in trace.tensors.items()
        if isinstance(tensor, nn.Parameter)
    }
    return sum(counted.values())


SAFETENSORS_NAMES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The element types that a weights file holds, in the order in which the format lays them out."""


def flash_bytes(trace: Trace, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the length of the weights file (safetensors): 8 bytes, a JSON header padded to 8, and the data.

    The file holds each shared tensor once, under its first name, by element type and then by name, which settles the
    digits of the offsets.
    """
    header, offset, types = {}, 0, list(SAFETENSORS_NAMES)
    for name, tensor in sorted(stored(trace.tensors).items(), key=lambda item: (types.index(item[1].dtype), item[0])):
        size = math.prod(shapes[name]) * tensor.element_size()
        header[name] = {
            "dtype": SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(shapes[name]),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + offset


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each tensor once, under its first name: what the weights file holds."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in tensors.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor
    return kept


def macs(trace: Trace, present: Present) -> int:
    """Count the multiply-accumulate operations of dense layers and convolutions for one sample."""
    return sum(_macs_of(node, trace, present) for node in trace.nodes if node.op == "call_function")


def _macs_of(node: Node, trace: Trace, present: Present) -> int:
    """Each output element takes as many as there are weights behind it."""
    name = operator_name(node)
    if name not in {"linear", "conv1d", "conv2d", "conv3d", "matmul", "mm", "addmm"}:
        return 0
    position = 1 if name != "addmm" else 2
    weight = trace.shape(node.args[position], present)  # type: ignore[arg-type]
    per_output = weight[0] if name in {"matmul", "mm", "addmm"} else math.prod(weight[1:])
    return math.prod(trace.shape(node, present)) * per_output


def peak_ram_bytes(trace: Trace, present: Present) -> int:
    """Return the most bytes of activations alive at once at batch 1: every operator's inputs and output.

    A value lives from the operator that makes it to the last that reads it; views share memory. What a runtime adds
    (alignment, workspaces) is not in it.
    """
    owners: dict[Node, Node] = {}
    born: dict[Node, int] = {}
    last_use: dict[Node, int] = {}
    order = [node for node in trace.nodes if node.op in {"placeholder", "call_function", "output"}]
    for step, node in enumerate(order):
        inputs = [owners[given] for given in node.all_input_nodes if given in owners]
        last_use.update(dict.fromkeys(inputs, step))
        if isinstance(node.meta.get("val"), Tensor):
            is_alias = operator_name(node) in ALIASES and inputs
            owners[node] = inputs[0] if is_alias else node
            born.setdefault(owners[node], step)
            last_use.setdefault(owners[node], step)
    changes = [0] * (len(order) + 1)
    for node, step in born.items():
        size = math.prod(trace.shape(node, present)) * node.meta["val"].element_size()
        changes[step] += size
        changes[last_use[node] + 1] -= size
    return max(itertools.accumulate(changes))
