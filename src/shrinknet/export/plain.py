"""The network that artefacts are made of: batch norms are folded into the layers before them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from shrinknet.engine.folding import FoldedProgram
from shrinknet.engine.program import Program
from shrinknet.graph.call import argument
from shrinknet.graph.trace import Trace
from shrinknet.surgery.remove import cut_copy

Answer = Callable[[Tensor], Tensor]
"""Rows in, one row of outputs for each."""


@dataclass(frozen=True)
class Plain:
    """A cut network with its norms folded, and the trace of the whole network that its nodes are named as in."""

    module: GraphModule
    trace: Trace

    @classmethod
    def of(cls, trace: Trace, cut: GraphModule) -> "Plain":
        """Fold the norms of a cut graph, on the CPU, where artefacts are made and run."""
        return cls(without_norms(trace, cut), trace)


def by_torch(module: nn.Module) -> Answer:
    """Return what a module answers, without gradients."""

    def answer(rows: Tensor) -> Tensor:
        with torch.no_grad():
            given: Tensor = module(rows)
        return given

    return answer


def without_norms(trace: Trace, cut: GraphModule) -> GraphModule:
    """Return a copy of a cut graph in which each batch norm is part of the convolution or dense layer before it.

    Nodes keep their names. A layer's kernel stays under its own name; a bias that was not there takes the place of the
    norm's running mean, which has the same length.
    """
    copy = cut_copy(cut, {}).cpu().requires_grad_(False)  # files say whether a weight is trained: none is there
    program = FoldedProgram(Program(replace(trace, module=copy, sites=())))
    for norm, layer in program.norms.items():
        kernel, bias = argument(layer, 1, "weight"), argument(layer, 2, "bias")
        place = bias or argument(norm, 3, "running_mean")
        if _num_readers(copy, kernel) > 1 or _num_readers(copy, place) > 1:
            continue  # shared weights: folded, they would differ from one reader to the next
        new_kernel, new_bias = program.kernels[layer]
        assert new_bias is not None
        _set(copy, str(kernel.target), new_kernel.contiguous())
        _set(copy, str(place.target), new_bias)
        with copy.graph.inserting_before(layer):
            read = copy.graph.get_attr(str(place.target))
            read.meta = dict(place.meta)
        layer.args, layer.kwargs = (layer.args[0], kernel, read, *layer.args[3:]), {}
        norm.replace_all_uses_with(layer)
        copy.graph.erase_node(norm)
    copy.graph.eliminate_dead_code()
    forget_unread(copy)
    copy.recompile()
    return copy


def _num_readers(module: GraphModule, read: Node) -> int:
    return sum(len(node.users) for node in module.graph.nodes if node.op == "get_attr" and node.target == read.target)


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return (attrgetter(path)(module) if path else module), leaf


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    owner, leaf = _owner(module, name)
    is_parameter = isinstance(getattr(owner, leaf), nn.Parameter)
    setattr(owner, leaf, nn.Parameter(value, False) if is_parameter else value)


def forget_unread(module: GraphModule) -> None:
    """Delete the tensors that no node reads: they would stand in every file."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*module.named_parameters(), *module.named_buffers())]:
        if name not in read:
            owner, leaf = _owner(module, name)
            delattr(owner, leaf)


def digest(tensor: Tensor) -> bytes:
    """Return a hash of what a tensor holds, in the order of its axes."""
    flat = tensor.detach().cpu().contiguous()
    return hashlib.sha256(flat.view(-1).view(torch.uint8).numpy().tobytes()).digest()


def rows_of_one(inputs: Tensor) -> tuple[Tensor]:
    """Return one sample as a program of batch size 1 takes it."""
    return (inputs[:1].detach().cpu().contiguous(memory_format=torch.contiguous_format),)
