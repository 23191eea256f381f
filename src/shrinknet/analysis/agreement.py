"""Agreement: which criterion ranks this network's neurons as ablation does, and what it costs to trust another one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch

from shrinknet.core.errors import BadInputError, ShrinknetError
from shrinknet.core.progress import Tell, tell_nobody
from shrinknet.core.records import Neuron
from shrinknet.core.scores import Scores
from shrinknet.criteria import Criterion, criterion_names, find_criterion
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.memory import in_memory
from shrinknet.search.rank import ranked
from shrinknet.task.task import Task

ORACLE = "ablation"
"""What the others are held against: the true rise."""

FIRST = 0.1
"""The share of the neurons that are removed at once to see what an order costs."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How one criterion ranks, beside ablation.

    Attributes:
        criterion: its name.
        overall: Spearman's rank correlation of its scores with ablation's over all neurons; NaN where all are equal.
        by_group: the same within each group.
        regret: the loss without the tenth of the neurons that it calls the cheapest, minus the loss without ablation's.
        why_not: why it cannot score this network, in words; empty where it can.
    """

    criterion: str
    overall: float
    by_group: dict[str, float]
    regret: float
    why_not: str = ""


def agreement(
    task: Task, criteria: Sequence[str] = (), *, gone: Sequence[Neuron] = (), seed: int = 0, tell: Tell = tell_nobody
) -> list[Agreement]:
    """Compare criteria with ablation on one network; the one that agrees best comes first.

    Args:
        task: network, loss and data; scores and losses are on calibration data.
        criteria: their names; all there are where left out.
        gone: neurons that were removed before: how they agree along a run.
        seed: of criteria that draw.
        tell: who is told how far it is.

    Raises:
        BadInputError: a name is unknown, or fewer than two neurons are left.

    Cost: a ranking by each criterion and by ablation, and a pass over the rows for each.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(40, 4), torch.arange(40) % 2))
    >>> [one.criterion for one in agreement(task, ["ablation", "random"])]
    ['ablation', 'random']
    """
    untouched = gated(task)
    network = untouched.without(gone)
    alive = [Neuron(group.name, int(k)) for group in network.groups for k in network.alive(group)]
    if len(alive) < 2:
        raise BadInputError("gone", "few enough that two neurons are left", str(len(gone)), "Name fewer.")
    names = tuple(criteria) or criterion_names()
    wanted = [find_criterion(name, seed) for name in names]
    task = in_memory(task, untouched, {group for rule in wanted for group in rule.differentiated_twice(untouched)})
    with network.program.scoring.arithmetic():
        found = _compared(task, network, wanted, alive, tell)
    return sorted(found, key=lambda one: (one.why_not != "", -np.nan_to_num(one.overall, nan=-2.0), one.criterion))


def _compared(
    task: Task, network: GatedNetwork, wanted: Sequence[Criterion], alive: Sequence[Neuron], tell: Tell
) -> list[Agreement]:
    oracle = find_criterion(ORACLE).score(network, task.calibration)
    count = max(1, round(FIRST * len(alive)))
    least = _loss_without(task, network, oracle, count)
    found = []
    for place, criterion in enumerate(wanted):
        tell(criterion.name, place / len(wanted))
        try:
            scores = criterion.score(network, task.calibration)
        except ShrinknetError as error:  # a criterion for networks of another kind
            found.append(Agreement(criterion.name, float("nan"), {}, float("nan"), str(error)))
            continue
        by_group = {
            group.name: _correlation(scores, oracle, [n for n in alive if n.group == group.name])
            for group in network.groups
        }
        regret = _loss_without(task, network, scores, count) - least
        found.append(Agreement(criterion.name, _correlation(scores, oracle, alive), by_group, regret))
    return found


def _correlation(scores: Scores, oracle: Scores, neurons: Sequence[Neuron]) -> float:
    ours, theirs = ([values[neuron] for neuron in neurons] for values in (scores, oracle))
    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return float("nan")
    return float(scipy.stats.spearmanr(ours, theirs).statistic)


def _loss_without(task: Task, network: GatedNetwork, scores: Scores, count: int) -> float:
    """The mean loss without the neurons that these scores call the cheapest."""
    first = [neuron for neuron, _ in ranked(network, scores)[:count]]
    smaller = network.without(first)
    with torch.no_grad():
        total = sum(float(smaller.losses(batch).sum(dtype=torch.float64)) for batch in task.calibration.batches())
    return total / len(task.calibration)
