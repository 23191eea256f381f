"""How the next neurons are found: by a ranking or a race, in this process or by workers, with a refit or without."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from shrinknet.compensation.compensate import Compensation
from shrinknet.compensation.none import NoCompensation
from shrinknet.core.errors import BadInputError
from shrinknet.core.progress import Progress, Silence, Told, num_batches
from shrinknet.core.records import Group
from shrinknet.core.scores import Scores
from shrinknet.criteria import Criterion, find_criterion
from shrinknet.criteria.taylor_2_sampled import Taylor2Sampled
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.racing import parts_of
from shrinknet.engine.sampled import Interactions
from shrinknet.execution.jobs import Workers
from shrinknet.run.effort import Effort
from shrinknet.run.options import Pruning, Scored
from shrinknet.search.lazily import lazily
from shrinknet.search.methods import Choose, Scorer, find_method
from shrinknet.search.price import Price
from shrinknet.search.racing import racing
from shrinknet.search.rank import Choice, Limits, clipped
from shrinknet.search.schedule import Estimator, scheduled
from shrinknet.task.data import Data
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task


@contextmanager
def scored_by(task: Task, options: Scored, shards: str | Path | None) -> Iterator[Scorer]:
    """Scores by this process, or by workers that are let go in the end."""
    if options.how.executor == "serial":
        with options.how.arithmetic():
            yield _scorer(task, options.rule, options.clip, options.told)
        return
    where = None if shards is None else Path(shards)
    workers = Workers(task, options.how, options.keep, options.only, options.rule, where)
    try:
        yield lambda network: clipped(network, workers.score(network, options.told.ranking), options.clip)
    finally:
        workers.close()


def _scorer(task: Task, criterion: Criterion, clip: str, progress: Progress) -> Scorer:
    total = num_batches(task.calibration, task.calibration.batch_size)

    def score(network: GatedNetwork) -> Scores:
        return clipped(network, criterion.score(network, Told(task.calibration, total, progress)), clip)

    return score


SCREENED_BY = "taylor-2"
"""What a race's `screen` goes by."""


def differentiated_twice(rule: Criterion, how: Scoring, network: GatedNetwork) -> tuple[Group, ...]:
    """Return the groups whose replays are differentiated twice, by a rule or by the screen of its races."""
    return (rule if how.screen is None else find_criterion(SCREENED_BY)).differentiated_twice(network)


def race_of(
    task: Task, criterion: Criterion, limits: Limits, seed: int, scoring: Scoring, progress: Progress
) -> Choose:
    """Return a race for the next neurons.

    Raises:
        BadInputError: the criterion's scores are not what a race finds.
    """
    if not criterion.can_race:
        allowed = "left out unless the criterion is ablation"
        raise BadInputError("confidence and screen", allowed, repr(criterion.name), "Use `criterion='ablation'`.")
    estimate = None if scoring.screen is None else _scorer(task, find_criterion(SCREENED_BY), "none", progress)
    parts = [task.calibration] if scoring.confidence is None else parts_of(task.calibration, seed)
    score = _scorer(task, criterion, "none", progress)
    return racing(score, estimate, parts, scoring.confidence or 1.0, scoring.screen, limits, scoring.tie_loss)


@dataclass(frozen=True)
class Scorers:
    """Who scores in a run: this process, or workers that are let go with the run.

    Attributes:
        task, options: of the run.
        shards: where workers keep what they have finished.
        workers: lets them go.
    """

    task: Task
    options: Pruning
    shards: Path | None
    workers: ExitStack

    def by(self, rule: Criterion, data: Data | None = None) -> Scorer:
        """Return scores by a rule, on the calibration rows or on others."""
        task = self.task if data is None else self.task.with_calibration(data)
        return self.workers.enter_context(scored_by(task, replace(self.options, criterion=rule), self.shards))

    def here(self, rule: Criterion, data: Data, *, pairs: bool) -> Estimator:
        """Return scores by this process, of few rows, which are too little work for many; and interactions."""
        score = _scorer(self.task.with_calibration(data), rule, "none", Silence())

        def estimate(network: GatedNetwork) -> tuple[Scores, Interactions | None]:
            with self.options.how.arithmetic():
                if pairs and isinstance(rule, Taylor2Sampled):
                    return rule.with_interactions(network, data.batches())
                return score(network), None

        return estimate


def choosing(
    network: GatedNetwork,
    options: Pruning,
    limits: Limits,
    scorers: Scorers,
    compensation: Compensation | NoCompensation,
    effort: Effort | None,
    price: Price,
) -> Choose:
    """Return what finds the next neurons, by the rise once readers are refit where the criterion foresees it."""

    def by(rule: Criterion, data: Data | None = None) -> Scorer:
        score = scorers.by(rule, data)
        return _refit_before(compensation, score) if rule.foresees_refits else score

    if effort is not None:
        data = scorers.task.calibration
        parts = effort.parts_of(data, options.seed)
        estimates = [scorers.here(effort.estimate, part, pairs=not options.refits) for part in parts]
        rows = effort.exact_rows_of(data, options.seed)
        exact = None if rows is None else by(find_criterion("ablation"), rows)
        return scheduled(effort.schedule, estimates, exact, limits, price)
    if _one_after_another(options):
        return lazily(scorers.by(options.rule), limits, price, compensation)
    if not options.how.races:
        return find_method(options.method)(network, by(options.rule))
    if options.method != "reranking" or options.clip != "none":
        given = f"method {options.method!r}, clip {options.clip!r}"
        raise BadInputError("confidence and screen", "used with reranking and no clip", given, "Leave them out.")
    race = race_of(scorers.task, options.rule, limits, options.seed, options.how, options.told)
    return lambda network, count: race(compensation.scoring(network), count)


def _one_after_another(options: Pruning) -> bool:
    """Whether neurons that go in one step are chosen one after another: their scores are what they cost, measured."""
    is_measured = options.rule.can_race and options.clip == "none"
    return (options.step or 1) > 1 and options.method == "reranking" and is_measured and not options.how.races


def _refit_before(compensation: Compensation | NoCompensation, score: Scorer) -> Scorer:
    return lambda network: score(compensation.scoring(network))


def remembered(choose: Choose) -> Choose:
    """Choose again for the same network without scoring again."""
    last: dict[tuple[bytes, int | None], Choice] = {}

    def once(network: GatedNetwork, count: int) -> Choice:
        gates = network.present.tobytes()
        for key in ((gates, None), (gates, count)):  # an order of all neurons serves any count
            if key in last:
                return last[key]
        choice = choose(network, count)
        last.clear()
        last[gates, count if choice.race is not None or choice.is_settled else None] = choice
        return choice

    return once
