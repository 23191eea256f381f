"""One run's steps until every goal is reached, by measurement where there is an artefact; then its end."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shrinknet.compensation.compensate import Compensation
from shrinknet.compensation.none import NoCompensation
from shrinknet.core.config import RunConfig
from shrinknet.core.errors import RunFolderError
from shrinknet.core.folder import RunFolder
from shrinknet.core.records import Plan, Step, removed_by
from shrinknet.engine.gates import GatedNetwork
from shrinknet.export.artefact import Artefact
from shrinknet.run.effort import Effort
from shrinknet.run.facts import finish
from shrinknet.run.family import is_far_below, judged, least_pruned, misses, next_wanted, portions_of
from shrinknet.run.options import Pruning
from shrinknet.run.run import Run
from shrinknet.run.together import refit_together
from shrinknet.run.written import write_end
from shrinknet.search.goals import Goal
from shrinknet.search.methods import Choose
from shrinknet.search.polish import MOST_ROUNDS, TRIED, Exchanges
from shrinknet.search.price import Price
from shrinknet.search.rank import Limits, takeable
from shrinknet.search.schedule import Paced, reaching
from shrinknet.search.steps import Pace, Until, measure, room_left, steps
from shrinknet.task.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """The steps of one run, and its end; where the measured artefact misses a budget, the steps after that."""

    task: Task
    network: GatedNetwork
    options: Pruning
    choose: Choose
    choose_anew: Choose
    effort: Effort | None
    limits: Limits
    start: Step
    price: Price
    ships: Artefact
    compensation: Compensation | NoCompensation
    folder: RunFolder | None

    def run(self, config: RunConfig) -> Run:
        """Take steps until every goal is reached, by measurement where there is an artefact; then cut, prove, write."""
        goals = self.options.goals
        whole = None if self.limits.in_blocks or self.effort is not None else self.options.step
        whole_curve, max_latency = config.search.whole_curve, config.search.max_latency
        history = [self.start] if self.folder is None else _resumed(self.folder, self.start, whole)
        exchanges = [step for step in history if step.restored]
        history = history[: len(history) - len(exchanges)]
        wanted = list(goals)
        while True:
            until = self._steps(history, () if whole_curve else wanted, wanted)
            run = self._conclude(history, until, wanted, goals, config)
            if not (missed := misses(run, goals, max_latency)):
                run = self._come_back(history, run, goals, config)
                break
            if not run.is_met:
                break
            log.info("The artefact misses its budget, and the search goes on: %s.", "; ".join(missed))
            wanted = next_wanted(run, goals, wanted, max_latency)
        run = self._polished(history, exchanges, judged(run, goals, max_latency), goals, wanted, config)
        run = refit_together(run, self.options.told.tell, self.options.guards)
        if self.folder is not None:
            run = replace(run, folder=self.folder)
            write_end(self.folder, run)
        run.verification.raise_if_broken()
        return run

    def _steps(self, history: list[Step], goals: Sequence[Goal], wanted: Sequence[Goal]) -> Until:
        """Take steps until the goals are reached, each written as it happens; wanted are those of the whole curve.

        A large step that breaks a guard is tried again with half as many neurons, where nobody asked for its size.
        """
        paced, most = self._paced(goals), None
        while True:
            search = self._until(history, goals, wanted, self._pace(paced, most))
            for taken in search:
                history.append(taken)
                if self.folder is not None:
                    self.folder.append(taken)  # killed here, it resumes here
                self.options.told.step(taken, self._fraction(history, goals, paced))
                if most is not None:
                    break
            size = 0 if search.undone is None else len(search.undone.removed)
            if most is not None and not size and not search.reason:
                most = None  # what follows depends on the history alone
            elif self.effort is not None and size > 1 and (most is None or size <= most):
                most = size // 2
            else:
                return search

    def _until(self, history: list[Step], goals: Sequence[Goal], wanted: Sequence[Goal], pace: Pace) -> Until:
        here, last = self._masked(history), history[-1]
        no_more = (
            "one neuron is left in each group" if self.limits == Limits() else f"nothing more can go with {self.limits}"
        )
        limit = room_left(wanted, self.start.measures)
        taking = steps(
            self.task,
            here,
            self.choose,
            pace,
            last,
            limit,
            self.limits,
            self.ships.costs,
            self.price,
            self.compensation,
            self._enough(wanted),
        )
        return Until(taking, self.start, goals, self.options.guards, last, no_more)

    def _paced(self, goals: Sequence[Goal]) -> Paced | None:
        """How an effort is spent on the way to the goals."""
        if self.effort is None:
            return None
        return Paced(self.effort.schedule, self.network, self.limits, reaching(self.start, goals, self.ships.costs))

    def _pace(self, paced: Paced | None, most: int | None) -> Pace:
        """How many neurons go at each step."""
        if paced is None:
            return lambda num_steps, network: self.options.step or 1
        return paced.count if most is None else lambda num_steps, network: min(most, paced.count(num_steps, network))

    def _fraction(self, history: Sequence[Step], goals: Sequence[Goal], paced: Paced | None) -> float:
        """How much of the run is done: of its steps, where an effort says how many there are; else of the goals."""
        start, last = self.start.measures, history[-1]
        if paced is not None:
            return paced.fraction(last.number, self._masked(history))
        if goals:
            return min(goal.progress(start, last.measures) for goal in goals)
        removable = start.costs.num_neurons - len(self.network.groups)
        return (start.costs.num_neurons - last.measures.costs.num_neurons) / max(1, removable)

    def _enough(self, wanted: Sequence[Goal]) -> Callable[[GatedNetwork], bool]:
        """Where steps are large by no wish of the user, the last one is no larger than it has to be."""
        return (lambda network: False) if self.effort is None else reaching(self.start, wanted, self.ships.costs)

    def _come_back(self, history: list[Step], run: Run, goals: Sequence[Goal], config: RunConfig) -> Run:
        """Go back to the least pruned step whose file meets the goals, where forecasts were far too high."""
        gone = [len(removed_by(history[: place + 1])) for place in range(len(history))]
        place = gone.index(len(run.plan.removed))
        if config.search.max_latency is not None or not place or not is_far_below(run, goals, history[place - 1]):
            return run
        log.info("The artefact is far below its forecast, and the search comes back up.")
        return least_pruned(run, place, goals, lambda back: self._at(history, history[back], True, "", config))

    def _polished(
        self,
        history: Sequence[Step],
        made: Sequence[Step],
        run: Run,
        goals: Sequence[Goal],
        wanted: Sequence[Goal],
        config: RunConfig,
    ) -> Run:
        """Make exchanges after a search that reached its goals, where that is asked for; some are made already.

        `wanted` is what forecasts must reach. A file that misses a budget all the same undoes them.
        """
        if not config.search.polish or not run.is_met:
            return run
        if len(run.plan.removed) < len(removed_by(history)):
            log.info("Not polished: the network that is handed back is not the last one of the search.")
            return run
        rounds, steps = int(str(config.content.get("rounds", MOST_ROUNDS))), [*history, *made]
        for taken in self._exchanges(wanted).steps(steps, rounds - len(made)):
            steps.append(taken)
            if self.folder is not None:
                self.folder.append(taken)
            self.options.told.tell("polish", (len(steps) - len(history)) / rounds)
        if len(steps) == len(history):
            log.info("Polished: no exchange of those tried lowers the loss.")
            return run
        polished = judged(self._at(steps, steps[-1], True, run.reason, config), goals, config.search.max_latency)
        if not polished.is_met:
            log.warning("Polished, the file would miss its budget: the network is handed back as it was before.")
            if self.folder is not None:
                self.folder.keep_history(history)
            return run
        return polished

    def _exchanges(self, wanted: Sequence[Goal]) -> Exchanges:
        """What exchanges are found by: as the search, but that nothing is remembered from one to the next."""
        return Exchanges(
            self.task,
            self.choose_anew,
            self.limits,
            self.ships.costs,
            self.price,
            self.compensation,
            reaching(self.start, wanted, self.ships.costs),
            lambda now: not any(guard.broken(self.start.measures, now) for guard in self.options.guards),
            None if self.effort is None else TRIED,
        )

    def _masked(self, history: Sequence[Step]) -> GatedNetwork:
        return self.compensation.after(portions_of(history, removed_by(history)))

    def _conclude(
        self, history: list[Step], until: Until, wanted: Sequence[Goal], goals: Sequence[Goal], config: RunConfig
    ) -> Run:
        """Pick the step that is handed back, order what is left, cut and prove."""
        start = self.start.measures
        reached = (s for s in history if wanted and all(goal.reached(start, s.measures) for goal in wanted))
        chosen = next(reached, None)
        is_met = chosen is not None or (not wanted and until.is_met)
        end = chosen or history[-1]
        reason = until.reason if chosen is None else "reached the goal: " + " and ".join(map(str, goals))
        return self._at(history, end, is_met, reason, config)

    def _at(self, history: list[Step], end: Step, is_met: bool, reason: str, config: RunConfig) -> Run:
        """Order what is left after all steps, cut and prove the network as it was after one of them."""
        removed, final = removed_by(history), self._masked(history)
        order = self.choose(final, len(final.present)).order
        remaining = takeable(final, order, len(final.present), self.limits, self.price(final, self.limits))
        taken = [s for s in history if s.number <= end.number]
        whole = Plan(removed, tuple(neuron for neuron, _ in remaining))
        masked = self._masked(taken)
        measures = measure(self.task, masked, self.ships.costs)
        finished = finish(
            Run,
            self.task,
            masked,
            tuple(history),
            whole.first(len(removed_by(taken))),
            measures,
            reason,
            is_met,
            config,
            self.ships,
        )
        return replace(finished, augmentations=self.options.augmentations)


def _resumed(folder: RunFolder, start: Step, step: int | None) -> list[Step]:
    """Return the steps of an earlier, unfinished run; a last step that may not be whole is done again.

    `step` is the number of neurons of a whole step; None where that varies.
    """
    history = folder.history()
    if len(history) > 1 and (step is None or len(history[-1].removed) < step):
        history.pop()
    if not history:
        history = [start]
    elif history[0].measures.calibration_loss != start.measures.calibration_loss:
        raise RunFolderError(
            f"resume must come with the model and data that the run began with. Got a start loss of "
            f"{start.measures.calibration_loss!r}, the run in {str(folder.path)!r} has "
            f"{history[0].measures.calibration_loss!r}. Use the same ones."
        )
    history = [replace(start, seconds=history[0].seconds), *history[1:]]
    folder.keep_history(history)
    return history
