"""Races: the few neurons that cost the least to lose, found without looking at every neuron on every sample.

Candidates are scored on growing parts of the calibration rows, drawn without replacement. After each part a candidate
is dropped once it is surely worse than as many others as are wanted, and let in once it is surely better than all
others but those (Maron and Moore 1994, "Hoeffding races"). Three things make the intervals narrow:

- Two candidates are compared on the same samples, so that only their difference has to be told from 0 (the paired
  differences of Birattari et al. 2002, "A racing algorithm for configuring metaheuristics").
- The tangent's prediction of each sample's rise, `-dL_n/dg`, is known for all samples after one backward pass. A rise
  is estimated by regression on it (Cochran, "Sampling techniques", 1977, chapter 7): only what the tangent does not
  foresee has to be sampled.
- Samples are drawn without replacement, so that the interval closes as they run out (Cochran, sections 2.6 to 2.8).

Half of an interval's width is `t s / sqrt(n) sqrt(1 - n / N)`, with s the standard deviation of the differences of n
residuals out of N, and t Student's quantile for the confidence shared out by Bonferroni over every comparison that a
race can make. What cannot be told apart before n = N is settled by all of the data. It leans on means of n residuals
being near to normal; bounds that do not (empirical Bernstein) are so wide at a few hundred samples as to save nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from shrinknet.core.records import Contender, Neuron, RaceResult
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.replay import Replay
from shrinknet.task.data import Data

LEAST_SAMPLES = 64
"""Nothing is decided on fewer samples: a standard deviation of a few differences says little."""

GROWTH = 1.3
"""Each part is so many times as long, all before it included, as the one before."""

NUM_FITTED = 3
"""What is fitted to each difference of residuals: one mean, and the slope of either neuron."""

Vector = NDArray[np.float64]


def parts_of(data: Data, seed: int) -> tuple[Data, ...]:
    """Return the rows in an order drawn at random, in the parts that a race looks at one after another."""
    drawn = data.permuted(seed)
    ends, end = [0], min(LEAST_SAMPLES, len(data))
    while ends[-1] < len(data):
        ends.append(end)
        end = min(len(data), math.ceil(end * GROWTH))
    return tuple(drawn.rows(start, stop) for start, stop in pairwise(ends))


def race(
    network: GatedNetwork,
    parts: Sequence[Data],
    candidates: Sequence[Neuron],
    num_wanted: int,
    confidence: float,
    tie_loss: float = 0.0,
) -> RaceResult:
    """Find the candidates that cost the least to lose.

    Args:
        network: the masked network as it is now.
        parts: all rows, in the parts that are looked at one after another; one part alone is an exact ranking.
        candidates: the neurons that take part, in the order that breaks ties.
        num_wanted: how many are wanted.
        confidence: how sure the whole of the decisions is, before all of the data are seen.
        tie_loss: the race is over once none of the best is surely worse than another by more than this.

    Returns:
        All candidates, the wanted ones first, each with the interval of its rise and the samples it was scored on.

    Cost: one forward and one backward pass, then a replay for each candidate and sample that it is scored on; memory
    for two numbers of 64 bits for each candidate and sample.
    """
    total, wanted = sum(map(len, parts)), min(num_wanted, len(candidates))
    tail = (1 - confidence) / (len(candidates) * max(1, wanted) * len(parts))
    foreseen = _foreseen(network, parts, candidates)
    running = {neuron: Rises(np.empty(0), foreseen[neuron]) for neuron in candidates}
    let_in, dropped = dict[Neuron, Rises](), dict[Neuron, Rises]()
    for part in parts:
        for neuron, rises in _rises(network, part, tuple(running)).items():
            running[neuron] = running[neuron].with_more(rises)
        better, worse = _decided(running, wanted - len(let_in), tail, tie_loss)
        let_in |= {neuron: running.pop(neuron) for neuron in better}
        dropped |= {neuron: running.pop(neuron) for neuron in worse}
        if not running:
            break
    first, rest = (
        sorted((_contender(*entry, tail) for entry in fate.items()), key=lambda contender: contender.score)
        for fate in (let_in, dropped)
    )
    return RaceResult((*first, *rest), wanted, total)


@dataclass(frozen=True, slots=True)
class Rises:
    """The rises of the loss seen so far without one neuron, and what the tangent foresees on all samples.

    With x what is foreseen, y what is seen, b the slope of y on x: the mean is `mean(y) - b (mean(x seen) - mean(x))`.
    """

    seen: Vector
    foreseen: Vector

    def with_more(self, rises: Vector) -> "Rises":
        """Return these and more rises."""
        return Rises(np.concatenate([self.seen, rises]), self.foreseen)

    @property
    def is_whole(self) -> bool:
        """Whether every sample was seen."""
        return len(self.seen) == len(self.foreseen)

    def regressed(self) -> tuple[float, Vector]:
        """Return the mean rise over all samples, estimated, and the residuals of those seen (their mean is 0)."""
        mean = float(self.seen.mean())
        known = self.foreseen[: len(self.seen)]
        away, centred = known - known.mean(), self.seen - mean
        spread = float(away @ away)
        if self.is_whole or spread == 0:
            return mean, centred
        slope = float(away @ centred) / spread
        return mean - slope * float(known.mean() - self.foreseen.mean()), centred - slope * away


def _foreseen(network: GatedNetwork, parts: Sequence[Data], neurons: Sequence[Neuron]) -> dict[Neuron, Vector]:
    """What the tangent says of each sample's rise; nothing where the race is over after one part, or costs more."""
    if len(parts) == 1 or not network.program.has_samples_apart:
        total = sum(map(len, parts))
        return dict.fromkeys(neurons, np.zeros(total))
    slopes = [network.gate_slopes(batch) for part in parts for batch in part.batches()]
    by_group = {name: -torch.cat([one[name] for one in slopes]).double().cpu().numpy().T for name in slopes[0]}
    return {neuron: by_group[neuron.group][neuron.index] for neuron in neurons}


