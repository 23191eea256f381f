"""What a search pays: counted by the cost model, or tried on few rows and candidates where a time is to be spent.

Both are in forward passes over the calibration data. What is counted is the same on every machine; a time is turned
into passes by what a pass takes here.
"""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from shrinknet.compensation.kinds import KINDS
from shrinknet.compensation.readers import readers
from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Neuron, Step
from shrinknet.core.units import effort_seconds
from shrinknet.criteria import Criterion, find_criterion
from shrinknet.engine.gates import GatedNetwork
from shrinknet.execution.cost_model import (
    NOMINAL,
    Work,
    first_refit,
    forward_work,
    ranking_work,
    refit_work,
    seconds_of,
    work_of_systems,
)
from shrinknet.graph.call import Site
from shrinknet.measure.evaluation import evaluate_batches
from shrinknet.run.allowed import ROWS_TRIED
from shrinknet.run.options import Pruning
from shrinknet.search.schedule import FEW_ROWS, Prices, least_passes
from shrinknet.task.data import Data
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task

SHARE_FOR_SEARCH = 0.8
"""The rest of a time is for what comes before and after: files, the proof, the page."""

PASSES_BY_LOSS = 7
"""What biases that follow the loss take at most: a pass, slopes, and four tries."""

TRIED = 8
"""So many candidates are ablated exactly to see how long that takes."""

SHARE_FOR_TRIALS, TRIAL = 0.05, 16
"""The part of a time that trials may take; how many passes over its rows a trial is about."""

SIZE_TRIED = 256
"""Of so many unknowns is the system whose solution is timed."""

SHORT = 0.5
"""A measurement of less than so many seconds is taken three times."""


def counted_prices(task: Task, network: GatedNetwork, estimate: Criterion, options: Pruning) -> Prices:
    """What things cost by the cost model: the same on every machine."""
    ranking, each = (passes_of(network, ranking_work(network, rule, 1)) for rule in (estimate, "ablation"))
    first = _more_at_first(task, network, options)
    return Prices(_measuring(task, network, options), ranking, each / network.trace.num_neurons, first)


def bought(
    task: Task,
    network: GatedNetwork,
    estimate: Criterion,
    options: Pruning,
    asked: str,
    start: Step,
    pacing: Callable[[], object],
) -> tuple[float, Prices]:
    """Return how many passes a time buys here, and what things cost in passes, tried on few rows and candidates.

    What this process does alone takes as many passes as all workers do in that time.

    Raises:
        BadInputError: the time is too short for one ranking.
    """
    num_rows = len(task.calibration)
    one, alone = _seconds_of_a_pass(task, network, start), _at_once(options.how)
    passes = SHARE_FOR_SEARCH * effort_seconds(asked) / one * alone
    rows = task.calibration.permuted(options.seed).rows(0, _rows_to_try(num_rows, asked, one))
    of_all = num_rows / len(rows) / one
    if estimate.name == "ablation":  # of all candidates it would take hours, where a few say it
        ranking = _seconds_of_a_candidate(network, rows, refits=options.refits) * network.trace.num_neurons
    else:
        ranking = _seconds(lambda: estimate.score(network, rows.batches()))
    measuring = _measuring(task, network, options) + _seconds(pacing) / one
    prices = Prices(measuring, ranking * of_all, 0.0, _more_at_first(task, network, options))
    if options.refits and KINDS[options.compensate].lays_out_rows:
        prices = _with_systems(prices, network, num_rows, one)
    prices = Prices(prices.measuring * alone, prices.ranking * alone, 0.0, prices.first * alone)
    least = least_passes(prices, num_rows)
    if passes < least:
        allowed = (
            f"at least {math.ceil(least * one / alone / SHARE_FOR_SEARCH)}s here, for one ranking: "
            f"{least:.3g} forward passes over the calibration data, of {one:.2g} s each"
        )
        raise BadInputError("effort", allowed, repr(asked), "Allow more, or give fewer calibration rows.")
    return passes, replace(prices, candidate=_seconds_of_a_candidate(network, rows, refits=options.refits) * of_all)


def _with_systems(prices: Prices, network: GatedNetwork, num_rows: int, one: float) -> Prices:
    """Return prices with what the systems of a refit take here: they are solved in double precision, passes are not.

    Args:
        prices: with systems as the cost model counts them.
        network: the untouched network.
        num_rows: over so many rows a pass goes.
        one: how many seconds that takes.
    """
    a_cube, counted = _seconds_of_systems(), passes_of(network, Work(1)) * one / num_rows
    slower = max(1.0, a_cube / counted)
    numbers = network.program.numbers
    made_up = sum(len(ids) ** 3 for ids in map(numbers.__getitem__, _as_refit(network).residual_maker))
    return replace(
        prices,
        measuring=prices.measuring + (slower - 1) * counted * work_of_systems(network) / one,
        ranking=prices.ranking + a_cube * made_up / one,  # what the others cannot make up for is found anew for each
        first=prices.first * slower,
    )


