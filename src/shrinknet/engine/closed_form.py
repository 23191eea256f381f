"""Dense layers to the end: removing neuron k changes what its reader gives by the outer product of what it says and of
how it is heard.

With z the reader's outputs, o_k the neuron's output and w_k its column of weights, `z without k = z - o_k w_k^T`, so
that behind the last hidden layer the loss without k is a function of each element of z, o_k and w_k alone, and needs no
product. Where further dense layers follow, theirs are the only ones. Samples lie along the last axis here: that is the
long one; and of every layer in between only the neurons that are still there are computed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.fx import Node

from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.passes import Layouts, Passes, Values
from shrinknet.engine.route import Route
from shrinknet.graph.operators import is_elementwise, operator_name
from shrinknet.task.losses import Loss
from shrinknet.task.per_sample import ACROSS, targets_across

CHUNK_ELEMENTS = 2**20
"""Candidates x outputs x samples at once, where nothing is fused: what the caches hold."""

FUSED_ELEMENTS = 2**22
"""The same for the compiled loop, which may write some of it to memory between two passes over the outputs."""

Pointwise = tuple[Callable[..., Tensor], tuple[Any, ...], tuple[tuple[str, Any], ...]]
"""An element-wise operator, its arguments after the first, its named arguments."""


@dataclass(frozen=True)
class Tail:
    """What follows the reader: element-wise operators, and None for each dense layer."""

    steps: tuple[Pointwise | None, ...]

    def __call__(self, value: Tensor, layers: tuple[Tensor, ...]) -> Tensor:
        """Run it on values [..., neurons, batch]; `layers` holds weight and bias of each dense layer."""
        given = iter(layers)
        for step in self.steps:
            if step is None:
                value = torch.matmul(next(given), value) + next(given)[:, None]
            else:
                operator, args, kwargs = step
                value = operator(value, *args, **dict(kwargs))
        return value


def closed_form(route: Route, loss: Loss) -> Tail | None:
    """Return what lies behind the group's only reader, if it is dense layers and element-wise operators to the end.

    Each neuron must be one element of what the reader reads, and the loss must be one of the built-in ones.
    """
    if len(route.entrances) != 1 or loss.of not in ACROSS:
        return None
    ((reader, site),) = route.entrances.items()
    is_one_element = operator_name(reader) == "linear" and route.places[site][0].shape[1] == 1
    if not is_one_element or reader.meta["val"].dim() != 2 or set(route.sites) != {site}:
        return None
    steps, last = list[Pointwise | None](), reader
    for node in route.replayed:
        step = _step(route, node, last)
        if step is None:
            return None
        steps.append(None if step == "dense" else step)  # type: ignore[arg-type]
        last = node
    return Tail(tuple(steps)) if last is route.program.output else None


def _step(route: Route, node: Node, last: Node) -> Pointwise | str | None:
    """What a node does to the value before it; None where it does something else."""
    if not node.args or node.args[0] is not last or last not in node.all_input_nodes:
        return None
    if operator_name(node) == "linear":
        constants = [given for given in node.all_input_nodes if given is not last]
        return "dense" if all(given in route.program.constants for given in constants) else None
    reads_it_twice = any(isinstance(given, Node) for given in (*node.args[1:], *node.kwargs.values()))
    if not is_elementwise(node) or node.all_input_nodes != [last] or reads_it_twice:
        return None
    return node.target, tuple(node.args[1:]), tuple(node.kwargs.items())  # type: ignore[return-value]


class LastLayers:
    """The values of one batch that the closed form needs, samples last.

    Args:
        network: the masked network.
        route: how the group is read.
        tail: what lies behind its reader.
        values: the value of every node for the batch.
        layouts: what was laid out anew of these values before.
        targets: the batch's targets.
    """

    def __init__(
        self, network: GatedNetwork, route: Route, tail: Tail, values: Values, layouts: Layouts, targets: Tensor
    ) -> None:
        ((reader, site),) = route.entrances.items()
        self.tail, self.across, self.passes = tail, ACROSS[network.loss.of], network.passes
        self.present = torch.from_numpy(network.present[route.neurons.start : route.neurons.stop])
        self.columns = route.places[site][0][:, 0]
        dense = [reader, *(node for node in route.replayed if operator_name(node) == "linear")]
        alive = [*(_alive(network, node) for node in dense[1:]), None]
        self.weights = _rows(values[dense[0].args[1]], alive[0])  # type: ignore[index]
        self.layers = tuple(_layers(values, dense[1:], alive))
        source = route.program.source(site)
        said = network.residual_at(site, values[source])
        is_all = said is values[source]
        self.read = layouts.of(source, said, _samples_last) if is_all else _samples_last(said)
        self.outputs = _rows(layouts.of(reader, values[reader], _samples_last), alive[0])
        outputs = values[route.program.output]
        self.targets = layouts.of("targets", targets, lambda given: targets_across(given, outputs))

    @cached_property
    def before(self) -> Float[Tensor, " batch"]:
        """The loss of each sample as the network is now."""
        return self.across(self.tail(self.outputs, self.layers), self.targets)

    def rises(self, candidates: Tensor, gates: Tensor | None = None) -> Float[Tensor, "candidates batch"]:
        """Return the rise of each sample's loss without each candidate, or with its gate at `gates[c]`."""
        return torch.cat(list(self._parts(candidates, gates)))

    def summed_rises(
        self, candidates: Tensor, gates: Tensor | None = None, *, compiled: bool = False
    ) -> Float[Tensor, " candidates"]:
        """Return the same for the summed loss; without each candidate, in fused loops where that is asked for."""
        if compiled and gates is None:
            work = fused(self.passes, self.tail, self.across)
            return torch.cat([work(*given) for given in self._chunks(candidates, FUSED_ELEMENTS)])
        return torch.cat([part.sum(1, dtype=torch.float64) for part in self._parts(candidates, gates)])

    def _parts(self, candidates: Tensor, gates: Tensor | None) -> Iterator[Float[Tensor, "some batch"]]:
        """The rises of some candidates after the other, as many at once as the caches hold."""
        changes = torch.full_like(candidates, -1, dtype=self.read.dtype)
        if gates is not None:
            changes = gates - self.present.to(gates)[candidates]
        place = 0
        for given in self._chunks(candidates, CHUNK_ELEMENTS):
            some = changes[place : place + len(given[3])]
            yield partial(_rises, changes=some)(self.tail, self.across, *given)
            place += len(some)

    def _chunks(self, candidates: Tensor, elements: int) -> Iterator[tuple[Any, ...]]:
        widest = max(len(self.outputs), *(len(layer) for layer in self.layers), 1)
        for some in candidates.split(max(1, elements // (widest * len(self.before)))):
            columns = self.columns[some]
            yield self.outputs, self.read, self.weights, columns, self.layers, self.targets, self.before


def _rises(
    tail: Tail,
    across: Callable[..., Tensor],
    outputs: Tensor,
    read: Tensor,
    weights: Tensor,
    columns: Tensor,
    layers: tuple[Tensor, ...],
    targets: Tensor,
    before: Tensor,
    changes: Tensor | None = None,
) -> Tensor:
    """`L(tail(z + c o_k w_k^T)) - L(tail(z))` for each sample and each k among the columns; c = -1 where left out."""
    weights = weights.T[columns]
    weights = -weights if changes is None else weights * changes[:, None]
    moved = torch.addcmul(outputs, read[columns][:, None, :], weights[:, :, None])
    return across(tail(moved, layers), targets) - before


def fused(passes: Passes, tail: Tail, across: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the summed rises as few loops over memory, compiled once for any number of candidates and samples."""

    def summed(*given: Any) -> Tensor:
        return _rises(tail, across, *given).sum(1, dtype=torch.float64)

    if (tail, across) not in passes.loops:
        passes.loops[tail, across] = torch.compile(summed, dynamic=True)
    return passes.loops[tail, across]


def _alive(network: GatedNetwork, node: Node) -> Tensor | None:
    """Which elements of what a dense layer reads are still there; None for all."""
    sites = network.passes.program.sites.get(node.name, [])
    present = torch.from_numpy(network.present)
    masks = [present.to(ids.device)[ids] for ids in (network.passes.program.ids[site] for site in sites)]
    if not masks or bool(masks[0].all()):
        return None
    return masks[0].nonzero()[:, 0]


def _rows(value: Tensor, alive: Tensor | None) -> Tensor:
    return value if alive is None else value.index_select(0, alive)


def _layers(values: Values, dense: list[Node], alive: list[Tensor | None]) -> Iterator[Tensor]:
    """Weight and bias of each dense layer, for the neurons that are there, on either side."""
    for place, node in enumerate(dense):
        weight, bias = values[node.args[1]], node.args[2] if len(node.args) > 2 else None  # type: ignore[index]
        columns, rows = alive[place], alive[place + 1]
        weight = _rows(weight if columns is None else weight.index_select(1, columns), rows)
        yield weight
        yield weight.new_zeros(len(weight)) if bias is None else _rows(values[bias], rows)  # type: ignore[index]


def _samples_last(value: Tensor) -> Tensor:
    return value.T.contiguous()
