"""Replay: one forward pass is kept, and a change of one neuron's gate is run downstream of its readers only.

A neuron read by a dense layer or a convolution is a low-rank change of what that layer already computed:
`reader(x with gate g) = reader(x) + (g - 1) * (the neuron's own contribution)`. So the reader is not run again; what
lies behind it is, for many candidate neurons at once. Candidates come in chunks, so that memory stays within a
bound whatever the number of neurons and samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.fx import Node

from shrinknet.data import Batch
from shrinknet.gates import GatedNetwork, Program, shaped_along
from shrinknet.graph.rules.base import Site, shape_of
from shrinknet.records import Group

CHUNK_ELEMENTS = 2**18
"""Elements of the largest value replayed at once: small enough that a chunk stays in a core's cache."""


@dataclass(frozen=True)
class Route:
    """How a change of one group's gates travels: the reading sites and the nodes downstream of them."""

    program: Program
    sites: frozenset[Site]

    @cached_property
    def downstream(self) -> tuple[Node, ...]:
        """The nodes whose value depends on the group's gates, in the order in which they run."""
        reading = {site.node for site in self.sites}
        found: dict[Node, None] = {}
        for node in self.program.nodes:
            if node.name in reading or any(given in found for given in node.all_input_nodes):
                found[node] = None
        return tuple(found)

    @cached_property
    def entrances(self) -> dict[Node, Site]:
        """The readers whose input does not depend on the group's gates: there the change is of low rank."""
        nodes = {node.name: node for node in self.downstream}
        return {
            nodes[site.node]: site
            for site in self.sites
            if not any(given in self.downstream for given in nodes[site.node].all_input_nodes)
            and _operator(nodes[site.node]) in CONTRIBUTIONS
        }

    @cached_property
    def kept(self) -> frozenset[Node]:
        """The values of the forward pass that a replay reads."""
        read = {given for node in self.downstream for given in node.all_input_nodes}
        return frozenset(read - set(self.downstream)) | set(self.entrances)

    def elements_per_candidate(self, batch_size: int) -> int:
        """The size of the largest value downstream, for one candidate."""
        sizes = (shape_of(node.meta["val"]) for node in self.downstream if isinstance(node.meta["val"], Tensor))
        return max(batch_size * int(torch.Size(shape[1:]).numel()) for shape in sizes)


@lru_cache(maxsize=1024)
def route(program: Program, group_ids: range) -> Route:
    """Return the route of the group with these neuron ids (found once for each program)."""
    sites = [
        site for site, ids in program.ids.items() if bool(((ids >= group_ids.start) & (ids < group_ids.stop)).any())
    ]
    return Route(program, frozenset(sites))


