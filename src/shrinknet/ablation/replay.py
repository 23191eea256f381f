"""Replay: one forward pass is kept, and a change of one neuron's gate is run downstream of its readers only.

A neuron read by a dense layer or a convolution is a low-rank change of what that layer already computed:
`reader(x with gate g) = reader(x) + (g - 1) * (the neuron's own contribution)`. So the reader is not run again; what
lies behind it is, for many candidate neurons at once. Candidates come in chunks, so that memory stays within a
bound whatever the number of neurons and samples.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.fx import Node

from shrinknet.data import Batch
from shrinknet.gates import GatedNetwork, shaped_along
from shrinknet.graph.call import Site, is_factory
from shrinknet.graph.operators import is_elementwise, operator_name
from shrinknet.graph.rules.conv import num_groups
from shrinknet.graph.widths import shape_of
from shrinknet.program import Program
from shrinknet.records import Group

CHUNK_ELEMENTS = 2**20
"""Elements of the largest value replayed at once: a few megabytes, which bounds memory and stays in the caches."""


@dataclass(frozen=True)
class Route:
    """How a change of one group's gates travels: the reading sites and the nodes downstream of them."""

    program: Program
    neurons: range
    sites: frozenset[Site]

    @cached_property
    def downstream(self) -> tuple[Node, ...]:
        """The nodes whose value depends on the group's gates, in the order in which they run."""
        reading = {site.node for site in self.sites}
        found: dict[Node, None] = {}
        for node in self.program.nodes:
            depends = not is_factory(node) and any(given in found for given in node.all_input_nodes)
            if node.name in reading or depends:
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
            and operator_name(nodes[site.node]) in CONTRIBUTIONS
            and num_groups(nodes[site.node]) == 1
        }

    @cached_property
    def places(self) -> dict[Site, tuple[Tensor, Tensor]]:
        """For each site and neuron, where the neuron is read (padded to one length), and 1 there, 0 for padding."""
        return {site: _places(self.program.ids[site], self.neurons) for site in self.sites}

    @cached_property
    def is_elementwise(self) -> bool:
        """Whether only element-wise operators lie behind the entrances: candidates then need no bookkeeping."""
        behind = (node for node in self.downstream if node not in self.entrances)
        return all(is_elementwise(node) for node in behind)

    @cached_property
    def elements_per_sample(self) -> int:
        """The size of the largest value that a replay holds, for one sample and one candidate."""
        behind = (shape_of(node.meta["val"]) for node in self.downstream if isinstance(node.meta["val"], Tensor))
        read = ((shape_of(self.program.source(site).meta["val"]), site) for site in self.entrances.values())
        return max(
            [
                *(math.prod(shape[1:]) for shape in behind),
                *(math.prod(shape[1:]) // shape[site.axis] * self.places[site][0].shape[1] for shape, site in read),
                1,
            ]
        )


@lru_cache(maxsize=1024)
def route(program: Program, group_ids: range) -> Route:
    """Return the route of the group with these neuron ids (found once for each program)."""
    sites = [
        site for site, ids in program.ids.items() if bool(((ids >= group_ids.start) & (ids < group_ids.stop)).any())
    ]
    return Route(program, group_ids, frozenset(sites))


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Make the C library keep the memory of freed chunks for the next ones.

    glibc hands blocks back to the system as long as it has seen none larger freed, and every chunk then pays for its
    page faults more than for its arithmetic. A block just below glibc's bound (32 MiB), freed once and never touched,
    raises that threshold for the process.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


class Replay:
    """One forward pass over one batch, from which candidates are replayed.

    Args:
        network: the masked network as it is now.
        batch: the samples.

    Cost: one forward pass; memory for the values that readers and their downstream need.
    """

    def __init__(self, network: GatedNetwork, batch: Batch) -> None:
        keep_freed_memory()
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
        size = self._route(group).elements_per_sample * len(self.batch)
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
        candidates = candidates.to(gates.device)
        entered = {
            node: self._changed_reader(path, node, site, candidates, gates) for node, site in path.entrances.items()
        }
        neurons = candidates + path.neurons.start
        if path.is_elementwise:
            return self._downstream(path, entered, neurons, gates)
        return torch.vmap(lambda *change: self._downstream(path, *change))(entered, neurons, gates)

    def _changed_reader(
        self, path: Route, node: Node, site: Site, candidates: Tensor, gates: Tensor
    ) -> Float[Tensor, "candidates batch ..."]:
        """What a reader gives for each candidate: its cached output, changed by the candidate's contribution."""
        places, real = (table[candidates] for table in path.places[site])
        return CONTRIBUTIONS[operator_name(node)](self.values, node, places, real, gates - 1)

    def _route(self, group: Group) -> Route:
        return route(self.network.program, self.network.trace.ids_of(group))

    def _downstream(self, path: Route, entered: dict[Node, Tensor], neuron: Tensor, gate: Tensor) -> Tensor:
        """Run what lies downstream for one candidate (vmap runs it for all)."""
        values: dict[Node, Any] = {**self.values, **entered}
        present = self.network.gating()

        def gating(site: Site, value: Tensor) -> Tensor | None:
            factors = None if present is None else present(site, value)
            if site not in path.sites:
                return factors
            ids = shaped_along(path.program.ids[site], site.axis, value.dim())
            changed = torch.where(ids == neuron, gate, 1.0)
            return changed if factors is None else factors * changed

        for node in path.downstream:
            if node not in entered:
                values[node] = path.program.call(node, values, gating, plain=True)
        return values[path.program.output]  # type: ignore[no-any-return]


def _places(ids_at_site: Tensor, neurons: range) -> tuple[Tensor, Tensor]:
    found = ids_at_site[None, :] == torch.tensor(list(neurons), device=ids_at_site.device)[:, None]
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


CONTRIBUTIONS = {
    "linear": _dense_change,
    "conv1d": _convolution_change,
    "conv2d": _convolution_change,
    "conv3d": _convolution_change,
}
