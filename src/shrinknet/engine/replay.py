"""Replay: one forward pass is kept, and a change of one neuron's gate is run downstream of its readers only.

The readers themselves are changed by a matrix of low rank (`low_rank.py`). What lies behind them is run for many
candidate neurons at once: each candidate has a lane of its own, the samples once over, along the axis of the samples.
Candidates come in chunks, so that memory stays within a bound whatever the number of neurons and samples.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.fx import Node

from shrinknet.core.records import Group
from shrinknet.core.units import counted
from shrinknet.engine.closed_form import LastLayers, closed_form
from shrinknet.engine.gates import GatedNetwork, shaped_along
from shrinknet.engine.low_rank import CHANGES
from shrinknet.engine.program import Gating, has_samples
from shrinknet.engine.route import Route, route
from shrinknet.graph.call import Site
from shrinknet.graph.operators import operator_name
from shrinknet.task.data import Batch
from shrinknet.task.trees import of_each, tensors_of, with_tensors

CHUNK_ELEMENTS = 2**20
"""Elements of the largest value replayed at once: a few megabytes, which bounds memory and stays in the caches."""


MOST_SHOWN = 8
"""How many groups are named in one line."""

LEAST_SAMPLES = 4
"""Fewer samples at once would leave a forward pass with too little to do for each weight that it reads."""


def keep_freed_memory() -> None:
    """Make the C library keep the memory of freed chunks for the next ones.

    glibc hands blocks back to the system as long as it has seen none larger freed, and every chunk then pays for its
    page faults more than for its arithmetic. A block just below glibc's bound (32 MiB), freed once and never touched,
    raises that threshold for the process; once more costs a few microseconds.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def samples_at_once(network: GatedNetwork) -> int:
    """Return how many samples a batch should have for a replay: one lane of them fills the caches, and no more."""
    return max(LEAST_SAMPLES, CHUNK_ELEMENTS // largest_per_sample(network))


def largest_per_sample(network: GatedNetwork) -> int:
    """Return how many elements the largest value has that a replay of one sample and candidate holds."""
    paths = (route(network.passes.program, network.trace.ids_of(group)) for group in network.groups)
    return max(path.elements_per_sample for path in paths)


def chunks_text(network: GatedNetwork, num_samples: int) -> str:
    """Say how scoring is cut up: samples in a batch, and for each group how many candidates are replayed at once."""
    parts = []
    for group in network.groups:
        path = route(network.passes.program, network.trace.ids_of(group))
        at_once = min(group.width, max(1, CHUNK_ELEMENTS // (path.elements_per_sample * num_samples)))
        parts.append(f"{at_once} of {group.width} in {group.name!r}")
    more, samples = len(parts) - MOST_SHOWN, counted(num_samples, "sample")
    shown = ", ".join(parts[:MOST_SHOWN]) + (f" and {counted(more, 'group')} more" if more > 0 else "")
    allowed = int(network.program.scoring.memory) / 2**20
    return f"Memory for scoring {allowed:,.0f} MiB: batches of {samples}; candidates at once: {shown}."


class Replay:
    """One forward pass over one batch, from which candidates are replayed.

    Args:
        network: the masked network as it is now.
        batch: the samples.

    Cost: one forward pass; memory for the values that the groups' routes read. Where these do not fit, a pass for as
    many groups at a time as do.
    """

    def __init__(self, network: GatedNetwork, batch: Batch) -> None:
        keep_freed_memory()
        self.network, self.batch, self.program = network, batch, network.passes.program
        self.values = network.kept_values(batch, self._readable(network.groups))
        self._layouts = network.passes.layouts(batch)
        self._beside: dict[tuple[Node, int], Any] = {}
        self._last_layers: dict[str, LastLayers | None] = {}

    @cached_property
    def losses_before(self) -> Float[Tensor, " batch"]:
        """The loss of each sample as the network is now."""
        return self.network.loss.of(self.program.judged(self.values), self.batch.targets)

    def chunks(self, group: Group, candidates: Int[Tensor, " candidates"]) -> Iterator[Int[Tensor, " some"]]:
        """Yield candidates, as many at a time as a replay holds."""
        size = self._route(group).elements_per_sample * len(self.batch)
        self._beside.clear()  # another group stands beside other values
        yield from candidates.split(max(1, CHUNK_ELEMENTS // size)) if len(candidates) else ()

    def rises(
        self, group: Group, candidates: Int[Tensor, " candidates"], gates: Float[Tensor, " candidates"] | None = None
    ) -> Float[Tensor, "candidates batch"]:
        """Return the rise of each sample's loss when each candidate's gate is `gates[c]`: 0 where left out.

        A candidate that is gone comes back so: its gate goes from 0 to `gates[c]`.
        """
        if (last_layer := self._last_layer(group)) is not None:
            return last_layer.rises(candidates, gates)
        parts = list(self._rises_in_parts(group, candidates, gates))
        return torch.cat(parts) if parts else self.losses_before.new_zeros(0, len(self.batch))

    def summed_rises(
        self, group: Group, candidates: Int[Tensor, " candidates"], gates: Float[Tensor, " candidates"] | None = None
    ) -> Float[Tensor, " candidates"]:
        """Return the rise of the batch's summed loss when each candidate's gate is `gates[c]`: 0 where left out."""
        if (last_layer := self._last_layer(group)) is not None:
            return last_layer.summed_rises(candidates, gates, compiled=self.program.scoring.compile)
        parts = [rises.sum(1, dtype=torch.float64) for rises in self._rises_in_parts(group, candidates, gates)]
        return torch.cat(parts) if parts else self.losses_before.new_zeros(0, dtype=torch.float64)

    def _rises_in_parts(
        self, group: Group, candidates: Tensor, gates: Tensor | None
    ) -> Iterator[Float[Tensor, "some batch"]]:
        """The rises of as many candidates at a time as a replay holds."""
        gates = self.losses_before.new_zeros(len(candidates)) if gates is None else gates
        place = 0
        for chunk in self.chunks(group, candidates):
            yield self.losses(group, chunk, gates[place : place + len(chunk)]) - self.losses_before
            place += len(chunk)

    def losses(
        self,
        group: Group,
        candidates: Int[Tensor, " candidates"],
        gates: Float[Tensor, " candidates"],
        *,
        decomposed: bool = False,
    ) -> Float[Tensor, "candidates batch"]:
        """Return the loss of each sample when candidate c's gate is `gates[c]` (differentiable in the gates)."""
        return self.network.loss.of_candidates(
            self.outputs(group, candidates, gates, decomposed=decomposed), self.batch.targets
        )

    def outputs(
        self,
        group: Group,
        candidates: Int[Tensor, " candidates"],
        gates: Float[Tensor, " candidates"],
        *,
        decomposed: bool = False,
    ) -> Any:
        """Return outputs [candidates, batch, ...] when candidate c's gate is `gates[c]`, all other gates as they are.

        `decomposed` asks for operators that second derivatives follow.
        """
        path = self._route(group)
        candidates = candidates.to(gates.device)
        entered = {
            node: self._changed_reader(path, node, site, candidates, gates, decomposed)
            for node, site in path.entrances.items()
        }
        neurons = candidates + path.neurons.start
        if path.has_lanes:
            return self._in_lanes(path, entered, neurons, gates, decomposed)
        outputs = torch.vmap(lambda *change: tuple(tensors_of(self._one(path, *change))))(entered, neurons, gates)
        return with_tensors(self.program.judged(self.values), outputs)

    def contributions(
        self, group: Group, candidates: Int[Tensor, " candidates"]
    ) -> list[Float[Tensor, "candidates batch ..."]]:
        """Return what each candidate adds to the outputs of each reader that is reached by no other gate first."""
        path = self._route(group)
        gone = self.losses_before.new_zeros(len(candidates))
        return [
            self.values[node] - self._changed_reader(path, node, site, candidates, gone, decomposed=True)
            for node, site in path.entrances.items()
        ]

    def _last_layer(self, group: Group) -> LastLayers | None:
        """What the closed form needs, where there is one for that group."""
        if group.name not in self._last_layers:
            path = self._route(group)
            tail = closed_form(path, self.network.loss)
            self._last_layers[group.name] = (
                None
                if tail is None
                else LastLayers(self.network, path, tail, self.values, self._layouts, self.batch.targets)
            )
        return self._last_layers[group.name]

    def _route(self, group: Group) -> Route:
        """How a group is read; the values that its replay reads are there from now on."""
        path = self._path(group)
        if not path.reads <= self.values.keys():
            self._beside.clear()
            self.values = {}  # what was there goes before the pass is run again
            here = self.network.groups.index(group)
            self.values = self.network.kept_values(self.batch, self._readable(self.network.groups[here:]))
        return path

    def _path(self, group: Group) -> Route:
        return route(self.program, self.network.trace.ids_of(group))

    def _readable(self, groups: Sequence[Group]) -> frozenset[Node]:
        """The values that the first of some groups read: of as many as the memory for one pass holds."""
        held, allowed = self.program.held, self.program.scoring.pass_bytes // len(self.batch)
        read = frozenset[Node]()
        for group in groups:
            more = read | self._path(group).reads
            if read and held.while_running + held.of(more) > allowed:
                break
            read = more
        return read

    def _changed_reader(
        self, path: Route, node: Node, site: Site, candidates: Tensor, gates: Tensor, decomposed: bool
    ) -> Float[Tensor, "candidates batch ..."]:
        """What a reader gives for each candidate: its cached output, changed by the candidate's contribution."""
        places, real = (table[candidates] for table in path.places[site])
        args, _ = self.program.arguments(node, self.values)
        args[0] = self.network.residual_at(site, args[0])
        change, moved = CHANGES[operator_name(node)], gates - self._present[candidates + path.neurons.start].to(gates)
        return change(node.target, args, self.values[node], places, real * moved[:, None], decomposed=decomposed)

    @cached_property
    def _present(self) -> Tensor:
        return torch.from_numpy(self.network.present).to(self.program.device)

    def _in_lanes(
        self, path: Route, entered: dict[Node, Tensor], neurons: Tensor, gates: Tensor, decomposed: bool
    ) -> Any:
        """Run what lies behind the readers for all candidates, each in a lane of its own along the samples' axis."""
        num_lanes = len(neurons)
        values: dict[Node, Any] = dict(self.program.constants)
        for node, value in entered.items():
            values[node] = self.program.samples[node].in_lanes(value)
        for node in path.beside:
            values[node] = self._in_every_lane(node, num_lanes)
        gating = self._gating_of_lanes(path, neurons, gates)
        for node in path.replayed:
            if decomposed:
                values[node] = self.program.call(node, values, gating, decomposed=True)
            else:
                values[node] = self._overwriting(path, node, values, gating)
            for dead in path.last_reader.get(node, ()):
                del values[dead]
        for node in self.program.outputs_of:  # what no candidate changes has no lanes yet
            if node not in values:
                values[node] = self._in_every_lane(node, num_lanes)
        return of_each(self.program.judged(values), lambda output: output.unflatten(0, (num_lanes, -1)))

    def _overwriting(self, path: Route, node: Node, values: dict[Node, Any], gating: Gating) -> Any:
        """Run one node; what nothing reads afterwards is overwritten."""
        if node in path.gated_in_place:
            (site,) = self.program.sites[node.name]
            value = values[self.program.source(site)]
            value *= gating(site, value)
            return self.program.call(node, values, None)
        return self.program.call(node, values, gating, target=path.in_place.get(node))

    def _in_every_lane(self, node: Node, num_lanes: int) -> Any:
        """A value that no candidate changes, repeated for each lane (once for all chunks of a group)."""
        if (node, num_lanes) not in self._beside:
            value, traced = self.values[node], node.meta["val"]
            if isinstance(traced, torch.SymInt):
                value = value * num_lanes
            elif isinstance(traced, Tensor) and has_samples(traced):
                value = self.program.samples[node].repeated(value, num_lanes)
            self._beside[node, num_lanes] = value
        return self._beside[node, num_lanes]

    def _gating_of_lanes(self, path: Route, neurons: Tensor, gates: Tensor) -> Gating:
        """The present gates, each lane with its own candidate's gate changed."""
        present, num_samples = self.network.gating(), len(self.batch)

        def gating(site: Site, value: Tensor) -> Tensor | None:
            factors = None if present is None else present(site, value)
            if site not in path.sites:
                return factors
            samples, ids = self.program.samples[self.program.source(site)], self.program.ids[site]
            now = 1.0 if factors is None else self._present[ids].to(gates)
            changed = torch.where(ids == neurons[:, None], gates[:, None], now).to(value.dtype)
            rows = samples.spread(changed[:, None].expand(-1, num_samples, -1).flatten(0, 1))
            view = [1] * value.dim()
            view[samples.axis], view[site.axis] = rows.shape
            return (rows if samples.axis < site.axis else rows.T).reshape(view)

        return gating

    def _one(self, path: Route, entered: dict[Node, Tensor], neuron: Tensor, gate: Tensor) -> Any:
        """Run what lies behind the readers for one candidate (vmap runs it for all)."""
        values: dict[Node, Any] = {**self.values, **entered}
        present = self.network.gating()

        def gating(site: Site, value: Tensor) -> Tensor | None:
            factors = None if present is None else present(site, value)
            if site not in path.sites:
                return factors
            ids = shaped_along(self.program.ids[site], site.axis, value.dim())
            return torch.where(ids == neuron, gate, 1.0 if factors is None else factors)

        for node in path.replayed:
            values[node] = self.program.call(node, values, gating, decomposed=True)
        return self.program.judged(values)
