"""What a ranking will cost before it is begun: operations and bytes from the graph, time from two rates of a machine.

The model: a replay multiplies what the operators behind a neuron's readers multiply, and moves each of their outputs
through memory once on the way out and once on the way in. Time is operations over one rate plus bytes over another.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.compensation.compensate import MANY
from shrinknet.compensation.least_squares import FOLDS, RIDGES
from shrinknet.compensation.readers import readers
from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Group
from shrinknet.criteria.base import Cost, find_criterion
from shrinknet.engine.closed_form import closed_form
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.memory import least_bytes
from shrinknet.engine.program import Program
from shrinknet.engine.replay import CHUNK_ELEMENTS, keep_freed_memory, largest_per_sample, samples_at_once
from shrinknet.engine.route import Route, route
from shrinknet.graph.operators import operator_name
from shrinknet.graph.widths import shape_of
from shrinknet.measure.costs import macs_of

BACKWARD = 2
"""A backward pass to the gates takes twice the time of the same operators' forward pass: as many products, slower ones,
and one more pass over memory for the gates."""

CURVED = {"sigmoid": 2, "tanh": 16, "gelu": 8, "silu": 3, "exp": 5, "softmax": 5, "log_softmax": 5, "softplus": 8}
"""Operators whose arithmetic, not their traffic, takes the time: as many times the bytes, measured on one processor."""

NUM_VALUES = 12
"""A replay goes from one value to the next, so that memory is measured over so many: more than the caches hold."""

VALUES_AT_ONCE = 8
"""So many values of a replay are there at once."""

LOSS_PASSES = 6
"""How often a loss reads or writes the outputs."""


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-accumulate operations, and bytes moved to and from memory."""

    macs: int | float = 0
    bytes: int | float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.macs + other.macs, self.bytes + other.bytes)

    def times(self, factor: int | float) -> "Work":
        """Return so many times as much."""
        return Work(self.macs * factor, self.bytes * factor)


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine does in a second."""

    macs: int | float
    bytes: int | float

    def seconds(self, work: Work) -> int | float:
        """Return how long some work takes."""
        return work.macs / self.macs + work.bytes / self.bytes


NOMINAL = Rates(macs=20e9, bytes=10e9)
"""By these rates work is turned into passes, on every machine alike: a plan does not depend on who makes it."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What some scoring will cost."""

    work: Work
    held_bytes: int
    seconds: int | float
    plain_loop_seconds: int | float


def forward_work(network: GatedNetwork) -> Work:
    """Return the work of a forward pass over one sample."""
    return _work_of(network, network.passes.program.nodes)


def replay_work(network: GatedNetwork, group: Group) -> Work:
    """Return the work of replaying one sample without one neuron of a group."""
    program, shape = network.passes.program, partial(network.trace.shape, present=network.present)
    path = route(program, network.trace.ids_of(group))
    if closed_form(path, network.loss) is not None:
        return _last_layer_work(network, path)
    changed = Work()
    for node, site in path.entrances.items():
        width = shape_of(program.source(site).meta["val"])[site.axis]
        share = path.places[site][0].shape[1] / width
        changed += Work(macs_of(node, shape) * share, 3 * _bytes_of(node))
    return changed + _work_of(network, path.replayed) + _loss_work(network)


def ranking_work(network: GatedNetwork, criterion: object, num_samples: int) -> Work:
    """Return the work of scoring every neuron that is still there.

    Raises:
        BadInputError: nobody has counted what the criterion costs.
    """
    cost = cost_of(network, criterion)
    return (_passes_work(network, cost) + _replays_work(network, cost)).times(num_samples)


def cost_of(network: GatedNetwork, criterion: object) -> Cost:
    """Return what a ranking costs, in passes.

    Raises:
        BadInputError: nobody has counted.
    """
    rule = find_criterion(criterion)
    cost = rule.cost(network)
    if cost is None:
        allowed = "one that says what it costs, such as ablation or taylor-1"
        raise BadInputError("criterion", allowed, repr(rule.name), "Time it on a part of the data instead.")
    return cost


