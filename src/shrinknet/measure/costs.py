"""What a network with only some neurons present costs, from its graph."""

import itertools
import json
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from shrinknet.core.records import Costs, OperatorCosts, Reach
from shrinknet.graph.call import MACS, windows_of
from shrinknet.graph.operators import ALIASES, module_of, operator_name
from shrinknet.graph.places import laid_out_shapes
from shrinknet.graph.trace import Trace
from shrinknet.graph.widths import Present, kept_shape

CostsOf = Callable[[Trace, Present], Costs]
"""What a network costs once only some neurons are present."""


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


def reach(trace: Trace) -> Reach:
    """Return the share of parameters and MACs that lies on an axis with neurons: what goes when all of them go.

    >>> from shrinknet.graph.trace import trace
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> reach(trace(model, torch.randn(2, 4)))
    Reach(num_parameters=0.97, macs=1.0)
    """
    none = trace.present()
    none[1:] = False
    before, after = (costs(trace, present) for present in (trace.present(), none))
    return Reach(
        num_parameters=1 - after.num_parameters / max(1, before.num_parameters),
        macs=1 - after.macs / max(1, before.macs),
    )


def operator_costs(trace: Trace, present: Present) -> tuple[OperatorCosts, ...]:
    """Return what each operator costs; a parameter counts where it is read first.

    Cost: one walk over the graph, no tensor is touched.
    """
    tensors, counted, rows = trace.tensors, set[Tensor](), []
    for node in trace.nodes:
        if node.op != "call_function":
            continue
        parameters = [
            given for given in node.all_input_nodes if isinstance(tensors.get(str(given.target)), nn.Parameter)
        ]
        fresh = {tensors[str(given.target)]: given for given in parameters}
        num_parameters = sum(
            math.prod(trace.shape(given, present)) for key, given in fresh.items() if key not in counted
        )
        counted |= fresh.keys()
        values = [value for value in tree_leaves(node.meta.get("val")) if isinstance(value, Tensor)]
        size = values[0].element_size() * math.prod(trace.shape(node, present)) if len(values) == 1 else 0
        rows.append(
            OperatorCosts(
                node.name, operator_name(node), module_of(node), num_parameters, macs_of(node, trace, present), size
            )
        )
    return tuple(rows)


def tensor_shapes(trace: Trace, present: Present) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter and buffer once only the present neurons are there."""
    return {
        name: kept_shape(tuple(tensor.shape), trace.tensor_layouts.get(name, ()), present)
        for name, tensor in trace.tensors.items()
    }


def num_parameters(trace: Trace, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the elements of all parameters, shared ones once."""
    counted = {
        tensor: math.prod(shapes[name]) for name, tensor in trace.tensors.items() if isinstance(tensor, nn.Parameter)
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
    first: dict[Tensor, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(tensor, name)
    return {name: tensor for tensor, name in first.items()}


def macs(trace: Trace, present: Present) -> int:
    """Count the multiply-accumulate operations of one sample: products, convolutions, recurrent layers."""
    return sum(macs_of(node, trace, present) for node in trace.nodes if node.op == "call_function")


def macs_of(node: Node, trace: Trace, present: Present) -> int:
    """Count the multiply-accumulate operations of one node for one sample."""
    count = MACS.get(operator_name(node))
    return 0 if count is None else count(node, lambda given: trace.shape(given, present))


def peak_ram_bytes(trace: Trace, present: Present) -> int:
    """Return the most bytes of activations alive at once at batch 1: every operator's inputs and output.

    A value lives from the operator that makes it to the last that reads it; views share memory. What a runtime adds
    (alignment, workspaces) is not in it.
    """
    owners: dict[Node, Node] = {}
    born: dict[Node, int] = {}
    last_use: dict[Node, int] = {}
    on_the_way: list[tuple[int, int]] = []
    order = [node for node in trace.nodes if node.op in {"placeholder", "call_function", "output"}]
    widths, step = trace.widths(present), -1
    for node in order:
        step += 1
        inputs = [owners[given] for given in node.all_input_nodes if given in owners]
        last_use.update(dict.fromkeys(inputs, step))
        for shape in laid_out_shapes(node, windows_of(node), widths, lambda given: trace.shape(given, present)):
            on_the_way.append((step, math.prod(shape) * node.meta["val"].element_size()))
            step += 1
        if isinstance(node.meta.get("val"), Tensor):
            is_alias = operator_name(node) in ALIASES and inputs
            owners[node] = inputs[0] if is_alias else node
            born.setdefault(owners[node], step)
            last_use.setdefault(owners[node], step)
    changes = [0] * (step + 2)
    for first, size in on_the_way:
        changes[first] += size
        changes[first + 2] -= size
    for node, step in born.items():
        size = math.prod(trace.shape(node, present)) * node.meta["val"].element_size()
        changes[step] += size
        changes[last_use[node] + 1] -= size
    return max(itertools.accumulate(changes))
