"""The network that artefacts are made of: batch norms are folded into the layers before them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen
from torch.fx.node import map_arg
from torch.utils._pytree import SequenceKey, tree_flatten_with_path, tree_structure, tree_unflatten

from shrinknet.engine.folding import FoldedProgram
from shrinknet.engine.program import Program
from shrinknet.graph.call import argument
from shrinknet.graph.trace import Trace
from shrinknet.surgery.remove import cut_copy
from shrinknet.task.trees import AnyInputs, called, in_plain_containers, tensors_of

Answer = Callable[[AnyInputs], Any]
"""Inputs in, one row of outputs for each: as the network returns them, or their tensors in that order."""

LONE = tree_structure(((0,), {}))
"""How a network is called that takes one tensor."""


@dataclass(frozen=True)
class InferenceGraph:
    """A cut network with its norms folded, and the trace of the whole network that its nodes are named as in."""

    module: GraphModule
    trace: Trace

    @classmethod
    def of(cls, trace: Trace, cut: GraphModule) -> "InferenceGraph":
        """Fold the norms of a cut graph, on the CPU, where artefacts are made and run."""
        return cls(without_norms(trace, cut), trace)

    @property
    def is_lone(self) -> bool:
        """Whether the network takes one tensor as it is, and returns one."""
        info = self.module.graph._codegen.pytree_info  # type: ignore[attr-defined]
        return info.in_spec == LONE and bool(info.out_spec.is_leaf())

    @cached_property
    def flat(self) -> GraphModule:
        """The network as files without containers know it: its tensors come one by one, and go in a tuple."""
        return self.module if self.is_lone else flat(self.module)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What files call the inputs: as the network's `forward` does; `pair_0` is the first part of a `pair`."""
        if self.is_lone:
            return ("input",)
        return tuple(str(node.target) for node in self.flat.graph.nodes if node.op == "placeholder")

    @property
    def outputs(self) -> tuple[str, ...]:
        """What files call the outputs: by their keys, `output_0` where they have places (see `names_of`)."""
        (end,) = (node for node in self.module.graph.nodes if node.op == "output")
        spec = self.module.graph._codegen.pytree_info.out_spec  # type: ignore[attr-defined]
        leaves = list(end.args[0]) if isinstance(end.args[0], list | tuple) else [end.args[0]]
        are_tensors = [isinstance(one, Node) and isinstance(one.meta["val"], Tensor) for one in leaves]
        return names_of(tree_unflatten(are_tensors, in_plain_containers(spec)), self.inputs)


def names_of(are_tensors: Any, taken: Sequence[str] = ()) -> tuple[str, ...]:
    """Return a name for each tensor of a tree: the keys that lead to it, `output_` before the number of a place.

    A name that is taken, as by an input, gets `_out` behind it.

    >>> names_of({"logits": True, "cache": (True, None)}), names_of((True, {"state": True})), names_of(True)
    (('logits', 'cache_0'), ('output_0', 'output_1_state'), ('output',))
    >>> names_of({"y": True, "state": True}, taken=["x", "state"])
    ('y', 'state_out')
    """
    found = list[str]()
    for path, is_tensor in tree_flatten_with_path(are_tensors)[0]:
        parts = [str(getattr(part, "key", getattr(part, "idx", ""))) for part in path]
        name = "_".join(parts if path and not isinstance(path[0], SequenceKey) else ["output", *parts])
        while name in (*taken, *found):
            name += "_out"
        if is_tensor:
            found.append(name)
    return tuple(found)


def flat(module: GraphModule) -> GraphModule:
    """Return a copy of a graph that takes and gives tensors alone, in their order; placeholders keep their names."""
    copy = cut_copy(module, {})
    for node in copy.graph.nodes:
        if node.op == "placeholder" and not isinstance(node.meta["val"], Tensor):
            copy.graph.erase_node(node)  # None or a switch, which the graph holds by now
        elif node.op == "output":
            returned = list[Node]()
            map_arg(node.args, returned.append)
            node.args = (tuple(one for one in returned if isinstance(one.meta["val"], Tensor)),)
    copy.graph.set_codegen(CodeGen())
    copy.recompile()
    return copy


def by_torch(module: nn.Module) -> Answer:
    """Return what a module answers, without gradients."""
    return lambda inputs: _without_gradients(lambda: called(module, inputs))


def by_tensors(run: Callable[..., Any]) -> Answer:
    """Return what answers inputs without gradients, of what takes tensors one by one (see `InferenceGraph.flat`)."""
    return lambda inputs: _without_gradients(lambda: run(*tensors_of(inputs)))


def _without_gradients(run: Callable[[], Any]) -> Any:
    with torch.no_grad():
        return run()


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


def in_rows(inputs: AnyInputs) -> tuple[Tensor, ...]:
    """Return the tensors of inputs as files are made of them."""
    return tuple(one.detach().cpu().contiguous() for one in tensors_of(inputs))


def one_by_one(inputs: AnyInputs) -> Iterator[tuple[Tensor, ...]]:
    """Yield the tensors of each sample as a program of batch size 1 takes them."""
    tensors = [one.detach().cpu() for one in tensors_of(inputs)]
    for row in range(len(tensors[0])):
        yield tuple(one[row : row + 1].contiguous(memory_format=torch.contiguous_format) for one in tensors)


def given_back(outputs: Iterable[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """Return the outputs of a file: the one, or all in a tuple."""
    one, *others = outputs
    return (one, *others) if others else one


def joined_rows(answers: Iterable[Sequence[Tensor]]) -> Tensor | tuple[Tensor, ...]:
    """Return the outputs of several samples, one after the other, as those of all."""
    return given_back(map(torch.cat, zip(*answers, strict=True)))