class Replay:
    """One forward pass over one batch, from which candidates are replayed.

    Args:
        network: the masked network as it is now.
        batch: the samples.

    Cost: one forward pass; memory for the values that readers and their downstream need.
    """

    def __init__(self, network: GatedNetwork, batch: Batch) -> None:
        self.network, self.batch = network, batch
        self.values = network.program.run(batch.inputs, network.gating(), keep=True)

    @cached_property
    def loss_before(self) -> Tensor:
        """The summed loss of the batch as the network is now."""
        output = self.values[self.network.program.output]
        return self.network.loss.of(output, self.batch.targets).sum(dtype=torch.float64)

    def chunks(self, group: Group) -> Iterator[Int[Tensor, " candidates"]]:
        """Yield the indices of the group's neurons that are still there, as many at a time as memory allows."""
        alive = torch.from_numpy(self.network.alive(group))
        size = self._route(group).elements_per_candidate(len(self.batch))
        yield from alive.split(max(1, CHUNK_ELEMENTS // size)) if len(alive) else ()

    def losses(
        self, group: Group, candidates: Int[Tensor, " candidates"], gates: Float[Tensor, " candidates"]
    ) -> Float[Tensor, "candidates batch"]:
        """Return the loss of each sample when candidate c's gate is `gates[c]` (differentiable in the gates)."""
        return self.network.loss.of_candidates(self.outputs(group, candidates, gates), self.batch.targets)

    def outputs(
        self, group: Group, candidates: Int[Tensor, " candidates"], gates: Float[Tensor, " candidates"]
    ) -> Float[Tensor, "candidates batch ..."]:
        """Return the outputs when candidate c's gate is `gates[c]`, all other gates as they are."""
        path = self._route(group)
        ids = candidates.to(gates.device) + self.network.trace.ids_of(group).start
        entered = {
            node: _changed_reader(self.values, self.network, node, site, ids, gates)
            for node, site in path.entrances.items()
        }
        if path.downstream[-1] is path.program.output and len(path.downstream) == len(entered) == 1:
            return entered[path.program.output]
        return torch.vmap(lambda *change: self._downstream(path, *change))(entered, ids, gates)

    def _route(self, group: Group) -> Route:
        return route(self.network.program, self.network.trace.ids_of(group))

    def _downstream(self, path: Route, entered: dict[Node, Tensor], neuron: Tensor, gate: Tensor) -> Tensor:
        """Run what lies downstream for one candidate (vmap runs it for all)."""
        values: dict[Node, Any] = {**self.values, **entered}
        present = self.network.gating()

        def gating(site: Site, value: Tensor) -> Tensor:
            if present is not None:
                value = present(site, value)
            if site not in path.sites:
                return value
            ids = shaped_along(path.program.ids[site], site.axis, value.dim())
            return value * torch.where(ids == neuron, gate, 1.0)

        for node in path.downstream:
            if node not in entered:
                values[node] = path.program.call(node, values, gating)
        return values[path.program.output]  # type: ignore[no-any-return]


def _changed_reader(
    values: dict[Node, Any], network: GatedNetwork, node: Node, site: Site, ids: Tensor, gates: Tensor
) -> Float[Tensor, "candidates batch ..."]:
    """What a reader gives for each candidate: its cached output, changed by the candidate's contribution."""
    columns, padding = _columns(network.program.ids[site], ids)
    return CONTRIBUTIONS[_operator(node)](values, node, columns, padding, gates - 1)


def _columns(ids_at_site: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """For each candidate, where it is read (padded to one length), and 1 for real places, 0 for padding."""
    found = ids_at_site[None, :] == ids[:, None]
    width = int(found.sum(1).max())
    places = torch.argsort(found.to(torch.int8), dim=1, descending=True, stable=True)[:, :width]
    return places, found.gather(1, places)


def _dense_change(
    values: dict[Node, Any], node: Node, columns: Tensor, real: Tensor, change: Tensor
) -> Float[Tensor, "candidates batch ... outputs"]:
    """`out + change_c * sum over c's columns of x[:, column] W[:, column]^T`, a matrix of low rank for each c."""
    x, weight = values[node.args[0]], values[node.args[1]]  # type: ignore[index]
    out = values[node]
    read = x.flatten(0, -2).index_select(1, columns.flatten()).unflatten(1, columns.shape).movedim(1, 0)
    rows = weight.T[columns] * (real * change[:, None])[..., None].to(weight.dtype)
    flat = out.flatten(0, -2)
    if columns.shape[1] == 1:
        changed = torch.addcmul(flat, read, rows)
    else:
        changed = torch.baddbmm(flat.expand(len(columns), *flat.shape), read, rows)
    return changed.unflatten(1, out.shape[:-1])  # type: ignore[no-any-return]


def _convolution_change(
    values: dict[Node, Any], node: Node, columns: Tensor, real: Tensor, change: Tensor
) -> Float[Tensor, "candidates batch channels ..."]:
    """`out + change_c * conv(x[:, c's channels], W[:, c's channels])`: one grouped convolution for all c."""
    x, kernel = values[node.args[0]], values[node.args[1]]  # type: ignore[index]
    out = values[node]
    num_candidates, width = columns.shape
    kernels = kernel[:, columns.flatten()].unflatten(1, columns.shape).movedim(1, 0)
    scale = (real * change[:, None]).to(kernel.dtype)
    kernels = kernels * scale.view(num_candidates, 1, width, *[1] * (kernel.dim() - 2))
    args = [x[:, columns.flatten()], kernels.flatten(0, 1), None, *node.args[3:6]]
    changed = node.target(*args, groups=num_candidates)  # type: ignore[operator]
    return out + changed.unflatten(1, (num_candidates, -1)).movedim(1, 0)  # type: ignore[no-any-return]


def _operator(node: Node) -> str:
    return str(node.target).removeprefix("aten.").split(".")[0]


CONTRIBUTIONS = {
    "linear": _dense_change,
    "conv1d": _convolution_change,
    "conv2d": _convolution_change,
    "conv3d": _convolution_change,
}
