"""What users call: `rank`, `race` and `prune`."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from shrinknet.compensation.compensate import Compensation, check_kind
from shrinknet.core.errors import BadInputError
from shrinknet.core.folder import RunFolder
from shrinknet.core.progress import Progress, Silence, Told, num_batches
from shrinknet.core.records import Neuron, RaceResult
from shrinknet.core.scores import Scores
from shrinknet.core.units import globs
from shrinknet.criteria import Criterion, find_criterion
from shrinknet.criteria.noise import check_slopes
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.racing import parts_of
from shrinknet.engine.replay import chunks_text, samples_at_once
from shrinknet.execution.jobs import Workers
from shrinknet.export.artefact import WEIGHTS, Artefact, check_quantize
from shrinknet.run.driver import Search
from shrinknet.run.run import Run, under_way, with_threads_of, write_start
from shrinknet.search.goals import Goal
from shrinknet.search.guards import Guard
from shrinknet.search.methods import Choose, Scorer, find_method
from shrinknet.search.price import by_neuron, by_units, check_price
from shrinknet.search.racing import racing
from shrinknet.search.rank import Choice, Limits, clipped, ranked
from shrinknet.search.steps import check_reachable, first_step
from shrinknet.task.scoring import SHARE_OF_ONE_PASS, Scoring
from shrinknet.task.task import Task

log = logging.getLogger(__name__)

DEFAULT_CONFIDENCE = 0.99

CLIPS = ("none", "mean", "median")


def rank(
    task: Task,
    criterion: str | Criterion = "ablation",
    *,
    clip: str = "none",
    keep: str | Sequence[str] = (),
    only: str | Sequence[str] = (),
    seed: int = 0,
    scoring: Scoring | None = None,
    shards: str | Path | None = None,
    progress: Progress | None = None,
) -> list[tuple[Neuron, float]]:
    """Score every neuron that can be removed; lowest first: that one is the cheapest to lose.

    Args:
        task: network, loss and data; scores see only the calibration data.
        criterion: the name of a criterion, or one of your own.
        clip: "mean" or "median" sets scores of larger size to that value (for steep second-order estimates).
        keep: name globs of groups to leave whole.
        only: name globs of the only groups to look at.
        seed: for the criterion "random".
        scoring: how much memory scoring may use, and who does it.
        shards: a folder where workers' results are kept until all are there: after a kill, the same call goes on.
        progress: who is told how far the ranking is.

    Returns:
        Pairs of neuron and score, in loss units where the criterion has them; ties by (group, index).

    Raises:
        BadInputError: an argument cannot be used. NothingToRemoveError: every neuron is frozen.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    >>> [neuron.group for neuron, score in rank(task)]
    ['0', '0', '0']
    """
    scoring = scoring or Scoring()
    if scoring.confidence is not None or scoring.screen is not None:
        raise BadInputError(
            "confidence and screen", "left out for an order of all neurons",
            f"{scoring.confidence} and {scoring.screen}", "Ask for the `first` few alone, by a race.",
        )  # fmt: skip
    rule, told = find_criterion(criterion, seed), progress or Silence()
    _check_coupling(task, rule, scoring)
    network = gated(task, keep, only, scoring)
    task = in_memory(task, network)
    with scoring.arithmetic():
        check_slopes(rule, network, task.calibration)
    with _scored_by(task, scoring, rule, clip, globs(keep), globs(only), shards, told) as score:
        return ranked(network, score(network))


def race(
    task: Task,
    first: int = 1,
    *,
    keep: str | Sequence[str] = (),
    only: str | Sequence[str] = (),
    seed: int = 0,
    scoring: Scoring | None = None,
) -> RaceResult:
    """Find the few neurons that cost the least to lose, by ablation, without ablating every neuron on every sample.

    Args:
        task: network, loss and data; scores see only the calibration data.
        first: how many neurons are wanted.
        keep, only: see `rank`.
        seed: the order in which samples are drawn.
        scoring: `confidence` (0.99 where it is left out along with `screen`) and `screen`.

    Returns:
        The contenders, the wanted ones first, each with the interval of its score and the samples it took.

    Raises:
        BadInputError: an argument cannot be used. NothingToRemoveError: every neuron is frozen.

    Cost: one forward and one backward pass, and for each neuron a replay of the samples that it took.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(200, 4), torch.arange(200) % 2))
    >>> len(race(task, 2).contenders)
    8
    """
    scoring = scoring or Scoring()
    if scoring.confidence is None and scoring.screen is None:
        scoring = replace(scoring, confidence=DEFAULT_CONFIDENCE)
    _check_coupling(task, find_criterion("ablation"), scoring)
    network = gated(task, keep, only, scoring)
    if isinstance(first, bool) or not isinstance(first, int) or not 1 <= first < network.trace.num_neurons:
        allowed = f"a whole number from 1 to {network.trace.num_neurons - 1}, one less than there are neurons"
        raise BadInputError("first", allowed, repr(first), "For an order of all neurons use rank().")
    task = in_memory(task, network)
    with scoring.arithmetic():
        choice = _racing(task, find_criterion("ablation"), Limits(), seed, scoring, Silence())(network, first)
    assert choice.race is not None
    return choice.race


def _racing(
    task: Task, criterion: Criterion, limits: Limits, seed: int, scoring: Scoring, progress: Progress
) -> Choose:
    if criterion.name != "ablation":
        allowed = "left out unless the criterion is ablation"
        raise BadInputError("confidence and screen", allowed, repr(criterion.name), "Use `criterion='ablation'`.")
    estimate = None if scoring.screen is None else _scorer(task, find_criterion("taylor-2"), "none", progress)
    parts = [task.calibration] if scoring.confidence is None else parts_of(task.calibration, seed)
    score = _scorer(task, criterion, "none", progress)
    return racing(score, estimate, parts, scoring.confidence or 1.0, scoring.screen, limits)


def in_memory(task: Task, network: GatedNetwork) -> Task:
    """The same task in batches small enough that one batch's values stay within bounds."""
    needed, allowed = network.program.bytes_per_sample, network.program.scoring.pass_bytes
    if needed > allowed:
        least = needed * SHARE_OF_ONE_PASS
        raise BadInputError(
            "memory",
            f"enough for one sample's pass through this network, {least:,} bytes",
            f"{network.program.scoring.memory:,} bytes",
            "Allow more, or look at fewer positions of each sample.",
        )
    most = allowed // needed
    smaller = task.in_batches_of(most if task.loss.couples_samples else min(most, samples_at_once(network)))
    log.info("%s", chunks_text(network, smaller.calibration.batch_size))
    return smaller


