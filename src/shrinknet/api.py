"""What users call: `rank`, `race` and `prune`."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shrinknet.core.config import Scope
from shrinknet.core.errors import BadInputError
from shrinknet.core.options import taking
from shrinknet.core.progress import Silence
from shrinknet.core.records import Neuron, RaceResult
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import in_memory
from shrinknet.run.allowed import check_loss, check_network
from shrinknet.run.choosing import differentiated_twice, race_of, scored_by
from shrinknet.run.driver import search
from shrinknet.run.options import Pruning, Ranking
from shrinknet.run.run import Run
from shrinknet.search.rank import Limits, ranked
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task

log = logging.getLogger(__name__)

DEFAULT_CONFIDENCE = 0.99


@taking(Ranking)
def rank(task: Task, options: Ranking) -> list[tuple[Neuron, float]]:
    """Score every neuron that can be removed; lowest first: that one is the cheapest to lose.

    Args:
        task: network, loss and data; scores see only the calibration data.
        criterion: the name of a criterion, `package.module:Class`, or one of your own.
        clip, keep, only, seed: as `shrinknet rank --help` has them.
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
    scoring = options.how
    if scoring.races:
        got = f"{scoring.confidence} and {scoring.screen}"
        do = "Ask for the `first` few alone, by a race."
        raise BadInputError("confidence and screen", "left out for an order of all neurons", got, do)
    check_loss(task, options.rule, scoring)
    network = gated(task, options.keep, options.only, scoring)
    task = in_memory(task, network, differentiated_twice(options.rule, scoring, network))
    with scoring.arithmetic():
        check_network(task, options.rule, network)
    with scored_by(task, options, options.shards) as score:
        scores = score(network)
    if scores.standard_errors:
        errors = np.concatenate([scores.standard_errors[group.name] for group in network.groups])
        said = "The scores' standard error, over the samples, is %.2g in the middle and %.2g at most."
        log.info(said, np.median(errors), errors.max())
    return ranked(network, scores)


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
        scoring: `confidence` (0.99 where it is left out along with `screen`), `tie_loss` and `screen`.

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
    scope = Scope(keep=keep, only=only)
    if not scoring.races:
        scoring = replace(scoring, confidence=DEFAULT_CONFIDENCE)
    ablation = find_criterion("ablation")
    check_loss(task, ablation, scoring)
    network = gated(task, scope.keep, scope.only, scoring)
    if isinstance(first, bool) or not isinstance(first, int) or not 1 <= first < network.trace.num_neurons:
        allowed = f"a whole number from 1 to {network.trace.num_neurons - 1}, one less than there are neurons"
        raise BadInputError("first", allowed, repr(first), "For an order of all neurons use rank().")
    task = in_memory(task, network, differentiated_twice(ablation, scoring, network))
    with scoring.arithmetic():
        choice = race_of(task, ablation, Limits(), seed, scoring, Silence())(network, first)
    assert choice.race is not None
    return choice.race


@taking(Pruning)
def prune(task: Task, options: Pruning) -> Run:
    """Remove neurons in the order that costs the least until every goal is reached, cut once, and prove the cut.

    Args:
        task: network, loss and data.
        criterion: how neurons are scored: "ablation" (the true rise of the loss), "taylor-2", ... or your own.
        goals: the run ends once all are reached; without one it goes on until one neuron of each group is left.
        guards: a step that breaks one is undone, and the run ends.
        method, step, clip, keep, only, multiple_of, min_neurons, whole_curve, artefact, quantize, allow_float, price,
            compensate, augment, polish, max_latency, seed: as `shrinknet prune --help` has them.
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
    return search(task, options)
