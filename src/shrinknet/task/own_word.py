"""A network's own loss, taken at its word: the operators of its forward between what it returns and its `loss`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_flatten

from shrinknet.core.errors import BadInputError, first_line
from shrinknet.core.quiet import quiet
from shrinknet.task.trees import (
    Inputs,
    are_alike,
    bound,
    call_of,
    named_leaves,
    num_rows,
    of_each,
    row_axes,
    tensors_of,
)

ROUNDINGS, FLOAT = 64, torch.finfo(torch.float32).eps
"""How many roundings a mean over rows may be from what is said of all of them: losses are float32 at best."""

ROWS_TRACED = 3
"""So many rows the loss is followed on: two or one could be taken for sizes of something else."""

COUNT: Any = torch.ops.aten.sym_size.int


@dataclass(frozen=True, slots=True, eq=False)
class OwnWord:
    """The loss that a network computes from labels itself, as a function of what it returns and its labels.

    Attributes:
        graph: gives the loss of a batch, of the tensors of both.
        is_of_each: whether that is the mean of what it says of the rows alone, so that each row has a loss. Otherwise
            the batch's is given to each of its rows, and couples them.
        is_mapped: whether `torch.vmap` knows its operators; else rows are asked one after the other.
    """

    graph: GraphModule
    is_of_each: bool = False
    is_mapped: bool = False

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of each sample."""
        tensors, count = tensors_of((outputs, targets)), num_rows(outputs)
        if not self.is_of_each:
            return self._of_batch(tensors).expand(count)
        if self.is_mapped:
            return torch.vmap(lambda *row: self._of_batch([one[None] for one in row]))(*tensors)
        return torch.stack([self._of_batch([one[row : row + 1] for one in tensors]) for row in range(count)])

    def _of_batch(self, tensors: Sequence[Tensor]) -> Tensor:
        loss: Tensor = self.graph(*tensors)
        return loss.reshape(())


def own_word(model: nn.Module, inputs: Inputs, labels: Mapping[str, Any], outputs: Any) -> OwnWord:
    """Return a network's own loss as a function of its outputs and labels.

    Args:
        model: returns its `loss`, beside what it returns without them, where it is given labels.
        inputs: some rows.
        labels: of these rows, by the names of the arguments that take them.
        outputs: what it returns of the rows without labels, as far as a loss is given it.

    Raises:
        BadInputError: torch cannot follow it, or the loss follows from more than outputs and labels.

    Cost: a trace of the network on three rows, and the loss of each row.
    """
    few: Given = of_each((*call_of(inputs), dict(labels)), _few)
    names = [f"the input {name}" for name, _ in named_leaves(bound(model, inputs), "")]
    word = OwnWord(_between(_followed(model, few), few, [_few(one) for one in tensors_of(outputs)], names))
    each, rows = replace(word, is_of_each=True), (outputs, dict(labels))
    if not _is_their_mean(word, each, rows):
        return word
    return replace(each, is_mapped=_is_mapped(replace(each, is_mapped=True), rows, each(*rows)))


def _few(tensor: Tensor) -> Tensor:
    return tensor[:ROWS_TRACED]


def _is_their_mean(word: OwnWord, each: OwnWord, rows: tuple[Any, Any]) -> bool:
    """Whether the loss of a batch is the mean of those of its rows, of these outputs and of others far from them.

    The rows of an untrained network may all cost the same, and then any mean is like any other.
    """
    draw = torch.Generator().manual_seed(0)
    outputs, labels = rows
    moved = of_each(outputs, lambda one: one + _noise(one, draw) if one.is_floating_point() else one)
    found = [(float(word(given, labels)[0]), float(each(given, labels).mean())) for given in (outputs, moved)]
    found = [found[0], *(pair for pair in found[1:] if math.isfinite(pair[0]))]  # probabilities moved may be none
    return all(abs(whole - mean) <= ROUNDINGS * FLOAT * max(1.0, abs(whole)) for whole, mean in found)


def _noise(tensor: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=draw).to(tensor)