def run_work(network: GatedNetwork, criterion: object, num_samples: int, num_removals: int, step: int = 1) -> Work:
    """Return the work of removing so many neurons, `step` at a time, ranked again after each step (Algorithm 2).

    What is there falls in a straight line from all to what is left. Passes that are replayed are kept, so that only the
    first ranking begins with a forward pass. After each step the network that is left is measured, from the readers of
    neurons on.
    """
    cost, num_steps = cost_of(network, criterion), -(-num_removals // step)
    mean_share = 1 - (num_removals - 1) / (2 * network.trace.num_neurons)
    num_passes = 1 if cost.replays else num_steps
    replays = _replays_work(network, cost).times(num_steps * mean_share)
    measuring = (_behind_gates(network) + _loss_work(network)).times(num_steps * mean_share)
    return (_passes_work(network, cost).times(num_passes) + replays + measuring).times(num_samples)


def refit_work(network: GatedNetwork, num_samples: int) -> Work:
    """Return the work, for each of so many samples, of refitting the weights of every reader by least squares.

    The rows that a reader reads are laid out, multiplied with themselves and with what it should give, and one system
    is solved for all samples (`compensation/least_squares.py`).
    """
    found = Work()
    for reader in readers(network.program):
        rows, unknowns = reader.num_positions, len(reader.owners) + 1
        products = rows * unknowns * (unknowns + reader.num_outputs)
        width = reader.weight.meta["val"].element_size()
        found += Work(products + unknowns**3 / num_samples, 3 * rows * unknowns * width)
    return found


def work_of_systems(network: GatedNetwork) -> int:
    """Return the sum of the cubes of how many unknowns each reader has: a refit solves one system for each."""
    return sum((len(reader.owners) + 1) ** 3 for reader in readers(network.program))


def first_refit(network: GatedNetwork, num_samples: int) -> tuple[Work, int]:
    """Return the work of a first refit by least squares on all samples, and the bytes of the moments that it keeps.

    Where samples are few for a reader's unknowns, its ridge is chosen by fits to parts of them, all of which are kept.
    """
    work, num_bytes = refit_work(network, num_samples).times(num_samples), 0
    for reader in readers(network.program):
        unknowns = len(reader.owners) + 1
        is_chosen = num_samples * reader.num_apart < MANY * unknowns
        work += Work(unknowns**3 * FOLDS * len(RIDGES) * is_chosen)
        num_bytes += 8 * unknowns**2 * (FOLDS if is_chosen else 1)
    return work, num_bytes


def _passes_work(network: GatedNetwork, cost: Cost) -> Work:
    """Passes through the whole network, forward and back."""
    forward = forward_work(network)
    work = forward.times(cost.forward)
    if cost.backward:
        work += _behind_gates(network).times(BACKWARD * cost.backward)
    for value, count in cost.behind.items():
        work += _behind_gates(network, value).times(BACKWARD * count)
        work += Work(count**2 * network.trace.num_neurons, 0)
    return work


def _replays_work(network: GatedNetwork, cost: Cost) -> Work:
    """What lies downstream of each neuron that is still there."""
    if not cost.replays:
        return Work()
    groups = network.groups if cost.replayed is None else cost.replayed
    return sum(
        (replay_work(network, group).times(len(network.alive(group)) * cost.replays) for group in groups), Work()
    )


def measured_rates(network: GatedNetwork) -> Rates:
    """Measure this machine's two rates: of memory, and of products in this network's own forward pass.

    Cost: about a second.
    """
    keep_freed_memory()
    program, num_samples = network.passes.program, samples_at_once(network)
    values = torch.rand(NUM_VALUES, CHUNK_ELEMENTS, device=program.device).unbind()
    bytes_per_second = 3 * NUM_VALUES * values[0].nbytes / _fastest(lambda: _add_in_a_round(values))
    inputs = tuple(_like(node.meta["val"], num_samples, program.device) for node in program.inputs)
    with torch.no_grad():
        seconds = _fastest(lambda: program.outputs(inputs, network.gating())) / num_samples
    work = forward_work(network)
    return Rates(work.macs / seconds if work.macs else math.inf, bytes_per_second)


def forecast(
    network: GatedNetwork, criterion: object, num_samples: int, rates: Rates, *, workers: int = 1, removals: int = 0
) -> Forecast:
    """Say what scoring will cost: one ranking, or a run of so many removals.

    Workers share it evenly; what they cannot share (starting, and sending the samples) is left out.
    """
    work = (
        run_work(network, criterion, num_samples, removals)
        if removals
        else ranking_work(network, criterion, num_samples)
    )
    whole = replace(network, present=network.trace.present())
    num_passes = (
        network.trace.num_neurons * max(1, removals) * (1 - max(0, removals - 1) / (2 * network.trace.num_neurons))
    )
    loop = rates.seconds(forward_work(whole).times(num_samples * num_passes))
    return Forecast(work, _held_bytes(network, num_samples), rates.seconds(work) / workers, loop)


def _held_bytes(network: GatedNetwork, num_samples: int) -> int:
    """The values of one batch's pass, as far as they are kept, and of the candidates that are replayed at once."""
    program, size = network.program, min(num_samples, samples_at_once(network))
    kept = min(size * program.held.all, max(program.scoring.pass_bytes, size * least_bytes(network)))
    return kept + VALUES_AT_ONCE * program.dtype.itemsize * max(CHUNK_ELEMENTS, size * largest_per_sample(network))


def _add_in_a_round(values: tuple[Tensor, ...]) -> None:
    made = list(values)
    for place in range(len(made)):
        made[place] = torch.add(made[place - 1], made[place - 2])


def _work_of(network: GatedNetwork, nodes: Iterable[Node]) -> Work:
    found, shape = Work(), partial(network.trace.shape, present=network.present)
    for node in nodes:
        if network.passes.program.shares_memory(node):
            continue
        weight = CURVED.get(operator_name(node), 1)
        found += Work(macs_of(node, shape), 2 * weight * _bytes_of(node))
    return found


def _behind_gates(network: GatedNetwork, end: Node | None = None) -> Work:
    """The work of the forward pass from the readers of neurons on, as far as a value depends on it."""
    program = network.passes.program
    needed, nodes = {end} if end is not None else {*_judged(program)}, list[Node]()
    for node in reversed(program.nodes):
        if node in needed:
            needed |= set(node.all_input_nodes)
            nodes.append(node)
    behind, found = set[Node](), list[Node]()
    for node in reversed(nodes):
        if node.name in program.sites or not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
            found.append(node)
    return _work_of(network, found)


def _last_layer_work(network: GatedNetwork, path: Route) -> Work:
    """One product and one sum for each output, then what follows, element by element."""
    ((reader, _),) = path.entrances.items()
    return Work(0, 3 * _bytes_of(reader)) + _work_of(network, path.replayed) + _loss_work(network)


def _loss_work(network: GatedNetwork) -> Work:
    return Work(0, LOSS_PASSES * sum(map(_bytes_of, _judged(network.passes.program))))


def _judged(program: Program) -> tuple[Node, ...]:
    """What the loss is given."""
    return program.outputs_of if program.output is program.end else (program.output,)


def _bytes_of(node: Node) -> int:
    """The bytes of a node's value for one sample."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return 0
    sizes = [int(size) for size in shape_of(value)]
    samples = any(isinstance(size, torch.SymInt) for size in value.shape)
    return math.prod(sizes) // (2 if samples else 1) * value.element_size()


def _like(value: Any, num_samples: int, device: torch.device) -> Any:
    """Numbers of the shape and kind of an input; what is no tensor stays."""
    if not isinstance(value, Tensor):
        return value
    shape = (num_samples, *shape_of(value)[1:])
    make = torch.rand if value.is_floating_point() else torch.zeros
    return make(shape, dtype=value.dtype, device=device)


def _fastest(work: Callable[[], object], least_seconds: float = 0.3) -> float:
    """The time of one call: the median of as many as take that long."""
    work()
    times: list[float] = []
    while sum(times) < least_seconds or len(times) < 5:
        times.append(seconds_of(work))
    return sorted(times)[len(times) // 2]


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long some work takes, until a GPU that does it is done, too."""
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
