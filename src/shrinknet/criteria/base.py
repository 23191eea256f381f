"""What a criterion is: it begins with the network, sums over batches, and concludes (design 4.3)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Group
from shrinknet.core.registry import Named, registry_of_classes
from shrinknet.core.scores import Array, Scores
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.replay import Replay
from shrinknet.task.data import Batch, Data

Statistics = Mapping[str, Tensor]
"""What one batch says: tensors that add up over samples, most of them one for each group, neurons last."""


SQUARES = "squares of "
"""Begins the names of sums of squares."""


class Sums(dict[str, Tensor]):
    """Statistics added up in float64 over the batches of one look at the data, and how many samples they are of."""

    num_samples = 0

    def add(self, num_samples: int, observed: Statistics) -> None:
        """Add what one batch says."""
        self.num_samples += num_samples
        for name, value in observed.items():
            self[name] = self[name] + value if name in self else value


@dataclass(frozen=True, slots=True)
class Again:
    """What a criterion concludes that must look at the data once more, with another state."""

    state: Any


Look = Callable[[Any], Iterable[tuple[int, Statistics]]]
"""Given the state to observe with: the number of samples and the statistics of each batch, in order."""


@dataclass(frozen=True)
class Cost:
    """What one ranking costs for each sample, in passes.

    Attributes:
        forward: how many forward passes.
        backward: how many backward passes from the loss to the gates.
        replays: for every neuron that is still there, how many times what lies downstream of its readers.
        replayed: the groups whose neurons are replayed; all, where it is None.
        behind: how many backward passes to the gates begin at a value, instead of the loss.
    """

    forward: int = 1
    backward: int = 0
    replays: int = 0
    replayed: tuple[Group, ...] | None = None
    behind: Mapping[Node, int] = field(default_factory=dict)


class Criterion(Named):
    """A rule that scores every neuron of a network.

    A subclass gives a `name`, a `unit` ("loss" if the score estimates the rise of the mean loss), and up to three
    methods: `begin(network)` returns a state (the network, where left out), `observe(state, batch)` what one batch
    says, `conclude(state, sums)` the scores (the means over samples, where left out). Most rules are an `observe`; one
    that needs no data is a `conclude`. Batches, workers and resuming are then one loop that it knows nothing about.

    The state travels to workers, pickled; the network in it stands for each worker's own. `observe` must be a function
    of state and batch alone. What else a rule can do or needs, it says; nobody asks for its name:

    - `splits_by_group`: its state is the network, and it looks at groups one by one. Workers then share a batch, and
      each sees one of `network.groups`.
    - `needs_each_sample`: it takes the loss of each sample apart, and is refused where there is no such thing.
    - `follows_slopes`: its state is the network, its scores are slopes of its loss; it is refused where all are flat.
    - `can_race`: its scores are the measured rise of the loss, which races and screens find with fewer samples.
    - `foresees_refits`: it scores through `Replay`, and so the rise once readers are refit where a run refits them.
    """

    unit: ClassVar[str] = "score"
    splits_by_group: ClassVar[bool] = False
    needs_each_sample: ClassVar[bool] = False
    follows_slopes: ClassVar[bool] = False
    can_race: ClassVar[bool] = False
    foresees_refits: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.score is not Criterion.score:
            allowed = "one that writes begin, observe and conclude, by which workers score too"
            do = "Let begin(network) return what score took from the network, and conclude(state, sums) the scores."
            raise BadInputError("criterion", allowed, f"{cls.__qualname__}, which overrides score", do)

    def check(self, network: GatedNetwork, data: Data) -> None:
        """Raise a ShrinknetError, before anything is scored or written, where network, loss or data cannot be used."""

    def begin(self, network: GatedNetwork) -> Any:
        """Return the state that batches are observed with: all that the rule takes from the network."""
        return network

    def observe(self, state: Any, batch: Batch) -> Statistics:
        """Return statistics of one batch that add up over samples."""
        return {}

    def conclude(self, state: Any, sums: Sums) -> "Statistics | Again":
        """Turn the sums over all samples into scores, one for each neuron of each group; or look `Again`."""
        return mean_over_samples(sums)

    def cost(self, network: GatedNetwork) -> Cost | None:
        """Return what one ranking costs; None where nobody has counted."""
        return None if self.needs_data else Cost(forward=0)

    def differentiated_twice(self, network: GatedNetwork) -> tuple[Group, ...]:
        """Return the groups whose replays it differentiates twice: their graphs have to fit the memory."""
        return ()

    @property
    def needs_data(self) -> bool:
        """Whether the rule looks at data."""
        return type(self).observe is not Criterion.observe

    @final
    def score(self, network: GatedNetwork, batches: Iterable[Batch]) -> Scores:
        """Score every neuron in this process."""
        again = list(batches) if isinstance(batches, Iterator) else batches

        def look(state: Any) -> Iterator[tuple[int, Statistics]]:
            for number, batch in enumerate(again):
                yield len(batch), self.observed(state, batch, number)

        return scored(self, network, look)

    @final
    def observed(self, state: Any, batch: Batch, number: int) -> Statistics:
        """Return what the batch of that number says, in float64 on the CPU: the same here and in every worker."""
        if batch.number != number:
            batch = Batch(batch.inputs, batch.targets, number, batch.origin)
        with torch.no_grad(), self._derivatives_told():
            return {name: value.detach().double().cpu() for name, value in self.observe(state, batch).items()}

    @contextmanager
    def _derivatives_told(self) -> Iterator[None]:
        """Say in one sentence that torch has no second derivative of an operator, such as CTC."""
        try:
            yield
        except RuntimeError as error:
            if not ("derivative for" in str(error) and "not implemented" in str(error)):
                raise
            raise BadInputError(
                f"criterion={self.name!r}",
                "one whose derivatives torch has, of this network and loss",
                str(error).splitlines()[0].rstrip("."),
                "Use `criterion='ablation'`, which takes none.",
            ) from error


def scored(criterion: Criterion, network: GatedNetwork, look: Look) -> Scores:
    """Score every neuron: begin, look at the data, conclude, until the criterion need not look again."""
    with torch.no_grad():
        concluded: Statistics | Again = Again(criterion.begin(network))
        sums = Sums()
        while isinstance(concluded, Again):
            state, sums = concluded.state, Sums()
            for num_samples, observed in look(state) if criterion.needs_data else ():
                sums.add(num_samples, observed)
            concluded = criterion.conclude(state, sums)
    return as_scores(concluded, criterion, network, standard_errors(sums))


def as_scores(values: Statistics, criterion: Criterion, network: GatedNetwork, errors: Mapping[str, Array]) -> Scores:
    """Bring scores to the CPU as float64 vectors, beside their standard errors.

    Raises:
        BadInputError: there is not one score for each neuron of each group.
    """
    widths = {group.name: (group.width,) for group in network.groups}
    found = {name: tuple(value.shape) for name, value in values.items()}
    if found != widths:
        wrong = next(name for name in {**widths, **found} if widths.get(name) != found.get(name))
        raise BadInputError(
            "criterion",
            "one that concludes with a score for each neuron of each group",
            f"{found.get(wrong, 'nothing')} from {criterion.name!r} for group {wrong!r} of {widths.get(wrong, 'no')}",
            "Return a tensor [neurons] under the name of every group.",
        )
    arrays = {name: values[name].detach().double().cpu().numpy() + 0.0 for name in widths}  # no minus zero
    return Scores(arrays, criterion.unit, errors)


def squares_of(network: GatedNetwork, estimates: Tensor) -> Statistics:
    """Sum the squares of each sample's estimates [samples, neurons]: the scores' standard errors are known by them."""
    squares = network.by_group(estimates.double().square().sum(0))
    return {f"{SQUARES}{name}": value for name, value in squares.items()}


def mean_over_samples(sums: Sums) -> Statistics:
    """Divide sums by the number of samples."""
    return {name: total / sums.num_samples for name, total in sums.items() if not name.startswith(SQUARES)}


def standard_errors(sums: Sums) -> dict[str, Array]:
    """Return `sqrt(variance / samples)` of each neuron's mean, where squares were added up.

    The variance is that of the estimates over the samples, divided by one less than there are.
    """
    count, found = sums.num_samples, {}
    for name in (name for name in sums if SQUARES + name in sums and count > 1):
        variance = (sums[SQUARES + name] - sums[name].square() / count).clamp(min=0) / (count - 1)
        found[name] = (variance / count).sqrt().numpy()
    return found


def of_batch(batch: Batch, statistics: Statistics) -> Statistics:
    """Return statistics that are not added to those of other batches (see `by_batch`)."""
    return {f"{batch.number}:{name}": value for name, value in statistics.items()}


def by_batch(sums: Sums) -> list[Statistics]:
    """Return the statistics that `of_batch` kept apart, in the order of the batches."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in sums.items():
        number, _, name = key.partition(":")
        found.setdefault(int(number), {})[name] = value
    return [found[number] for number in sorted(found)]