def _check_coupling(task: Task, criterion: Criterion, scoring: Scoring, compensate: str = "none") -> None:
    """What needs a loss of each sample alone is refused, before anything is done, where samples are coupled."""
    if criterion.needs_each_sample:
        task.loss.needs_each_sample(f"criterion={criterion.name!r}")
    if scoring.confidence is not None or scoring.screen is not None:
        task.loss.needs_each_sample("confidence and screen")
    if compensate == "newton":
        task.loss.needs_each_sample("compensate='newton'")


def _scorer(task: Task, criterion: Criterion, clip: str, progress: Progress) -> Scorer:
    _check_clip(clip)
    total = num_batches(task.calibration, task.calibration.batch_size)

    def score(network: GatedNetwork) -> Scores:
        return clipped(network, criterion.score(network, Told(task.calibration, total, progress)), clip)

    return score


def _check_clip(clip: str) -> None:
    if clip not in CLIPS:
        raise BadInputError("clip", "one of none, mean, median", repr(clip), "Leave it out for none.")


@contextmanager
def _scored_by(
    task: Task, scoring: Scoring, criterion: Criterion, clip: str, keep: Sequence[str], only: Sequence[str],
    shards: str | Path | None, progress: Progress,
) -> Iterator[Scorer]:  # fmt: skip
    """Scores by this process, or by workers that are let go in the end."""
    if scoring.executor == "serial":
        with scoring.arithmetic():
            yield _scorer(task, criterion, clip, progress)
        return
    _check_clip(clip)
    workers = Workers(task, scoring, keep, only, criterion, None if shards is None else Path(shards))
    try:
        yield lambda network: clipped(network, workers.score(network, progress.ranking), clip)
    finally:
        workers.close()


