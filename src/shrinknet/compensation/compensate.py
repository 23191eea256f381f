"""Compensation: the weights that read a removed neuron make up for it, without retraining.

Everything is measured against what each reader gave in the untouched network, on the calibration data:

    mean            the bias is set so that each reader gives the same mean
    constant        biases go on from there to where the loss is least (constant.py)
    scale           the bias, and one factor for each survivor, are fit so that what each reader gives changes least
    least-squares   weights and bias on the survivors are refit so that what it gives changes least (least_squares.py)
    newton          the same; but for the reader that makes the outputs, a change counts by the loss's own curvature
                    there (curvature.py)

Readers are refit in their order, on what the refit layers before them give. The statistics of a batch norm that reads
something new move with it. A reader that reads nothing new keeps its bits.

Sources: Hassibi and Stork 1993 (Optimal Brain Surgeon), Stahlberger and Riedmiller 1997 (for whole units).
"""

import logging
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from shrinknet.compensation.constant import least_loss
from shrinknet.compensation.curvature import Bend, by_curvature, curvatures, with_floor
from shrinknet.compensation.kinds import KINDS
from shrinknet.compensation.least_squares import (
    FOLDS,
    RIDGE,
    Fit,
    Moments,
    best_ridge,
    least_squares,
    means,
    residual_maker,
    scaled,
    with_ones,
)
from shrinknet.compensation.none import NoCompensation, Portions
from shrinknet.compensation.readers import Reader, downstream, is_own, readers
from shrinknet.core.records import Measures, Neuron
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.passes import Passes
from shrinknet.engine.program import Gating, Program
from shrinknet.graph.call import Site, argument, argument_at
from shrinknet.graph.operators import is_elementwise, operator_name
from shrinknet.task.data import Batch, joined_batches
from shrinknet.task.task import Task

log = logging.getLogger(__name__)


MANY = 10
"""With so many samples for each unknown the ridge is not chosen: any small one does."""

MOST_ELEMENTS = 2**24
"""A fit by curvature keeps a matrix [outputs, outputs] for each sample; where these are larger, it is least squares."""


