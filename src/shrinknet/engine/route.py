"""Routes: how a change of one group's gates travels through the graph."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.engine.program import Program, has_samples
from shrinknet.engine.samples import first_of
from shrinknet.graph.call import WEIGHTED, Site, is_factory
from shrinknet.graph.operators import ALIASES, is_elementwise, is_linear_in_pieces, operator_name
from shrinknet.graph.widths import EXAMPLE_BATCH, shape_of


@dataclass(frozen=True)
class Route:
    """How a change of one group's gates travels: the reading sites and the nodes downstream of them.

    A program holds its routes, so that they are freed with it; they know it by a reference that does not hold it.
    """

    of: ReferenceType[Program]
    neurons: range
    sites: frozenset[Site]

    @property
    def program(self) -> Program:
        """The program whose graph this is a route through."""
        program = self.of()
        assert program is not None, "a route is asked for from its program, and used while that lives"
        return program

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
        nodes, behind = {node.name: node for node in self.downstream}, set(self.downstream)
        return {
            nodes[site.node]: site
            for site in self.sites
            if behind.isdisjoint(nodes[site.node].all_input_nodes)
            and self.program.is_product(nodes[site.node], site)
            and sum(other.node == site.node for other in self.sites) == 1
        }

    @cached_property
    def replayed(self) -> tuple[Node, ...]:
        """The nodes that are run again: those behind the entrances."""
        return tuple(node for node in self.downstream if node not in self.entrances)

    @cached_property
    def beside(self) -> tuple[Node, ...]:
        """The values that do not depend on the gates and that replayed nodes read, other than constants."""
        given = dict.fromkeys(given for node in self.replayed for given in node.all_input_nodes)
        inside = {*self.downstream, *self.program.constants}
        return tuple(node for node in given if node not in inside)

    @cached_property
    def reads(self) -> frozenset[Node]:
        """The values of the kept pass that a replay reads: what the entrances read and gave, and what lies beside."""
        entered = [given for node in self.entrances for given in (node, *node.all_input_nodes)]
        return frozenset({*entered, *self.beside} - self.program.constants.keys())

    @cached_property
    def last_reader(self) -> dict[Node, list[Node]]:
        """For each replayed node, the values of the route that nothing reads after it."""
        readers = {given: node for node in self.replayed for given in node.all_input_nodes}
        dead: dict[Node, list[Node]] = {}
        for given, node in readers.items():
            if given in self.downstream and given not in self.program.outputs_of:
                dead.setdefault(node, []).append(given)
        return dead

    @cached_property
    def in_place(self) -> dict[Node, Any]:
        """The replayed element-wise nodes whose argument nothing else reads, with the operator that overwrites it.

        A pass over memory that the caches do not hold costs as much as the arithmetic of a small convolution.
        """
        found: dict[Node, Any] = {}
        for node in self.replayed:
            operator = _in_place_form(node)
            if operator is None:
                continue
            if self._is_ours_after(node, node.args[0]) and _looks_alike(node, node.args[0]):
                found[node] = operator
            elif _is_sum(node) and self._is_ours_after(node, node.args[1]) and _looks_alike(node, node.args[1]):
                found[node] = _onto_the_second
        return found

    @cached_property
    def gated_in_place(self) -> frozenset[Node]:
        """The replayed readers of the group's neurons whose input can be multiplied by its gates where it lies."""
        return frozenset(
            node
            for node in self.replayed
            if len(sites := self.program.sites.get(node.name, [])) == 1
            and sites[0] in self.sites
            and operator_name(node) not in WEIGHTED
            and self._is_ours_after(node, self.program.source(sites[0]))
        )

    def _is_ours_after(self, node: Node, given: Any) -> bool:
        """Whether a value fills memory that this route made, and nothing reads it or a view of it after that node."""
        owner = self._owners.get(given)
        return owner is not None and self._last_reads.get(owner) is node and operator_name(given) not in ALIASES

    @cached_property
    def _owners(self) -> dict[Node, Node]:
        """For each value of the route, the one whose memory it may lie in."""
        owners: dict[Node, Node] = {}
        for node in self.downstream:
            shares = self.program.shares_memory(node) and node.args[0] in owners
            owners[node] = owners[node.args[0]] if shares else node  # type: ignore[index]
        return owners

    @cached_property
    def _last_reads(self) -> dict[Node, Node]:
        """For each value that owns its memory, the last replayed node that reads it or a view of it."""
        owners = self._owners
        last = {owners[given]: node for node in self.replayed for given in node.all_input_nodes if given in owners}
        returned = {owners.get(node) for node in self.program.outputs_of}
        return {owner: node for owner, node in last.items() if owner not in returned}

    @cached_property
    def places(self) -> dict[Site, tuple[Tensor, Tensor]]:
        """For each site and neuron, where the neuron is read (padded to one length), and 1 there, 0 for padding."""
        return {site: _places(self.program.ids[site], self.neurons) for site in self.sites}

    @cached_property
    def has_lanes(self) -> bool:
        """Whether candidates can be folded into the samples: every value has one axis that counts just these."""
        depend, sized = set(self.downstream), [node.meta["val"] for node in self.beside]
        sizes = [value for value in sized if isinstance(value, torch.SymInt)]
        tensors = [node for node in (*self.downstream, *self.beside) if first_of(node) is not None]
        return (
            all(node in self.program.samples or (node not in depend and not _counts(node)) for node in tensors)
            and all(self.program.samples[node].lead for node in self.program.outputs_of if node in depend)
            and all((size.node.expr / self._samples.node.expr).is_number for size in sizes)
            and all(self._reads_samples(node) for node in self.replayed)
        )

    def _reads_samples(self, node: Node) -> bool:
        """Whether what a node reads of the group has an axis of samples (the columns of recurrent weights have not)."""
        sites = self.sites.intersection(self.program.sites.get(node.name, ()))
        return all(has_samples(self.program.source(site).meta["val"]) for site in sites)

    @property
    def _samples(self) -> torch.SymInt:
        return self.program.input.meta["val"].shape[0]  # type: ignore[no-any-return]

    @cached_property
    def bend(self) -> Node | None:
        """The value up to which the outputs are a piecewise linear function of the group's gates, each once.

        Everything behind it depends on the gates through this one value. None where there is no such value: an
        operator before it is curved, or a neuron is read again behind its own readers.
        """
        if self.program.output is self.program.end:
            return None  # several outputs
        straight, curved, bends = set[Node](), set[Node](), set[Node]()
        readers = {site.node for site in self.sites}
        for node in self.downstream:
            given = {one for one in node.all_input_nodes if one in straight}
            is_behind_a_bend = not curved.isdisjoint(node.all_input_nodes)
            if node.name in readers:
                if given or is_behind_a_bend or not self._reads_in_a_line(node):
                    return None
                straight.add(node)
            elif not is_behind_a_bend and is_linear_in_pieces(node, straight):
                straight.add(node)
            else:
                curved.add(node)
                bends |= given
        if not curved:
            return self.program.output
        return bends.pop() if len(bends) == 1 and self.program.output in curved else None

    def _reads_in_a_line(self, node: Node) -> bool:
        """Whether a reader of the group is a piecewise linear function of the gates that it multiplies."""
        sites = [site for site in self.program.sites[node.name] if site in self.sites]
        sources = {self.program.source(site) for site in sites}
        has_samples = all(self.program.samples_at(site) is not None for site in sites)
        return operator_name(node) not in WEIGHTED and has_samples and is_linear_in_pieces(node, sources)

    @cached_property
    def elements_per_sample(self) -> int:
        """The size of the largest value that a replay holds, for one sample and one candidate."""
        read = ((self.program.source(site).meta["val"], site) for site in self.entrances.values())
        return max(
            [
                *(_per_sample(node.meta["val"]) for node in self.downstream if isinstance(node.meta["val"], Tensor)),
                *(
                    _per_sample(value) // shape_of(value)[site.axis] * self.places[site][0].shape[1]
                    for value, site in read
                ),
                1,
            ]
        )