def _is_mapped(word: OwnWord, rows: tuple[Any, Any], apart: Tensor) -> bool:
    try:
        return are_alike(apart, word(*rows))
    except Exception:  # whatever torch.vmap has no rule for
        return False


Given = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]
"""What a network is called with: arguments, those with names, and labels."""


class _Asked(nn.Module):
    """A network that says its loss, and the tensors that it returns beside it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], labels: dict[str, Any]
    ) -> tuple[Any, list[Tensor]]:
        returned = self.model(*args, **kwargs, **labels)
        loss = loss_of(returned)
        return loss, [one for one in tensors_of(returned) if one is not loss]


def loss_of(returned: Any) -> Any:
    """Return the `loss` among what a network returns; None where there is none."""
    return returned.get("loss") if isinstance(returned, Mapping) else getattr(returned, "loss", None)


def _followed(model: nn.Module, given: Given) -> GraphModule:
    """The network with its labels as a graph, the number of rows left open."""
    try:
        with quiet():
            program = torch.export.export(_Asked(model), given, dynamic_shapes=row_axes(given, Dim.AUTO))
            network = program.module(check_guards=False)
    except Exception as error:  # torch.export raises dozens of types
        raise _more_than_its_word(f"{type(error).__name__}: {first_line(error).rstrip('.')}") from error
    assert isinstance(network, GraphModule)
    return network


def _between(network: GraphModule, given: Given, outputs: Sequence[Tensor], names: Sequence[str]) -> GraphModule:
    """The part of a graph that makes the loss of what the network returns without labels, and of the labels.

    What it returns so is found, by its numbers, among what it returns with them.
    """
    placeholders = [node for node in network.graph.nodes if node.op == "placeholder"]
    labels = [node for node, leaf in zip(placeholders, _labels(given), strict=True) if isinstance(leaf, Tensor)]
    loss, *returned = next(node for node in network.graph.nodes if node.op == "output").args[0]
    graph, copied, values = Graph(), dict[Node, Node](), network(*given)[1]
    for number, output in enumerate(outputs):
        here = graph.placeholder(f"output_{number}")
        same = [node for node, value in zip(returned, values, strict=True) if are_alike(output, value)]
        copied |= {node: here for node in same if node not in copied}
    copied |= {node: graph.placeholder(f"label_{number}") for number, node in enumerate(labels)}
    rows = copied[labels[0]]
    spoken = dict(zip(placeholders, names, strict=False)) | _weights(network, returned)

    def copy(node: Node) -> Node:
        """Copy a node, and all that it is made of as far as the outputs and the labels."""
        if node in copied:
            return copied[node]
        if node.target is COUNT and node.args[1] == 0 and node.args[0] in placeholders:
            copied[node] = graph.create_node("call_function", COUNT, (rows, 0))
        else:
            if node in spoken:
                raise _more_than_its_word(f"one that reads {spoken[node]}, too")
            for one in node.all_input_nodes:
                copy(one)
            copied[node] = graph.node_copy(node, copied.__getitem__)
        return copied[node]

    graph.output(copy(loss))
    return GraphModule(network, graph)


def _labels(given: Given) -> list[Any]:
    """The leaves of a call, None for those that are no labels."""
    args, kwargs, labels = given
    return [None] * len(tree_flatten((args, kwargs))[0]) + tree_flatten(labels)[0]


def _behind(nodes: Sequence[Node]) -> set[Node]:
    """All that some nodes are made of."""
    found, waiting = set[Node](), list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _weights(network: GraphModule, returned: Sequence[Node]) -> dict[Node, str]:
    """The weights that some nodes are made of, by what they are called: pruning changes them."""
    read = [node for node in _behind(returned) if node.op == "get_attr"]
    weights = [node for node in read if isinstance(attrgetter(str(node.target))(network), nn.Parameter)]
    return {node: f"the weight {str(node.target).removeprefix('model.')!r}" for node in weights}


def _more_than_its_word(got: str) -> BadInputError:
    allowed = "'own-loss' only for a network whose loss follows from what it returns without labels, and from these"
    do = "Return what it needs, name what is a target by unpack=batch -> (args, kwargs, targets), or give a function."
    return BadInputError("loss", allowed, got, do)