class Compensation:
    """What the untouched network gave, and the network as the last refit left it.

    Args:
        kind: one of `KINDS` but "none"; of "joint" the search's part: least squares.
        task: its calibration data; as many rows as memory allows are looked at.
        network: the untouched network.

    Weights are held near the present ones by a ridge: where there are fewer than ten samples for each unknown of a
    reader, the one that samples left out choose at its first fit (`least_squares.best_ridge`); so few rows want a
    stronger ridge, and no more rows than unknowns are asked for.

    Cost: one pass that keeps every value, twice; each refit runs what lies behind the removed neurons once.
    """

    def __init__(self, kind: str, task: Task, network: GatedNetwork, ridge: float | None = None) -> None:
        self.kind, self.network, self.ridge = KINDS[kind], network, ridge
        self.batch = _some_rows(task, network)
        own = Passes(network.program, network.program.scoring.kept_bytes)
        self.bare = replace(network, passes=own)  # the untouched network, with passes of its own
        self.readers: dict[Node, list[Reader]] = {}
        for reader in readers(network.program):
            self.readers.setdefault(reader.node, []).append(reader)
        with torch.no_grad():
            self.start = network.program.run(self.batch.inputs, None, keep=True)
        self.first = dict(network.program.constants)
        self.values, self.latest = dict(self.start), self.bare
        self._moments: dict[Reader, Sequence[Moments]] = {}
        self._ridges: dict[Reader, float] = {}
        self._bends: dict[Reader, Bend] = {}
        self._grams: dict[Reader, Tensor] = {}

    def trial(self) -> "Compensation":
        """Return one whose refits leave this one as it is; what both know they share.

        Memory: for the values that its refits change.
        """
        other = copy(self)
        other.values, other._ridges = dict(self.values), dict(self._ridges)
        other._moments, other._bends, other._grams = dict(self._moments), dict(self._bends), dict(self._grams)
        return other

    def restart(self) -> GatedNetwork:
        """Go back to the untouched network, and return it."""
        self.values, self.latest = dict(self.start), self.bare
        for known in (self._moments, self._bends, self._grams, self._ridges):
            known.clear()
        return self.latest

    def refit(self, network: GatedNetwork, removed: Sequence[Neuron]) -> GatedNetwork:
        """Return a masked network whose readers make up for the neurons that were just removed."""
        starts = {group.name: network.trace.ids_of(group).start for group in network.groups}
        ids = [starts[neuron.group] + neuron.index for neuron in removed if neuron.group in starts]
        work = _Refit(self, network, sorted(ids))
        with torch.no_grad():
            work.go()
        self.values = work.values
        self.latest = network.refit(work.tensors)
        return self.latest

    def after(self, portions: Portions) -> GatedNetwork:
        """Return the untouched network without some neurons, which went in portions.

        The bits are those of the time when they went first, one portion at each step.

        Cost: one refit for each portion, unless the last refit ended just there.
        """
        portions = list(filter(None, portions))
        bare = self.network.without(neuron for some in portions for neuron in some)
        if not portions:
            return bare
        if bool((self.latest.present == bare.present).all()):
            return self.latest
        here = self.restart()
        for some in portions:
            here = self.refit(here.without(some), some)
        return here

    def bare_measures(self, network: GatedNetwork, measured: Callable[[GatedNetwork], Measures]) -> Measures | None:
        """Measure the untouched network without the neurons that a refit network lacks."""
        return measured(self.bare.with_present(network.present))

    def scoring(self, network: GatedNetwork) -> GatedNetwork:
        """Return the network as ablation should see it: a reader that loses a neuron makes up for it at once.

        Exact for dense readers under least squares. Those of convolutions are taken position by position: what the
        other channels say at the same place; their refit, which sees whole patches, does at least as well. Readers
        behind other readers of the same neurons see them gone.

        Cost: an inverse [elements, elements] for each reader; a product of what it reads on the calibration data with
        itself, once for each refit of what is before it.
        """
        matrices: dict[Site, Tensor] = {}
        present = torch.from_numpy(network.present).to(network.program.device)
        for reader in (one for some in self.readers.values() for one in some):
            if not network.program.is_product(reader.node, reader.site):
                continue
            gram, owners = self._gram(reader), network.program.ids[reader.site]
            if not self.kind.fits_weights:
                matrix = torch.cat([torch.eye(len(owners), dtype=gram.dtype, device=gram.device), -gram[-1:, :-1]])
            else:
                matrix = residual_maker(gram, owners, present[owners], self._ridges.get(reader, self.ridge or RIDGE))
            matrices[reader.site] = matrix
        return replace(network, residual_maker=matrices)

    def _gram(self, reader: Reader) -> Tensor:
        """Return the mean of x x^T (x: one place of what a reader reads, ones last), remembered until that changes."""
        if reader not in self._grams:
            value = reader.reads(self.values, self.start).movedim(reader.site.axis, -1)
            rows = with_ones(value.flatten(0, -2))
            self._grams[reader] = (rows.T @ rows).double() / len(rows)
        return self._grams[reader]

    def moments(self, reader: Reader, x: Tensor) -> Sequence[Moments]:
        """Return the moments of a reader on each part of what it reads now, remembered until that changes."""
        if reader not in self._moments:
            y, count = reader.gives(self.start), FOLDS if self._chooses_ridge(reader) else 1
            parts = [Moments.of(reader, x[place::count], y[place::count]) for place in range(count)]
            self._moments[reader] = parts
        return self._moments[reader]

    def _chooses_ridge(self, reader: Reader) -> bool:
        samples = len(self.batch) * reader.num_apart
        return self.ridge is None and len(self.batch) >= FOLDS and samples < MANY * (len(reader.owners) + 1)

    def ridge_of(self, reader: Reader, parts: Sequence[Moments], fit: Fit) -> float:
        """Return how strongly a reader's weights are held: chosen at its first fit, and then the same."""
        if reader not in self._ridges:
            self._ridges[reader] = best_ridge(parts, fit) if len(parts) > 1 else self.ridge or RIDGE
        return self._ridges[reader]

    def bend(self, reader: Reader, x: Tensor) -> "Bend":
        """Return the loss's second-order model around the untouched network, remembered until what is read changes."""
        if reader not in self._bends:
            curvature = with_floor(curvatures(self.latest, reader.node, self.start, self.batch.targets))
            self._bends[reader] = Bend(with_ones(x).double(), self.start[reader.node].double(), curvature)
        return self._bends[reader]

    def forget(self, node: Node) -> None:
        """Drop what is remembered of an operator's readers: it reads something new."""
        for reader in self.readers.get(node, ()):
            for known in (self._moments, self._bends, self._grams):
                known.pop(reader, None)


