"""Lowering to ExecuTorch's programs: the memory plan, and which operator of ours each planned value comes from."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Node

from shrinknet.export.arena import Axis, Value, are_those, axes_of, tensors_of
from shrinknet.export.inference import InferenceGraph, digest
from shrinknet.graph.call import MACS
from shrinknet.graph.operators import describe, operator_name


def planned_in_order(edge: Any, **options: Any) -> tuple[Any, list[Any]]:
    """Lower an edge program to its file; return it with the specs that were planned, in the order they were.

    The planner is given its values in the order of their lives: it takes a set otherwise, whose order (and with it
    where ties are put) changes from run to run.
    """
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.memory_planning import MemoryPlanningAlgorithmSuite, greedy
    from executorch.exir.passes import MemoryPlanningPass

    placed: list[Any] = []

    def in_order(alignment: int, specs: Any, *rest: Any, **named: Any) -> Any:
        placed[:] = sorted(specs, key=lambda spec: (spec.lifetime, tuple(spec.shape)))
        return greedy(alignment, placed, *rest, **named)

    suite = MemoryPlanningAlgorithmSuite([in_order])
    config = ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(memory_planning_algo=suite), **options)
    return edge.to_executorch(config), placed


def without_unread(program: Any) -> Any:
    """Take the constants out of a program that no operator reads, in place: each would stand in its file.

    Quantizers leave steps and zero points behind, one for each channel, and the weights in an order that no kernel
    reads.
    """
    signature = program.graph_signature
    unread = {node.name: node for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    for spec in [spec for spec in signature.input_specs if spec.target is not None and spec.arg.name in unread]:
        signature.input_specs.remove(spec)
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)
        program.graph.erase_node(unread[spec.arg.name])
    program.graph_module.recompile()
    return program


def arena_bytes(lowered: Any) -> int:
    """Return the length of the arena that a program asks for, all memories together."""
    return int(sum(lowered.executorch_program.execution_plan[0].non_const_buffer_sizes))


def placed_values(lowered: Any, placed: Sequence[Any], network: InferenceGraph) -> Iterator[Value]:
    """Yield each planned value with the axes of the operator that it was made for.

    Scratch memory that an operator asks for grows with what the operator reads.
    """
    own = {node.name: node for node in network.module.graph.nodes}
    names: dict[Any, str] = {}
    scratch: dict[Any, Node] = {}
    for node in lowered.exported_program().graph.nodes:
        if (name := _origin(node, own)) is not None:
            names.update((spec, name) for spec in _specs(node))
        elif (user := next(iter(node.users), None)) is not None and (of := _origin(user, own)) is not None:
            read = [one for one in own[of].all_input_nodes if one.op != "get_attr"]
            scratch.update((spec, read[0]) for spec in _specs(node) if read)
    for spec in placed:
        shape, (first, last) = tuple(spec.shape), spec.lifetime
        node = own.get(names.get(spec, ""), scratch.get(spec))
        name = names.get(spec, f"scratch of {node.name}" if node else "")
        yield Value(name, axes_of(shape, node, network.trace), spec.dtype.itemsize, first, last)


def stored_values(program: Any, network: InferenceGraph) -> Iterator[Value]:
    """Yield each constant that a program reads, with the axes of the operator that it was made for.

    An operator's own tensors are taken once each, since two may have one shape; what else it stores (steps of int8, a
    table) is read like any value of its own. Their names are what they hold: of equal ones one stands in the file.
    """
    own = {node.name: node for node in network.module.graph.nodes}
    readers = {node.name: next(iter(node.users)) for node in program.graph.nodes if node.users}
    left: dict[str | None, list[tuple[Axis, ...]]] = {}
    for spec in program.graph_signature.input_specs:
        tensor = program.state_dict.get(spec.target, program.constants.get(spec.target))
        if not isinstance(tensor, Tensor) or spec.arg.name not in readers:
            continue
        shape, name = tuple(tensor.shape), _read_for(readers[spec.arg.name], own)
        node = None if name is None else own[name]
        unread = left.setdefault(name, tensors_of(node, network.trace))
        place = next((place for place, axes in enumerate(unread) if are_those(axes, shape)), None)
        axes = axes_of(shape, node, network.trace) if place is None else unread.pop(place)
        yield Value(digest(tensor).hex(), axes, tensor.itemsize, 0, 0)


def _read_for(reader: Node, own: dict[str, Node]) -> str | None:
    """The operator of the network that something is read for, behind what turns int8 into float."""
    while "quantize_per" in str(reader.target) and reader.users:
        reader = next(iter(reader.users))
    return _origin(reader, own)


def _specs(node: Node) -> list[Any]:
    specs = node.meta.get("spec")
    return [spec for spec in (specs if isinstance(specs, list | tuple) else [specs]) if spec is not None]


def _origin(node: Node, own: dict[str, Node]) -> str | None:
    """The name, in the network's own graph, of the operator that a lowered node was made for.

    Where the lowering does not say (a cast to another type), it is that of the value that the node reads first.
    """
    if node.op == "placeholder":
        return node.name if node.name in own else None
    source = next(iter(reversed(node.meta.get("from_node") or ())), None)
    found = None
    while source is not None:
        found = source.name if source.name in own else found
        source = next(iter(reversed(source.from_node or ())), None)
    if found is None and node.op == "call_function" and _specs(node):
        given = next((one for one in node.all_input_nodes if _specs(one)), None)
        found = None if given is None else _origin(given, own)
    return found


def in_float(program: Any, network: InferenceGraph) -> tuple[str, ...]:
    """Return the network's operators, with their modules, that a lowered int8 program computes in float.

    What only turns float into int8 and back, or takes a value out of several, computes nothing.
    """
    called = [node for node in program.graph.nodes if node.op == "call_function"]
    return _origins((one for one in called if _gives_float(one) and not _only_passes_on(str(one.target))), network)


def _gives_float(node: Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    return any(isinstance(one, Tensor) and one.is_floating_point() for one in values)


def _only_passes_on(target: str) -> bool:
    return any(word in target for word in ("quantize_per", "getitem", "executorch_call_delegate", "alloc"))


def float_products(quantized: Any, network: InferenceGraph) -> tuple[str, ...]:
    """Return the network's operators that multiply and whose inputs a quantizer left in float, with their modules."""
    called = (node for node in quantized.graph.nodes if node.op == "call_function")
    return _origins((one for one in called if operator_name(one) in MACS and not _reads_int8(one)), network)


def _origins(nodes: Iterable[Node], network: InferenceGraph) -> tuple[str, ...]:
    """The network's operators that nodes were made for, with their modules, each once."""
    own = {node.name: node for node in network.module.graph.nodes}
    origins = ((node, _origin(node, own)) for node in nodes)
    return tuple(dict.fromkeys(describe(own[name]) if name else str(node.target) for node, name in origins))


def _reads_int8(node: Node) -> bool:
    """Whether every activation and weight that a product reads comes out of int8 (its bias need not)."""
    return all("dequantize" in str(given.target) for given in node.all_input_nodes[:2])


def where(edge: Any, network: InferenceGraph, error: Exception) -> str:
    """The operators of the network that an exporter's error speaks of."""
    own = {node.name: node for node in network.module.graph.nodes}
    if edge is None:
        return "this network"
    for node in edge.exported_program().graph.nodes:
        if node.op == "call_function" and hasattr(node.target, "name") and node.target.name() in str(error):
            name = _origin(node, own)
            return describe(own[name]) if name else node.name
    return "this network"
