"""What a network with only some neurons present costs, from its graph."""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from shrinknet.core.records import Costs, OperatorCosts, Reach
from shrinknet.graph.call import MACS, windows_of
from shrinknet.graph.groups import Layout
from shrinknet.graph.operators import ALIASES, module_of, operator_name
from shrinknet.graph.places import Windows, laid_out_shapes
from shrinknet.graph.trace import Trace
from shrinknet.graph.widths import Present, Widths, kept_shape

CostsOf = Callable[[Present], Costs]
"""What a network costs once only some neurons are present."""

ShapeOf = Callable[[Node], tuple[int, ...]]
"""The shape of a node's value for one sample."""


def costs(trace: Trace, present: Present) -> Costs:
    """Return the costs of the network that has only the present neurons.

    Cost: one walk over the graph, no tensor is touched.
    """
    return GraphCosts(trace)(present)


class GraphCosts:
    """The costs of one graph, whichever neurons are present: what does not depend on these is looked up once.

    Args:
        trace: the graph.

    Cost: one walk over the graph, here and for each set of neurons; no tensor is touched.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._tensors, self._accesses = stored_tensors(trace), accesses(trace)
        self._counted = [node for node in trace.nodes if node.op == "call_function" and operator_name(node) in MACS]
        whole, tensors = trace.present(), [one for one in trace.nodes if isinstance(one.meta.get("val"), Tensor)]
        self._sizes = {node: trace.shape(node, whole) for node in tensors}

    def __call__(self, present: Present) -> Costs:
        """Return the costs of the network that has only these neurons."""
        kept, shape = self._kept(present), self._shapes(present)
        return Costs(
            num_neurons=int(present[1:].sum()),
            num_parameters=self._num_parameters(kept),
            flash_bytes=flash_bytes(self._tensors, kept),
            peak_ram_bytes=peak_ram_bytes(self._accesses, self._trace.widths(present), shape),
            macs=sum(macs_of(node, shape) for node in self._counted),
        )

    def one(self, column: str, present: Present) -> int:
        """Return one of these costs alone, by its column: whoever wants one need not wait for the others."""
        if column == "macs":
            shape = self._shapes(present)
            return sum(macs_of(node, shape) for node in self._counted)
        if column == "num_parameters":
            return self._num_parameters(self._kept(present))
        if column == "flash_bytes":
            return flash_bytes(self._tensors, self._kept(present))
        return int(getattr(self(present), column))

    def _kept(self, present: Present) -> dict[str, tuple[int, ...]]:
        return {one.name: kept_shape(one.shape, one.layout, present) for one in self._tensors}

    def _num_parameters(self, kept: Mapping[str, tuple[int, ...]]) -> int:
        return sum(math.prod(kept[one.name]) for one in self._tensors if one.is_parameter)

    def _shapes(self, present: Present) -> ShapeOf:
        """The shape of each node's value for one sample, each found once."""
        found: dict[Node, tuple[int, ...]] = {}
        layouts = self._trace.layouts

        def shape(node: Node) -> tuple[int, ...]:
            if node not in found:
                found[node] = kept_shape(self._sizes[node], layouts.get(node.name, ()), present)
            return found[node]

        return shape


def reach(trace: Trace) -> Reach:
    """Return the share of parameters and MACs that lies on an axis with neurons: what goes when all of them go.

    >>> from shrinknet.graph.trace import trace
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> reach(trace(model, torch.randn(2, 4)))
    Reach(num_parameters=0.97, macs=1.0)
    """
    whole, none = trace.present(), trace.present()
    none[1:] = False
    before, after = map(GraphCosts(trace), (whole, none))
    return Reach(
        num_parameters=1 - after.num_parameters / max(1, before.num_parameters),
        macs=1 - after.macs / max(1, before.macs),
    )


