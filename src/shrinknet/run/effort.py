"""Effort: what a search may cost, in forward passes over the calibration data, or as a time that is turned into them.

Where every removal by exact ablation is within the effort, that is the search. Otherwise a schedule says how the
effort is spent (`search/schedule.py`). What a time was turned into is written into `config.json`: the passes, and what
things cost in passes as it was measured; a run that goes on reads them. An effort in passes is spent by prices that the
cost model counts: the same on every machine (`prices.py`).
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from shrinknet.core.config import DEFAULT_EFFORT
from shrinknet.core.errors import BadInputError
from shrinknet.core.folder import RunFolder
from shrinknet.core.reading import restored
from shrinknet.core.records import Step
from shrinknet.core.units import EXACT, counted, effort_seconds
from shrinknet.criteria import Criterion, find_criterion
from shrinknet.engine.gates import GatedNetwork
from shrinknet.execution.cost_model import Rates, run_work
from shrinknet.recovery.joint import PASSES_AN_EPOCH, epochs_within
from shrinknet.run.allowed import can_score
from shrinknet.run.options import Pruning
from shrinknet.run.prices import SHARE_FOR_SEARCH, bought, counted_prices, work_of_a_refit
from shrinknet.search.polish import MOST_ROUNDS, passes_of_a_round
from shrinknet.search.schedule import CANDIDATES, Prices, Schedule, least_passes, schedule_of
from shrinknet.task.data import Data
from shrinknet.task.task import Task

log = logging.getLogger(__name__)

SLOW, SLOW_CALL = Rates(macs=3e8, bytes=3e8), 1e-4
"""What every machine does in a second at least, and how many seconds an operator takes at most to be called: a search
that is within its time by these rates needs no measurement."""

SHARE_FOR_POLISH = 0.3
"""Exchanges take at most that part of the effort."""

SHARE_FOR_JOINT = 0.5
"""A joint refit takes at most that part of the effort."""

ESTIMATES = ("taylor-2-sampled", "taylor-1", "ablation")
"""What ranks where exact ablation of all is too much: the first that loss and network allow."""


@dataclass(frozen=True)
class Effort:
    """What a search may cost, and how that is spent.

    Attributes:
        asked: as it was asked for.
        schedule: how it is spent.
        estimate: the rule that ranks.
        prices: what things cost, where that was measured.
    """

    asked: float | str
    schedule: Schedule
    estimate: Criterion
    prices: Prices | None

    def parts_of(self, data: Data, seed: int) -> list[Data]:
        """Return the rows that the estimate looks at, one part after another, in an order drawn by a seed."""
        size, drawn = self.schedule.num_rows, data.permuted(seed)
        return [drawn.rows(start, start + size) for start in range(0, len(data) - size + 1, size)]

    def exact_rows_of(self, data: Data, seed: int) -> Data | None:
        """Return the rows on which candidates are ablated exactly, drawn by a seed; None where none are."""
        size = self.schedule.num_exact_rows
        return data.permuted(seed).rows(0, size) if 0 < size < len(data) else data if size else None

    @property
    def facts(self) -> dict[str, object]:
        """What `config.json` says of it."""
        measured = {} if self.prices is None else {"prices": asdict(self.prices)}
        return {"criterion": self.estimate.name, "effort": self.asked, "passes": self.schedule.passes, **measured}


def effort_asked(options: Pruning) -> float | str:
    """Return what a search may cost: "exact" where something else says how to search.

    Raises:
        BadInputError: both are said.
    """
    said = options.says_how or ("`confidence` or `screen`" if options.how.races else "")
    if options.effort is None:
        return EXACT if said else DEFAULT_EFFORT
    if said and options.effort != EXACT:
        allowed = "left out, or exact, where another option says how to search"
        raise BadInputError("effort", allowed, f"{options.effort!r} beside {said}", "Leave one of them out.")
    return options.effort


def effort_of(
    task: Task,
    network: GatedNetwork,
    options: Pruning,
    num_to_go: int,
    exact_step: int,
    start: Step,
    pacing: Callable[[], object],
) -> tuple[Effort | None, dict[str, object]]:
    """Return how a search spends its effort, None where it is the exact search; and what `config.json` says of that.

    Args:
        task: what is pruned.
        network: the untouched network.
        options: the effort, and the folder of a run that goes on.
        num_to_go: how many neurons have to go, about.
        exact_step: how many neurons go at each step of the exact search.
        start: the first step, whose measuring took some time.
        pacing: what each step does to find how many go, and what a neuron of each group frees.

    Raises:
        BadInputError: the effort is too small for one ranking.

    Cost: where a time has to be turned into passes, a few of them, and rankings and ablations of few rows.
    """
    asked, began = effort_asked(options), began_with(options)
    if asked == EXACT or (began is not None and "passes" not in began):
        return None, {key: began[key] for key in ("epochs", "rounds") if began is not None and key in began}
    num_steps = -(-num_to_go // exact_step)
    if began is None and isinstance(asked, str) and _is_short(task, network, options, asked, num_to_go, exact_step):
        log.info("Effort %s: exact ablation decides every removal, and takes less.", asked)
        return None, {}
    estimate = _estimate(task, network, options.seed)
    if began is not None:
        passes = float(began["passes"])  # type: ignore[arg-type]
        prices = _prices_of(began) or counted_prices(task, network, estimate, options)
    elif isinstance(asked, float):
        passes, prices = asked, counted_prices(task, network, estimate, options)
    else:
        passes, prices = bought(task, network, estimate, options, asked, start, pacing)
    kept, passes = _kept_for_the_end(options, began, passes, prices, num_to_go, len(task.calibration))
    num_rows, num_neurons = len(task.calibration), network.trace.num_neurons
    mean_left = num_neurons - (num_to_go - 1) / 2
    exact = 1 + prices.first + num_steps * (prices.measuring + mean_left * prices.candidate)
    if exact <= passes:
        log.info("Effort %s: exact ablation decides every removal (%s).", asked, _in_passes(exact))
        return None, kept
    schedule = schedule_of(passes, prices, num_rows, num_neurons, num_to_go)
    log.info("%s", _in_words(asked, schedule, estimate, exact, num_rows, num_to_go))
    effort = Effort(asked, schedule, estimate, prices if isinstance(asked, str) else None)
    return effort, effort.facts | kept


def _kept_for_the_end(
    options: Pruning,
    began: Mapping[str, object] | None,
    passes: float,
    prices: Prices,
    num_to_go: int,
    num_rows: int,
) -> tuple[dict[str, object], float]:
    """Return what comes after the search, exchanges and epochs of a joint refit, and how many passes are left for it.

    Raises:
        BadInputError: the effort is too small for one round of exchanges.
    """
    if began is not None:
        return {key: began[key] for key in ("epochs", "rounds") if key in began}, passes
    kept, left = dict[str, object](), passes
    to_spare = passes - least_passes(prices, num_rows)
    if options.polish:
        of_a_round = passes_of_a_round(prices, num_to_go, num_rows)
        rounds = min(MOST_ROUNDS, int(min(SHARE_FOR_POLISH * passes, to_spare) / of_a_round))
        if rounds < 1:
            allowed = f"at least {math.ceil(of_a_round / SHARE_FOR_POLISH):,} forward passes where a run is polished"
            got = f"{options.effort or DEFAULT_EFFORT}, {_in_passes(passes)}"
            raise BadInputError("effort", allowed, got, "Allow more, or leave `polish` out.")
        kept["rounds"], left = rounds, left - rounds * of_a_round
        log.info("%s are kept for %s.", _in_passes(rounds * of_a_round), counted(rounds, "exchange"))
    if options.ends_jointly:
        epochs = epochs_within(max(0.0, min(SHARE_FOR_JOINT * passes, to_spare - (passes - left))), num_rows)
        kept["epochs"], left = epochs, left - epochs * PASSES_AN_EPOCH
        log.info(
            "%s are kept for %s of the joint refit.", _in_passes(epochs * PASSES_AN_EPOCH), counted(epochs, "epoch")
        )
    return kept, left


def began_with(options: Pruning) -> dict[str, object] | None:
    """What `config.json` says of a run that goes on."""
    if options.resume and options.out is not None and (Path(options.out) / "config.json").is_file():
        return dict(RunFolder(Path(options.out)).config)
    return None


def _is_short(task: Task, network: GatedNetwork, options: Pruning, asked: str, num_to_go: int, exact_step: int) -> bool:
    """Whether the exact search is within a time on any machine: nothing has to be measured then."""
    num_rows, num_steps = len(task.calibration), -(-num_to_go // exact_step)
    work = run_work(network, "ablation", num_rows, num_to_go, exact_step)
    work += work_of_a_refit(network, options, num_rows).times(num_rows * num_steps)
    calls = num_steps * len(network.groups) * len(network.program.nodes)
    return SLOW.seconds(work) + SLOW_CALL * calls <= SHARE_FOR_SEARCH * effort_seconds(asked)


def _prices_of(began: Mapping[str, object]) -> Prices | None:
    """The prices that were measured when the run began; None where they were counted."""
    return restored(Prices, began["prices"]) if "prices" in began else None


def _estimate(task: Task, network: GatedNetwork, seed: int) -> Criterion:
    """The first estimate that can score a few rows of this task."""
    for criterion in (find_criterion(name, seed) for name in ESTIMATES[:-1]):
        if can_score(task, criterion, network):
            return criterion
    return find_criterion(ESTIMATES[-1])


def _in_words(
    asked: float | str, schedule: Schedule, estimate: Criterion, exact: float, num_rows: int, num_to_go: int
) -> str:
    times = counted(min(num_to_go, schedule.num_rounds * schedule.steps_left(0, 0, num_to_go)), "time")
    said = (
        f"Effort {asked}, {_in_passes(schedule.passes)} (exact ablation of all would take {exact:,.0f}): "
        f"{estimate.name} on {schedule.num_rows:,} of {num_rows:,} rows ranks about {times}"
    )
    if schedule.num_exact_rows:
        said += (
            f", and of the first {CANDIDATES} for each neuron that goes, exact ablation on "
            f"{schedule.num_exact_rows:,} rows picks the one"
        )
    return f"{said}."


def _in_passes(passes: float) -> str:
    return counted(round(passes), "forward pass", "forward passes")