def route(program: Program, group_ids: range) -> Route:
    """Return the route of the group with these neuron ids (found once for each program)."""
    if group_ids not in program.routes:
        sites = [
            site for site, ids in program.ids.items() if bool(((ids >= group_ids.start) & (ids < group_ids.stop)).any())
        ]
        program.routes[group_ids] = Route(ref(program), group_ids, frozenset(sites))
    return program.routes[group_ids]  # type: ignore[no-any-return]


def _in_place_form(node: Node) -> Any:
    """The overload of a node's element-wise operator that writes into its first argument, if there is one."""
    overload = getattr(node.target, "_overloadname", "")
    packet = getattr(torch.ops.aten, f"{operator_name(node)}_", None) if is_elementwise(node) else None
    return getattr(packet, overload, None)


def _is_sum(node: Node) -> bool:
    return operator_name(node) == "add" and not node.kwargs and isinstance(node.args[1], Node)


def _onto_the_second(one: Tensor, other: Tensor) -> Tensor:
    return other.add_(one)


def _looks_alike(one: Node, other: Any) -> bool:
    ours, given = one.meta["val"], other.meta["val"]
    return bool(ours.shape == given.shape and ours.dtype == given.dtype)


def _per_sample(value: Tensor) -> int:
    """The elements of a traced value for one sample."""
    return math.prod(shape_of(value)) // (EXAMPLE_BATCH if has_samples(value) else 1)


def _counts(node: Node) -> bool:
    """Whether a node's value has an axis whose length depends on the batch."""
    return has_samples(node.meta["val"]) if isinstance(node.meta["val"], Tensor) else False


def _places(ids_at_site: Tensor, neurons: range) -> tuple[Tensor, Tensor]:
    """Where each neuron is read, in order, and which of these places are no padding; memory for these alone."""
    places = ((ids_at_site >= neurons.start) & (ids_at_site < neurons.stop)).nonzero()[:, 0]
    owners, order = (ids_at_site[places] - neurons.start).sort(stable=True)
    counts = owners.bincount(minlength=len(neurons))
    number = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
    table = counts.new_zeros(len(neurons), int(counts.max()))
    real = torch.zeros_like(table, dtype=torch.bool)
    table[owners, number], real[owners, number] = places[order], True
    return table, real