def operator_costs(trace: Trace, present: Present) -> tuple[OperatorCosts, ...]:
    """Return what each operator costs; a parameter counts where it is read first.

    Cost: one walk over the graph, no tensor is touched.
    """
    tensors, counted, rows = trace.tensors, set[Tensor](), []
    shape = partial(trace.shape, present=present)
    for node in trace.nodes:
        if node.op != "call_function":
            continue
        parameters = [
            given for given in node.all_input_nodes if isinstance(tensors.get(str(given.target)), nn.Parameter)
        ]
        fresh = {tensors[str(given.target)]: given for given in parameters}
        num_parameters = sum(math.prod(shape(given)) for key, given in fresh.items() if key not in counted)
        counted |= fresh.keys()
        values = [value for value in tree_leaves(node.meta.get("val")) if isinstance(value, Tensor)]
        size = values[0].element_size() * math.prod(shape(node)) if len(values) == 1 else 0
        rows.append(
            OperatorCosts(node.name, operator_name(node), module_of(node), num_parameters, macs_of(node, shape), size)
        )
    return tuple(rows)


SAFETENSORS_NAMES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The element types that a weights file holds, in the order in which the format lays them out."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the weights file holds it, and which neurons lie along its axes."""

    name: str
    shape: tuple[int, ...]
    layout: Layout
    dtype: torch.dtype
    is_parameter: bool


def stored_tensors(trace: Trace) -> list[StoredTensor]:
    """Return what the weights file holds: each shared tensor once, by element type and then by name."""
    types, layouts = list(SAFETENSORS_NAMES), trace.tensor_layouts
    found = [
        StoredTensor(name, tuple(tensor.shape), layouts.get(name, ()), tensor.dtype, isinstance(tensor, nn.Parameter))
        for name, tensor in stored(trace.tensors).items()
    ]
    return sorted(found, key=lambda one: (types.index(one.dtype), one.name))


def flash_bytes(tensors: Sequence[StoredTensor], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the length of the weights file (safetensors): 8 bytes, a JSON header padded to 8, and the data.

    The order of the tensors settles the digits of the offsets.
    """
    header, offset = {}, 0
    for one in tensors:
        size = math.prod(shapes[one.name]) * one.dtype.itemsize
        header[one.name] = {
            "dtype": SAFETENSORS_NAMES[one.dtype],
            "shape": list(shapes[one.name]),
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


def macs_of(node: Node, shape: ShapeOf) -> int:
    """Count the multiply-accumulate operations of one node for one sample."""
    count = MACS.get(operator_name(node))
    return 0 if count is None else count(node, shape)


@dataclass(frozen=True, slots=True)
class Access:
    """A node as it runs: the memories that it reads, the one that its value lies in, its windows over neurons."""

    node: Node
    reads: tuple[Node, ...]
    value: Node | None
    windows: Windows


def accesses(trace: Trace) -> list[Access]:
    """Return the nodes in the order in which they run; views share memory."""
    owners: dict[Node, Node] = {}
    found = []
    for node in (node for node in trace.nodes if node.op in {"placeholder", "call_function", "output"}):
        reads = tuple(owners[given] for given in node.all_input_nodes if given in owners)
        if isinstance(node.meta.get("val"), Tensor):
            is_alias = operator_name(node) in ALIASES and reads
            owners[node] = reads[0] if is_alias else node
        found.append(Access(node, reads, owners.get(node), windows_of(node)))
    return found


def peak_ram_bytes(nodes: Sequence[Access], widths: Widths, shape: ShapeOf) -> int:
    """Return the most bytes of activations alive at once at batch 1: every operator's inputs and output.

    A value lives from the operator that makes it to the last that reads it. What a runtime adds (alignment,
    workspaces) is not in it.
    """
    born: dict[Node, int] = {}
    last_use: dict[Node, int] = {}
    on_the_way: list[tuple[int, int]] = []
    step = -1
    for one in nodes:
        step += 1
        last_use.update(dict.fromkeys(one.reads, step))
        for laid in laid_out_shapes(one.node, one.windows, widths, shape):
            on_the_way.append((step, math.prod(laid) * one.node.meta["val"].element_size()))
            step += 1
        if one.value is not None:
            born.setdefault(one.value, step)
            last_use.setdefault(one.value, step)
    changes = [0] * (step + 2)
    for first, size in on_the_way:
        changes[first] += size
        changes[first + 2] -= size
    for node, step in born.items():
        size = math.prod(shape(node)) * node.meta["val"].element_size()
        changes[step] += size
        changes[last_use[node] + 1] -= size
    return max(itertools.accumulate(changes))