Estimate = Callable[[Replay, Group, Tensor], Tensor]
"""Given a replay, a group and candidate indices: one figure for each candidate, summed over the batch's samples."""


def over_candidates(
    network: GatedNetwork, batch: Batch, estimate: Estimate, groups: Iterable[Group] | None = None
) -> Statistics:
    """Run an estimate over every candidate of some groups that is still there; other neurons get 0."""
    replay = Replay(network, batch)
    totals = {}
    for group in network.groups if groups is None else groups:
        total = torch.zeros(group.width, dtype=torch.float64, device=batch.device)
        alive = torch.from_numpy(network.scored(group)).to(total.device)
        if len(alive):
            total[alive] = estimate(replay, group, alive).double()
        totals[group.name] = total
    return totals


BY_NAME = registry_of_classes(Criterion, "criterion", "shrinknet.criteria", "shrinknet.criteria", "criterion")


def criterion_names() -> tuple[str, ...]:
    """Return the names of every criterion there is."""
    return BY_NAME.names()


def find_criterion(criterion: object, seed: int = 0) -> Criterion:
    """Return the criterion of that name, or that `package.module:Class` (a criterion object as it is).

    Raises:
        BadInputError: the name is unknown.

    >>> find_criterion("taylor-1").name
    'taylor-1'
    """
    found: Criterion = BY_NAME.made(criterion, seed=seed)
    return found