class _Refit:
    """One refit: the nodes behind the removed neurons run once more, and readers are fit on the way."""

    def __init__(self, whole: Compensation, network: GatedNetwork, removed: Sequence[int]) -> None:
        self.whole, self.network, self.removed = whole, network, removed
        given = network.program
        self.program = Program(given.trace, given.asked_dtype, given.scoring, given.tensors, given.reads)
        self.present = torch.from_numpy(network.present).to(self.program.device)
        self.values: dict[Node, Any] = {**whole.values, **self.program.constants}
        self.changed: set[Node] = set()
        self.tensors: dict[str, Tensor] = {}
        self.fitted: list[Reader] = []

    def go(self) -> None:
        """Run."""
        gating = self.network.gating()
        for node in self.program.nodes:
            reads_new = not self.changed.isdisjoint(node.all_input_nodes)
            if not reads_new and not self._reads_removed(node):
                continue
            if reads_new:
                self.whole.forget(node)
            for reader in self.whole.readers.get(node, ()):
                if self._reads_anew(reader):
                    self._fit(reader)
            if reads_new and operator_name(node) == "batch_norm":
                self._move_statistics(node)
            self.values[node] = self.program.call(node, self.values, gating)
            self.changed.add(node)
        if self.whole.kind.follows_the_loss and not self.whole.kind.lays_out_rows:
            self._go_on_to_the_least_loss(gating)

    def _go_on_to_the_least_loss(self, gating: Gating | None) -> None:
        """Move the biases that were just fit, and run what lies behind them again."""
        refit = self.network.refit(self.tensors)
        for bias, value in least_loss(refit, self.whole.batch, self.values, self.fitted).items():
            self._set(bias, value)
        nodes = [reader.node for reader in self.fitted]
        behind = {*nodes, *downstream(nodes)}
        for node in self.program.nodes:
            if node in behind:
                self.values[node] = self.program.call(node, self.values, gating)

    def _reads_removed(self, node: Node) -> bool:
        sites = self.program.sites.get(node.name, ())
        return any(np.isin(self.program.numbers[site], self.removed).any() for site in sites)

    def _reads_anew(self, reader: Reader) -> bool:
        """Whether what it reads has changed, or lost a neuron: of a recurrent layer's two readers perhaps one."""
        source = argument_at(reader.node.args, reader.site.argument)
        removed = torch.tensor(self.removed, device=reader.owners.device)
        return source in self.changed or bool(torch.isin(reader.owners, removed).any())

    def _set(self, constant: Node, value: Tensor) -> None:
        value = value.to(self.values[constant].dtype)
        self.values[constant] = self.program.constants[constant] = self.tensors[str(constant.target)] = value

    def _fit(self, reader: Reader) -> None:
        self.fitted.append(reader)
        x = reader.reads(self.values, self.whole.start)
        alive = functional.pad(self.present[reader.owners], (0, 1), value=reader.bias is not None)
        weights = reader.matrix(self.values)
        if not self.whole.kind.lays_out_rows:
            if reader.bias is not None:
                read, given = means(reader, x, reader.gives(self.whole.start))
                self._set_bias(reader, given - weights[:, :-1] @ torch.where(alive[:-1], read, 0.0))
            return
        refit = self._refit(reader, x, weights, alive)
        columns = torch.where(alive[:-1], refit[:, :-1], weights[:, :-1])
        self._set(reader.weight, reader.weights_of(columns, self.values[reader.weight]))
        self._set_bias(reader, refit[:, -1])

    def _set_bias(self, reader: Reader, value: Tensor) -> None:
        if reader.bias is not None:
            self._set(reader.bias, reader.bias_of(value, self.values[reader.bias]))

    def _refit(self, reader: Reader, x: Tensor, weights: Tensor, alive: Tensor) -> Tensor:
        if self.whole.kind.follows_the_loss and self._makes_the_outputs(reader):
            return by_curvature(self.whole.bend(reader, x), weights, alive, self.whole.ridge or RIDGE)

        def fit(moments: Moments, ridge: float) -> Tensor:
            """The weights that moments and a ridge lead to."""
            if self.whole.kind.fits_factors:
                return scaled(moments, weights, reader.owners, alive, ridge)
            return least_squares(moments, weights, alive, ridge)

        parts = self.whole.moments(reader, x)
        return fit(Moments.together(parts), self.whole.ridge_of(reader, parts, fit))

    def _makes_the_outputs(self, reader: Reader) -> bool:
        if not reader.is_dense or not reader.gives_value:
            return False
        y = self.whole.start[reader.node]
        if y.dim() != 2 or y.numel() * y.shape[1] > MOST_ELEMENTS:
            return False
        behind, last = downstream([reader.node]), reader.node
        for node in (node for node in self.program.nodes if node in behind):
            if not is_elementwise(node) or node.all_input_nodes != [last]:
                return False
            last = node
        return last is self.program.output

    def _move_statistics(self, node: Node) -> None:
        """The statistics that training left move as those of the calibration data do."""
        names = ("running_mean", "running_var")
        read = [argument(node, place, name) for place, name in ((3, names[0]), (4, names[1]))]
        if any(one is None or not is_own(self.program, one) for one in read):
            return
        source = argument(node, 0, "input")
        now, before = self.values[source], self.whole.start[source]
        over = [axis for axis in range(now.dim()) if axis != 1]
        shift = now.mean(over) - before.mean(over)
        ratio = now.var(over) / before.var(over).clamp_min(torch.finfo(now.dtype).tiny)
        self._set(read[0], self.whole.first[read[0]] + shift)
        self._set(read[1], self.whole.first[read[1]] * torch.where(before.var(over) > 0, ratio, 1.0))


def compensation_of(kind: str, task: Task, network: GatedNetwork) -> Compensation | NoCompensation:
    """Return how the readers of an untouched network make up for what goes; "none": not at all."""
    return NoCompensation(network) if kind == "none" else Compensation(kind, task, network)


def _some_rows(task: Task, network: GatedNetwork) -> Batch:
    """As many calibration rows as can be held twice with every value."""
    most = int(network.program.scoring.memory) // (2 * network.program.bytes_per_sample)
    count = min(len(task.calibration), max(1, most))
    if count < len(task.calibration):
        log.info("Compensation looks at the first %s of %s rows: see `memory`.", count, len(task.calibration))
    batches = list(replace(task.calibration.rows(0, count), batch_size=count).batches())
    return joined_batches(batches)
