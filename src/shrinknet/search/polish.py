"""Polish: undo what greedy removal got wrong. A neuron that is gone comes back, and others go in its place.

Removal by removal a search never looks back: a neuron that was cheap early on may be worth more, once others are gone,
than one that is still there. A round looks at all neurons that are gone by the fall of the loss if each came back
(exactly: a replay of its gate from 0 to 1), takes those that bring most for each unit that they cost, lets the run's
own ranking say what goes instead until the goals are reached again, refits, and measures. The exchange that lowers the
loss most is made. Four fifths of the calibration rows judge; where the loss of the last fifth would rise, it is left.

Exchanges after a greedy search: OSSCAR (Meng et al. 2024) for layers; here over the whole network, by its loss.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shrinknet.compensation.compensate import Compensation
from shrinknet.compensation.none import NoCompensation
from shrinknet.core.records import Measures, Neuron, Step, removed_by
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.replay import Replay
from shrinknet.measure.costs import CostsOf
from shrinknet.measure.evaluation import Evaluation, other_answers
from shrinknet.search.methods import Choose
from shrinknet.search.price import Price
from shrinknet.search.rank import Limits, Ranked
from shrinknet.search.schedule import CANDIDATES, FEW_ROWS, Prices
from shrinknet.search.steps import as_many_as_needed, measure, measures_of, on_validation
from shrinknet.task.task import Task

TRIED, LOOKS = 4, 4
"""In a round of an effort so many neurons are tried for coming back: those that promise most, and where none of them
is good the next ones, up to so many times; without an effort all are."""

MOST_ROUNDS = 100
"""So many exchanges are made at most where no effort says how many."""

MOST_IN_RETURN = 16
"""No more than so many neurons go for one that comes back."""

HELD_OUT = 5
"""One of so many calibration rows judges no exchange, but can forbid it."""


@dataclass(frozen=True)
class Exchanges:
    """What exchanges are found by.

    Attributes:
        task: its calibration rows judge.
        choose: in which order neurons should go, found anew each time.
        limits: what every group keeps.
        costs_of: what a network costs.
        price: what a neuron of each group frees, or costs.
        compensation: how readers make up for what is gone: for all of it at once.
        reaches: whether a network is small enough.
        allowed: whether a network may be handed back, by what was measured: no guard is broken.
        at_once: how many neurons are tried for coming back before the best of them is taken; None: all.
    """

    task: Task
    choose: Choose
    limits: Limits
    costs_of: CostsOf
    price: Price
    compensation: Compensation | NoCompensation
    reaches: Callable[[GatedNetwork], bool]
    allowed: Callable[[Measures], bool]
    at_once: int | None

    def steps(self, history: Sequence[Step], rounds: int) -> Iterator[Step]:
        """Yield one exchange after another, at most so many: until none of those tried makes the network better.

        What is yielded follows from the history alone, so that a run that was killed goes on as it would have.

        Cost of a round: the exact ablation of as many neurons as are gone; for each of those that are tried a
        ranking, a refit of all readers and a pass.
        """
        removed, last = removed_by(history), history[-1]
        answered = on_validation(self.task, self._without(removed))
        for _ in range(rounds):
            started = time.perf_counter()
            found = self._best(removed)
            if found is None:
                return
            back, taken = found
            gone = tuple(neuron for neuron, _ in taken)
            removed = (*(neuron for neuron in removed if neuron != back), *gone)
            network = self._without(removed)
            before, answered = answered, on_validation(self.task, network)
            step = self._measured(last.number + 1, network, taken, back, before, answered, started)
            if not self.allowed(step.measures):
                return
            yield step
            last = step

    def _measured(
        self,
        number: int,
        network: GatedNetwork,
        taken: Ranked,
        back: Neuron,
        before: Evaluation | None,
        after: Evaluation | None,
        started: float,
    ) -> Step:
        bare = self.compensation.bare_measures(network, lambda one: measure(self.task, one, self.costs_of))
        measures = measures_of(self.task, network, self.costs_of, after)
        gone, scores = tuple(neuron for neuron, _ in taken), tuple(score for _, score in taken)
        seconds, answers = time.perf_counter() - started, other_answers(before, after)
        return Step(number, gone, scores, measures, seconds, None, bare, answers, (back,))

    def _best(self, removed: Sequence[Neuron]) -> tuple[Neuron, Ranked] | None:
        """Return the best exchange of the first ones that are tried, None where none is good."""
        promising = self._promising(removed)
        size = self.at_once or len(promising)
        looks = [promising[start : start + size] for start in range(0, len(promising), size)]
        return next(filter(None, (self._best_of(some, removed) for some in looks[:LOOKS])), None)

    def _best_of(self, some: Sequence[Neuron], removed: Sequence[Neuron]) -> tuple[Neuron, Ranked] | None:
        network = self._without(removed)
        before = self._losses(network)
        tried = [(back, self._in_return(network, back)) for back in some]
        best, least = None, float(before[self._judging].mean())
        for back, taken in tried:
            if taken is None:
                continue
            gone = (*(neuron for neuron in removed if neuron != back), *(neuron for neuron, _ in taken))
            after = self._losses(self._without(gone))
            loss, others = float(after[self._judging].mean()), ~self._judging
            if loss < least and not after[others].mean() > before[others].mean():
                best, least = (back, taken), loss
        return best

    def _promising(self, removed: Sequence[Neuron]) -> list[Neuron]:
        """Return the removed neurons, first those that lower the loss most for each unit that they cost."""
        network = self._without(removed)
        prices = self.price(network, self.limits)
        worth = {n: fall / max(prices.get(n.group, 1.0), 1e-12) for n, fall in falls(network, self.task, removed)}
        return sorted(removed, key=lambda neuron: -worth[neuron])

    def _in_return(self, network: GatedNetwork, back: Neuron) -> Ranked | None:
        """Return who goes where a neuron came back, so that all goals are reached again; None where it cannot be."""
        wider = network.with_present(network.present | ~network.trace.present((back,)))
        if self.reaches(wider):
            return []
        count = 1
        while count <= MOST_IN_RETURN:
            choice, prices = self.choose(wider, count), self.price(wider, self.limits)
            others = replace(choice, order=[one for one in choice.order if one[0] != back])
            taken = as_many_as_needed(wider, others, count, self.limits, prices, self.reaches)
            if self.reaches(wider.without(neuron for neuron, _ in taken)):
                return taken
            count *= 2
        return None

    def _without(self, removed: Sequence[Neuron]) -> GatedNetwork:
        return self.compensation.after([removed])

    def _losses(self, network: GatedNetwork) -> Float[Tensor, " samples"]:
        with torch.no_grad():
            return torch.cat([network.losses(batch).double().cpu() for batch in self.task.calibration.batches()])

    @property
    def _judging(self) -> Tensor:
        """Which calibration rows judge."""
        return torch.arange(len(self.task.calibration)) % HELD_OUT != HELD_OUT - 1


def passes_of_a_round(prices: Prices, num_gone: int, num_rows: int) -> float:
    """Return what a round takes, in passes: as many ablations as are gone, and what each of those tried takes, twice.

    >>> round(passes_of_a_round(Prices(1.0, 5.0, 0.155), 90, 1000), 2)
    36.51
    """
    ranking = prices.ranking * min(num_rows, FEW_ROWS) / num_rows
    each = 2 * (ranking + CANDIDATES * prices.candidate) + prices.measuring
    return 1 + num_gone * prices.candidate + 2 * TRIED * each + prices.measuring


def falls(network: GatedNetwork, task: Task, removed: Sequence[Neuron]) -> list[tuple[Neuron, float]]:
    """Return by how much the mean loss falls if each of the removed neurons comes back: exactly, as the others are.

    Cost: what the exact ablation of as many neurons costs.
    """
    by_group = {group.name: (group, [n.index for n in removed if n.group == group.name]) for group in network.groups}
    sums = {name: np.zeros(len(places)) for name, (_, places) in by_group.items()}
    with torch.no_grad():
        for batch in task.calibration.batches():
            replay = Replay(network, batch)
            for name, (group, places) in by_group.items():
                if places:
                    gates = torch.ones(len(places), dtype=network.program.dtype, device=network.program.device)
                    candidates = torch.tensor(places, device=network.program.device)
                    sums[name] -= replay.summed_rises(group, candidates, gates).cpu().numpy()
    found = [
        (Neuron(name, index), float(total) / len(task.calibration))
        for name, (_, places) in by_group.items()
        for index, total in zip(places, sums[name], strict=True)
    ]
    return found