def _rises(network: GatedNetwork, part: Data, neurons: Sequence[Neuron]) -> dict[Neuron, Vector]:
    """The rise of each sample's loss without each neuron."""
    groups = {group.name: group for group in network.groups}
    found: dict[Neuron, list[Vector]] = {neuron: [] for neuron in neurons}
    with torch.no_grad():
        for batch in part.batches():
            replay = Replay(network, batch)
            for name in dict.fromkeys(neuron.group for neuron in neurons):
                own = [neuron for neuron in neurons if neuron.group == name]
                candidates = torch.tensor([neuron.index for neuron in own], device=batch.device)
                rises = replay.rises(groups[name], candidates).double().cpu().numpy()
                for neuron, row in zip(own, rises, strict=True):
                    found[neuron].append(row)
    return {neuron: np.concatenate(rows) for neuron, rows in found.items()}


def _decided(
    running: Mapping[Neuron, Rises], num_wanted: int, tail: float, tie_loss: float
) -> tuple[list[Neuron], list[Neuron]]:
    """Return who is surely among those wanted, and who surely is not.

    All are decided once all data are seen, or once none of the best is worse than another by more than `tie_loss`:
    whoever went out before is surely worse than these, so that the loss of no choice is higher by more.
    """
    neurons, any_one = list(running), next(iter(running.values()))
    regressed = [rises.regressed() for rises in running.values()]
    means, residuals = np.array([mean for mean, _ in regressed]), np.stack([rest for _, rest in regressed])
    places = np.argsort(means, kind="stable")
    best, others = places[:num_wanted], places[num_wanted:]
    if any_one.is_whole or not len(best) or not len(others):
        return [neurons[place] for place in best], [neurons[place] for place in others]
    squares, num_seen = np.square(residuals).sum(1), residuals.shape[1]
    spread = squares[others, None] + squares[None, best] - 2 * residuals[others] @ residuals[best].T
    deviations = np.sqrt(np.maximum(spread, 0) / (num_seen - NUM_FITTED))
    ahead = means[others, None] - means[None, best] - half_width(deviations, num_seen, len(any_one.foreseen), tail)
    is_sure = ahead > -tie_loss if bool((ahead > -tie_loss).all()) else ahead > 0
    better = [neurons[place] for place, sure in zip(best, is_sure.all(0), strict=True) if sure]
    worse = [neurons[place] for place, sure in zip(others, is_sure.all(1), strict=True) if sure]
    return better, worse


def half_width(deviation: Any, num_samples: int, total: int, tail: float) -> Any:
    """Return `t s / sqrt(n) sqrt(1 - n / N)`, t the quantile of Student's distribution that leaves `tail` above it.

    >>> half_width(1.0, 100, 100, 0.01)
    0.0
    >>> bool(half_width(1.0, 100, 10**9, 0.025) > 0.196)
    True
    """
    quantile = float(scipy.stats.t.isf(tail, num_samples - NUM_FITTED))
    return quantile * deviation / math.sqrt(num_samples) * math.sqrt(max(0.0, 1 - num_samples / total))


def _contender(neuron: Neuron, rises: Rises, tail: float) -> Contender:
    mean, residuals = rises.regressed()
    if rises.is_whole:
        return Contender(neuron, mean + 0.0, 0.0, len(residuals))
    deviation = math.sqrt(float(residuals @ residuals) / (len(residuals) - NUM_FITTED))
    half = float(half_width(deviation, len(residuals), len(rises.foreseen), tail))
    return Contender(neuron, mean + 0.0, half, len(residuals))
