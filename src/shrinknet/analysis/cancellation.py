"""Cancellation: neurons that undo each other, so that both can go where neither could alone.

The source paper infers from its curves that neurons either take part in the approximation or cancel each other (the
"dualism" of Mozer and Smolensky 1989), and never measures it. The measure is the interaction of a pair::

    I_ij = rise(i and j) - rise(i) - rise(j)

with the true rises of the mean loss. Negative: removing both hurts less than the two removals suggest.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from shrinknet.core.config import MOST_PAIRS
from shrinknet.core.errors import BadInputError
from shrinknet.core.progress import Tell, tell_nobody
from shrinknet.core.records import Group, Neuron
from shrinknet.criteria.ablation import Ablation
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.memory import in_memory
from shrinknet.engine.replay import Replay
from shrinknet.engine.route import route
from shrinknet.graph.restrict import restrict
from shrinknet.task.data import Batch, Data
from shrinknet.task.task import Task
from shrinknet.task.trees import of_each

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

COSINE_SAMPLES = 512
"""Contributions are compared on so many samples."""

CONTRIBUTION_ELEMENTS = 2**24
"""Contributions held at once."""

GIVEN_BACK = 0.5
"""Neurons form a cancelling group where at least that part of what they cost alone is given back together."""


@dataclass(frozen=True, slots=True)
class Together:
    """Neurons that cancel each other, removed together: the test on data that did not choose them, where there are.

    Attributes:
        neurons: indices in the group.
        sum_of_rises: what their removals cost alone, added up.
        joint_rise: what the removal of all of them costs.
        p: one-sided paired t-test over the samples: the chance of so large a difference if there were none.
        role: whose samples: "validation", or "calibration" where the task has no others.
    """

    neurons: tuple[int, ...]
    sum_of_rises: float
    joint_rise: float
    p: float
    role: str


@dataclass(frozen=True, slots=True, eq=False)
class Cancellation:
    """What was found in one group of K neurons that are still there.

    Attributes:
        group: its name.
        neurons: the indices of the K neurons, in the order of the rows below.
        rises: [K], each neuron's own rise.
        interactions: [K, K], symmetric; NaN where a pair was not looked at, and on the diagonal.
        cosines: [K, K], of the neurons' contributions to what reads them; None where a reader mixes more than samples.
        chosen: which pairs were looked at, in words.
        order: the rows in an order in which cancelling neurons stand side by side.
        together: the groups that cancel, each removed together.
    """

    group: str
    neurons: tuple[int, ...]
    rises: Vector
    interactions: Matrix
    cosines: Matrix | None
    chosen: str
    order: tuple[int, ...]
    together: tuple[Together, ...]

    @property
    def num_pairs(self) -> int:
        """How many pairs were looked at."""
        return int(np.isfinite(self.interactions).sum()) // 2

    def strongest(self, count: int = 10) -> list[tuple[int, int, float]]:
        """Return the pairs with the most negative interactions: two neurons and the interaction."""
        rows, columns = np.triu_indices(len(self.neurons), 1)
        values = self.interactions[rows, columns]
        best = [k for k in np.argsort(values, kind="stable")[:count] if values[k] < 0]
        return [(self.neurons[rows[k]], self.neurons[columns[k]], float(values[k])) for k in best]


def cancellation(
    task: Task,
    *,
    gone: Sequence[Neuron] = (),
    keep: str | Sequence[str] = (),
    only: str | Sequence[str] = (),
    max_pairs: int = MOST_PAIRS,
    seed: int = 0,
    tell: Tell = tell_nobody,
) -> list[Cancellation]:
    """Measure for pairs of neurons of each group whether they cancel each other.

    Formula: `I_ij = rise(i and j) - rise(i) - rise(j)`, exact, by ablation in the network without i. The contribution
    of neuron k to its readers is what their outputs lose with it; the cosine of two contributions runs over samples and
    outputs. A pair gives back `min(max(rise(i), rise(j)) - rise(i and j), -I_ij)`: what the second removal brings of
    the first one's cost, as far as it would not come anyway. Neurons are clustered (average linkage) by the part that
    is of the larger rise; the clusters that give back at least half are removed together as a test.

    Args:
        task: network, loss and data; pairs are measured on calibration data, the test on validation data.
        gone: neurons that were removed before.
        keep, only: globs of groups to leave out, or to look at alone.
        max_pairs: of a group with more pairs, half of so many are those with the most negative cosine, the other half
            is drawn at random.
        seed: of that draw.
        tell: who is told how far it is.

    Raises:
        BadInputError: no group has two neurons left, or `max_pairs` is not a whole number of at least 1.

    Cost: for each neuron one pass of what lies downstream of it, and a replay for each pair.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    >>> cancellation(task)[0].num_pairs
    15
    """
    if isinstance(max_pairs, bool) or not isinstance(max_pairs, int) or max_pairs < 1:
        raise BadInputError("max_pairs", "a whole number of at least 1", repr(max_pairs), f"Try {MOST_PAIRS}.")
    task.loss.needs_each_sample("cancellation")
    untouched = gated(task)
    task = in_memory(task, untouched)
    network, chosen = untouched.without(gone), restrict(untouched.trace, keep, only).groups
    groups = [group for group in network.groups if group in chosen and len(network.alive(group)) > 1]
    if not groups:
        raise BadInputError("gone", "few enough that a group keeps two neurons", f"{len(gone)}", "Name fewer.")
    found = list[Cancellation]()
    with network.program.scoring.arithmetic():
        scores = Ablation().score(network, task.calibration)
        for place, group in enumerate(groups):

            def told(part: float, place: int = place, name: str = group.name) -> None:
                tell(f"pairs of {name!r}", (place + part) / len(groups))

            found.append(_of_group(task, network, group, scores.values[group.name], max_pairs, seed, told))
    return found


def _of_group(
    task: Task,
    network: GatedNetwork,
    group: Group,
    rises: Vector,
    max_pairs: int,
    seed: int,
    told: Callable[[float], None],
) -> Cancellation:
    alive = network.alive(group)
    cosines = contribution_cosines(task.calibration, network, group)
    wanted, chosen = _chosen(len(alive), cosines, max_pairs, seed)
    interactions = np.full((len(alive), len(alive)), np.nan)
    for row, index in enumerate(alive):
        columns = np.flatnonzero(wanted[row])
        if len(columns):
            after = _rises_after(task.calibration, network, group, int(index), alive[columns])
            interactions[row, columns] = interactions[columns, row] = after - rises[alive[columns]]
        told((row + 1) / len(alive))
    shares = _shares(interactions, rises[alive])
    order, clusters = _clustered(shares)
    together = tuple(_together(task, network, group, alive[list(members)]) for members in clusters)
    indices = tuple(int(index) for index in alive)
    return Cancellation(group.name, indices, rises[alive], interactions, cosines, chosen, order, together)


def _chosen(count: int, cosines: Matrix | None, max_pairs: int, seed: int) -> tuple[NDArray[np.bool_], str]:
    """Which pairs are looked at [count, count], upper triangle, and which they are in words."""
    rows, columns = np.triu_indices(count, 1)
    wanted = np.zeros((count, count), bool)
    if len(rows) <= max_pairs:
        wanted[rows, columns] = True
        return wanted, f"all {len(rows):,} pairs"
    drawn = np.random.default_rng(seed).permutation(len(rows))
    opposed = np.empty(0, np.int64)
    if cosines is not None:
        opposed = np.argsort(cosines[rows, columns], kind="stable")[: max_pairs // 2]
    rest = drawn[~np.isin(drawn, opposed)][: max_pairs - len(opposed)]
    for some in (opposed, rest):
        wanted[rows[some], columns[some]] = True
    how = f"{len(opposed):,} with the most negative cosine and " if len(opposed) else ""
    return wanted, f"of {len(rows):,} pairs {how}{len(rest):,} drawn at random (seed {seed})"


def _rises_after(data: Data, network: GatedNetwork, group: Group, gone: int, others: NDArray[np.int64]) -> Vector:
    """The rises of other neurons in the network that lacks one: mean over samples."""
    without, sums = network.without([Neuron(group.name, gone)]), np.zeros(len(others))
    with torch.no_grad():
        for batch in data.batches():
            candidates = torch.from_numpy(others).to(batch.device)
            sums += Replay(without, batch).summed_rises(group, candidates).double().cpu().numpy()
    return sums / len(data)


def contribution_cosines(data: Data, network: GatedNetwork, group: Group) -> Matrix | None:
    """Return the cosines [K, K] of what the K neurons that are still there contribute to their readers.

    For a dense reader with weights W, neuron k contributes `o_k w_k`, so that the product of two contributions is
    `(o_k . o_l) (w_k . w_l)`. Over at most 512 samples. None where no reader takes the neurons in alone.

    Cost: K^2 products for each sample and output of a reader.
    """
    alive = torch.from_numpy(network.alive(group))
    products = torch.zeros(len(alive), len(alive), dtype=torch.float64)
    left = COSINE_SAMPLES
    with torch.no_grad():
        for batch in data.batches():
            size = _samples_at_once(network, group, len(alive))
            for some in batch.first(left).split(size):
                replay = Replay(network, Batch(of_each(some.inputs, Tensor.clone), some.targets))
                parts = replay.contributions(group, alive.to(batch.device))
                if not parts:
                    return None
                for part in parts:
                    flat = part.flatten(1)
                    products += (flat @ flat.T).double().cpu()
            left -= min(left, len(batch))
            if left <= 0:
                break
    lengths = products.diagonal().sqrt()
    cosines = products / (lengths[:, None] * lengths).clamp_min(torch.finfo(torch.float64).tiny)
    found: Matrix = cosines.clamp(-1, 1).numpy()
    return found


def _samples_at_once(network: GatedNetwork, group: Group, num_neurons: int) -> int:
    path = route(network.passes.program, network.trace.ids_of(group))
    return max(1, CONTRIBUTION_ELEMENTS // (num_neurons * path.elements_per_sample))


def _shares(interactions: Matrix, rises: Vector) -> Matrix:
    """The part of the larger of two rises that is given back when both go, from 0 to 1; 0 where not looked at."""
    larger, joint = np.maximum(rises[:, None], rises), interactions + rises[:, None] + rises
    given_back = np.where(np.isfinite(interactions), np.minimum(larger - joint, -interactions), 0.0)
    found: Matrix = np.clip(np.divide(given_back, larger, out=np.zeros_like(larger), where=larger > 0), 0.0, 1.0)
    return found


def _clustered(shares: Matrix) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The rows in the order of the tree's leaves, and the clusters of at least two."""
    distances = 1 - shares
    np.fill_diagonal(distances, 0.0)
    hierarchy = scipy.cluster.hierarchy
    tree = hierarchy.linkage(scipy.spatial.distance.squareform(distances, checks=False), method="average")
    labels = hierarchy.fcluster(tree, 1 - GIVEN_BACK, criterion="distance")
    clusters = [tuple(int(k) for k in np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return tuple(int(k) for k in hierarchy.leaves_list(tree)), [members for members in clusters if len(members) > 1]


def _together(task: Task, network: GatedNetwork, group: Group, members: NDArray[np.int64]) -> Together:
    """Remove all members together and each alone, sample by sample."""
    data = task.validation or task.calibration
    neurons = [Neuron(group.name, int(index)) for index in members]
    joint, alone = list[Tensor](), list[Tensor]()
    with torch.no_grad():
        for batch in data.batches():
            replay = Replay(network, batch)
            joint.append(network.without(neurons).losses(batch) - replay.losses_before)
            alone.append(replay.rises(group, torch.from_numpy(members).to(batch.device)).sum(0))
    apart, both = torch.cat(alone), torch.cat(joint)
    less = (apart - both).double().cpu().numpy()
    p = float(scipy.stats.ttest_1samp(less, 0.0, alternative="greater").pvalue) if less.std() > 0 else math.nan
    rises = float(apart.double().mean()), float(both.double().mean())
    return Together(tuple(int(index) for index in members), *rises, p, data.role)