def prune(
    task: Task,
    criterion: str | Criterion = "ablation",
    method: str = "reranking",
    goals: Sequence[Goal] = (),
    guards: Sequence[Guard] = (),
    *,
    step: int = 1,
    clip: str = "none",
    keep: str | Sequence[str] = (),
    only: str | Sequence[str] = (),
    multiple_of: int = 1,
    min_neurons: int = 1,
    whole_curve: bool = False,
    artefact: str = WEIGHTS,
    quantize: str = "none",
    allow_float: bool = False,
    price: str = "neuron",
    compensate: str = "none",
    max_latency: float | None = None,
    seed: int = 0,
    scoring: Scoring | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Remove neurons in the order that costs the least until every goal is reached, cut once, and prove the cut.

    Args:
        task: network, loss and data.
        criterion: how neurons are scored: "ablation" (the true rise of the loss), "taylor-2", ... or your own.
        method: "reranking" (score again after each step) or "single-ranking" (score once).
        goals: the run ends once all are reached; without one it goes on until one neuron of each group is left.
        guards: a step that breaks one is undone, and the run ends.
        step: how many neurons go for each ranking.
        clip, keep, only, seed: see `rank`.
        multiple_of: widths stay multiples of this (8: SIMD); neurons then go in blocks, at least as many as asked for.
        min_neurons: every group keeps at least so many neurons.
        whole_curve: go on to the end for the whole trade-off curve; the model is still the one that reaches the goals.
        artefact: the file that ships, on which flash and RAM are counted: "weights", "executorch", "onnx", "cortex-m".
        quantize: "int8" quantizes that file after pruning; budgets are then those of the quantized file.
        allow_float: whether an int8 file may hold operators that compute in float.
        price: what the loss is weighed against: each "neuron"; the "parameters", "flash", "ram" or "macs" that it
            frees; or its share of what the goals still lack ("budget").
        compensate: how readers make up for what is gone: "none", "mean", "least-squares", "newton".
        max_latency: the most milliseconds that one sample may take by the artefact's runtime on this machine.
        scoring: how much memory scoring may use, who does it, and whether it races for the next neurons.
        out: a new folder for the run; history is written as it happens, so that a kill loses one step.
        resume: go on with the run in that folder; it ends in the same bits as if it had never stopped.
        config: what to write beside the options about where model and data came from.
        progress: who is told how far the run is.

    Raises:
        BadInputError: an argument cannot be used. NothingToRemoveError: every neuron is frozen.
        RunFolderError: `out` holds something else. VerificationError: the proof fails; no model is written.
        ExportError: the artefact cannot be made of this network, or does not compute what torch computes.

    Cost: for each step one scoring, one pass over calibration and validation data. A budget of bytes makes the
    untouched network's artefact first, and the smaller one's at the end: again for each miss of the forecast.

    >>> import torch
    >>> from shrinknet.search.goals import RemovedNeurons
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    >>> prune(task, goals=[RemovedNeurons(5)]).model[0].out_features
    3
    """
    _check_all("goals", goals, Goal)
    _check_all("guards", guards, Guard)
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise BadInputError("step", "a whole number of at least 1", repr(step), "Leave it out to remove one at a time.")
    criterion, progress, limits = (
        find_criterion(criterion, seed),
        progress or Silence(),
        Limits(multiple_of, min_neurons),
    )
    scoring = replace(scoring or Scoring(), keeps_passes=True)
    find_method(method)
    check_price(price)
    check_kind(compensate)
    check_quantize(artefact, quantize)
    if compensate != "none" and scoring.executor != "serial":
        raise BadInputError("compensate", "none where workers score", repr(compensate), "Use `executor='serial'`.")
    _check_coupling(task, criterion, scoring, compensate)
    network = gated(task, keep, only, scoring)
    task = in_memory(task, network)
    ships = Artefact(task, network.trace, artefact, quantize, allow_float)
    ships.check(goals, max_latency)
    with scoring.arithmetic(), with_threads_of(out if resume else None):
        check_slopes(criterion, network, task.calibration)
        start = first_step(task, network, ships.costs)
    for guard in guards:
        guard.check(start.measures)
    sized = task.calibration if task.loss.couples_samples else task  # a loader's batches are part of such a loss
    if not whole_curve:
        check_reachable(goals, start.measures, network, limits, is_exact=artefact == WEIGHTS)
    options = {
        "criterion": criterion.name, "method": method, "goals": list(map(str, goals)), "guards": list(map(str, guards)),
        "step": step, "clip": clip, "keep": globs(keep), "only": globs(only),
        "multiple_of": multiple_of, "min_neurons": min_neurons, "whole_curve": whole_curve, "seed": seed,
        "artefact": artefact, "quantize": quantize, "price": price, "compensate": compensate,
        "max_latency": max_latency, **task.loss.facts, "batch_size": sized.batch_size,
        **{name: getattr(scoring, name) for name in ("memory", "confidence", "screen", "compile", "tf32")},
        **({"allow_float": True} if allow_float else {}), **(config or {}),
    }  # fmt: skip
    folder = None if out is None else RunFolder.create(out, options, resume=resume)
    shards = None if folder is None else folder.path / "shards"
    with (
        under_way(folder),
        _scored_by(task, scoring, criterion, clip, globs(keep), globs(only), shards, progress) as score,
    ):
        if folder is not None:
            write_start(folder, task, network.trace)
        compensation = None if compensate == "none" else Compensation(compensate, task, network)
        if compensation is not None and criterion.name == "ablation":
            score = _with_compensation(score, compensation)
        choose = _choose(task, network, score, criterion, method, clip, limits, seed, scoring, progress)
        if compensation is not None and (scoring.confidence is not None or scoring.screen is not None):
            choose = _racing_with(choose, compensation)
        units = by_neuron if price == "neuron" else by_units(ships.freed(price, goals))
        search = Search(
            task,
            network,
            _remembered(choose),
            step,
            limits,
            start,
            guards,
            units,
            ships,
            compensation,
            folder,
            progress,
        )
        return search.run(goals, whole_curve, max_latency, options)


def _racing_with(choose: Choose, compensation: Compensation) -> Choose:
    """A race for the true rise once the readers have made up for each neuron."""
    return lambda network, count: choose(compensation.scoring(network), count)


def _with_compensation(score: Scorer, compensation: Compensation) -> Scorer:
    """The true rise once the readers have made up for each neuron."""
    return lambda network: score(compensation.scoring(network))


def _choose(
    task: Task, network: GatedNetwork, score: Scorer, criterion: Criterion, method: str, clip: str, limits: Limits,
    seed: int, scoring: Scoring, progress: Progress,
) -> Choose:  # fmt: skip
    """How the next neurons are found: by a ranking, or by a race."""
    choose_from = find_method(method)
    if scoring.confidence is None and scoring.screen is None:
        return choose_from(network, score)
    if method != "reranking" or clip != "none":
        given = f"method {method!r}, clip {clip!r}"
        raise BadInputError("confidence and screen", "used with reranking and no clip", given, "Leave them out.")
    return _racing(task, criterion, limits, seed, scoring, progress)


def _check_all(argument: str, given: object, kind: type) -> None:
    if not isinstance(given, list | tuple) or not all(isinstance(one, kind) for one in given):
        raise BadInputError(
            argument, f"a list of {argument}", repr(given), "Write it as goals=[FlashBytes('64 KiB')], in brackets."
        )


def _remembered(choose: Choose) -> Choose:
    """Choose again for the same network without scoring again."""
    last: dict[tuple[bytes, int | None], Choice] = {}

    def remembered(network: GatedNetwork, count: int) -> Choice:
        gates = network.present.tobytes()
        for key in ((gates, None), (gates, count)):  # an order of all neurons serves any count
            if key in last:
                return last[key]
        choice = choose(network, count)
        last.clear()
        last[gates, None if choice.race is None else count] = choice
        return choice

    return remembered
