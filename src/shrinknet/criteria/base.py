"""What a criterion is: it sums first and concludes last (design 4.3)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from typing import ClassVar

import torch
from torch import Tensor

from shrinknet.ablation.replay import Replay
from shrinknet.data import Batch
from shrinknet.errors import BadInputError, did_you_mean
from shrinknet.execution.serial import ordered_map
from shrinknet.gates import GatedNetwork
from shrinknet.records import Group
from shrinknet.types import Scores

Statistics = dict[str, Tensor]
"""For each group, a float64 tensor whose last axis runs over the group's neurons; it adds up over samples."""


class Criterion(ABC):
    """A rule that scores every neuron of a network.

    A subclass gives a `name`, a `unit` ("loss" when the score estimates the rise of the mean loss), and the two
    halves `observe` and `conclude`. Batches, shards and resuming are then one loop that it knows nothing about. One
    that looks at neurons one by one may say `splits_by_group` and write `observe_groups`: workers then share a batch.
    One that takes the loss of each sample apart says `needs_each_sample`: it is refused where there is no such thing.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "loss"
    splits_by_group: ClassVar[bool] = False
    needs_each_sample: ClassVar[bool] = False

    @abstractmethod
    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return statistics of one batch that add up over samples."""

    @abstractmethod
    def conclude(self, sums: Statistics, num_samples: int) -> Statistics:
        """Turn the sums over all samples into scores, one for each neuron of each group."""

    @classmethod
    def with_seed(cls, seed: int) -> "Criterion":
        """Return the criterion; one that draws numbers draws them from this seed."""
        return cls()

    def score(self, network: GatedNetwork, batches: Iterable[Batch]) -> Scores:
        """Score every neuron: observe each batch, add up in order, conclude."""
        sums: Statistics = {}
        num_samples = 0
        for size, observed in ordered_map(partial(self._observe_sized, network), batches):
            num_samples += size
            add(observed, sums)
        return self.concluded(sums, num_samples)

    def observe_groups(self, network: GatedNetwork, batch: Batch, groups: Sequence[Group]) -> Statistics:
        """Return the statistics of one batch; of some groups alone where the criterion `splits_by_group`."""
        return self.observe(network, batch)

    def concluded(self, sums: Statistics, num_samples: int) -> Scores:
        """Return the scores that the sums over all samples give."""
        return as_scores(self.conclude(sums, num_samples), self.unit)

    def _observe_sized(self, network: GatedNetwork, batch: Batch) -> tuple[int, Statistics]:
        with torch.no_grad():
            return len(batch), self.observe(network, batch)


def add(observed: Statistics, sums: Statistics) -> None:
    """Add statistics to sums."""
    for name, value in observed.items():
        sums[name] = sums[name] + value if name in sums else value


Estimate = Callable[[Replay, Group, Tensor], Tensor]
"""Given a replay, a group and candidate indices: one figure for each candidate, summed over the batch's samples."""


def over_candidates(
    network: GatedNetwork, batch: Batch, estimate: Estimate, groups: Iterable[Group] | None = None
) -> Statistics:
    """Run an estimate over every neuron of some groups that is still there; neurons already gone get 0."""
    replay = Replay(network, batch)
    totals = {}
    for group in network.groups if groups is None else groups:
        total = torch.zeros(group.width, dtype=torch.float64, device=batch.inputs.device)
        alive = torch.from_numpy(network.alive(group)).to(total.device)
        if len(alive):
            total[alive] = estimate(replay, group, alive).double()
        totals[group.name] = total
    return totals


def mean_over_samples(sums: Statistics, num_samples: int) -> Statistics:
    """Divide sums by the number of samples."""
    return {group: total / num_samples for group, total in sums.items()}


def as_scores(values: Statistics, unit: str) -> Scores:
    """Bring scores to the CPU as float64 vectors."""
    arrays = {name: value.detach().double().cpu().numpy() + 0.0 for name, value in values.items()}  # no minus zero
    return Scores(arrays, unit)


def _all_criteria() -> dict[str, type[Criterion]]:
    package = import_module("shrinknet.criteria")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    inside = f"{package.__name__}."
    return {kind.name: kind for kind in Criterion.__subclasses__() if kind.__module__.startswith(inside)}


def criterion_names() -> tuple[str, ...]:
    """Return the names of every criterion there is."""
    return tuple(sorted(_all_criteria()))


def find_criterion(criterion: "str | Criterion", seed: int = 0) -> Criterion:
    """Return the criterion of that name (a criterion object is returned as it is).

    Raises:
        BadInputError: the name is unknown.

    >>> find_criterion("taylor-1").name
    'taylor-1'
    """
    if isinstance(criterion, Criterion):
        return criterion
    known = _all_criteria()
    if not isinstance(criterion, str):
        do = "Give a name, or an object of your own class of Criterion."
        raise BadInputError("criterion", "the name of a criterion", repr(criterion), do)
    if criterion not in known:
        raise BadInputError("criterion", "the name of a criterion", repr(criterion), did_you_mean(criterion, known))
    return known[criterion].with_seed(seed)