def passes_of(network: GatedNetwork, work: Work) -> float:
    """Work in forward passes of one sample."""
    return float(NOMINAL.seconds(work) / NOMINAL.seconds(forward_work(network)))


def work_of_a_refit(network: GatedNetwork, options: Pruning, num_rows: int) -> Work:
    """The work of a refit beside the pass that it runs, for each sample; where biases alone are set, that is passes."""
    if not options.refits:
        return Work()
    kind = KINDS[options.compensate]
    if kind.lays_out_rows:
        return refit_work(network, num_rows)
    return forward_work(network).times(PASSES_BY_LOSS if kind.follows_the_loss else 1)


def _measuring(task: Task, network: GatedNetwork, options: Pruning) -> float:
    """What measuring after each step costs, in passes; with a refit, the network without it is measured, too."""
    validation = 0.0 if task.validation is None else len(task.validation) / len(task.calibration)
    measured = 1 + validation
    if not options.refits:
        return measured
    return 2 * measured + 1 + passes_of(network, work_of_a_refit(network, options, len(task.calibration)))


def _more_at_first(task: Task, network: GatedNetwork, options: Pruning) -> float:
    """What the first refit takes more than those after it, in passes over all rows."""
    if not options.refits or not KINDS[options.compensate].lays_out_rows:
        return 0.0
    num_rows = len(task.calibration)
    first, _ = first_refit(network, num_rows)
    return (passes_of(network, first) - passes_of(network, refit_work(network, num_rows)) * num_rows) / num_rows


def _seconds_of_systems() -> float:
    """How long it takes to solve a system in double precision, for each cube of an unknown: passes go another way."""
    system, given = torch.eye(SIZE_TRIED, dtype=torch.float64), torch.ones(SIZE_TRIED, SIZE_TRIED, dtype=torch.float64)
    return _seconds(lambda: torch.linalg.solve(system + 1, given)) / SIZE_TRIED**3


def _seconds_of_a_candidate(network: GatedNetwork, rows: Data, *, refits: bool) -> float:
    """How long the exact ablation of one neuron takes, on some rows; with refits, of what others cannot make up for."""
    some, ablation = network.among(_spread(network)), find_criterion("ablation")
    some = _as_refit(some) if refits else some
    return _seconds(lambda: ablation.score(some, rows.batches())) / min(TRIED, network.trace.num_neurons)


def _as_refit(network: GatedNetwork) -> GatedNetwork:
    """The network as ablation scores it where readers are refit, for what that takes: no value is another one."""
    found, program = dict[Site, torch.Tensor](), network.program
    for reader in readers(program):
        if program.is_product(reader.node, reader.site):
            count = len(program.ids[reader.site])
            found[reader.site] = torch.eye(count + 1, count, dtype=torch.float64, device=program.device)
    return replace(network, residual_maker=found)


def _rows_to_try(num_rows: int, asked: str, one: float) -> int:
    """On how many rows a ranking and candidates are tried: on fewer, where that would take much of the time."""
    affordable = SHARE_FOR_TRIALS * effort_seconds(asked) / (TRIAL * one / num_rows)
    return min(num_rows, FEW_ROWS, max(ROWS_TRIED, int(affordable)))


def _spread(network: GatedNetwork) -> set[Neuron]:
    """A few neurons, of all groups as they are wide."""
    neurons = [Neuron(group.name, index) for group in network.groups for index in range(group.width)]
    return {neurons[place] for place in np.linspace(0, len(neurons) - 1, min(TRIED, len(neurons))).astype(int)}


def _seconds_of_a_pass(task: Task, network: GatedNetwork, start: Step) -> float:
    """How long a forward pass over the calibration rows takes: as long as the start took to be measured."""
    validation = 0 if task.validation is None else len(task.validation)
    one = start.seconds * len(task.calibration) / (len(task.calibration) + validation)
    if one >= SHORT:
        return one
    return _seconds(lambda: evaluate_batches(lambda batch: network.outputs(batch.inputs), task.loss, task.calibration))


def _seconds(work: Callable[[], object]) -> float:
    """How long something takes; what is short is done three times."""
    times = [seconds_of(work)]
    if times[0] < SHORT:
        times += [seconds_of(work), seconds_of(work)]
    return median(times)


def _at_once(how: Scoring) -> float:
    """How many times as much workers do as this process."""
    if how.executor == "serial":
        return 1.0
    return max(1.0, (how.workers or os.cpu_count() or 1) * how.threads / torch.get_num_threads())
