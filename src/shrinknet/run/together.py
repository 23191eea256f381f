"""Runs with `compensate="joint"`: what their search refits by, and their end, where all weights are refit together."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from shrinknet.compensation.compensate import Compensation, compensation_of
from shrinknet.compensation.none import NoCompensation
from shrinknet.core.config import RunConfig
from shrinknet.core.errors import BadInputError
from shrinknet.core.progress import Tell, tell_nobody
from shrinknet.engine.gates import GatedNetwork
from shrinknet.recovery.augment import augmented
from shrinknet.recovery.descent import held_out
from shrinknet.recovery.joint import most_epochs, refit_jointly
from shrinknet.run.facts import AnyRun, finish
from shrinknet.search.guards import Guard
from shrinknet.search.steps import measure
from shrinknet.task.task import Task

log = logging.getLogger(__name__)


def compensation_for(config: RunConfig, task: Task, network: GatedNetwork) -> Compensation | NoCompensation:
    """Return how readers make up for what goes in a run, by all calibration rows.

    Before a joint refit it is by those that this does not hold out: they judge whether it is better than what it starts
    from, and that must not have seen them either.
    """
    search = config.search
    if search.ends_jointly and _num_epochs(config, task) and len(task.calibration) > 1:
        task = task.with_calibration(held_out(task.calibration, search.seed)[1])
    return compensation_of(search.compensate, task, network)


def _num_epochs(config: RunConfig, task: Task) -> int:
    """How often a joint refit goes through the rows."""
    return int(str(config.content.get("epochs", most_epochs(len(task.calibration)))))


def refit_together(run: AnyRun, tell: Tell = tell_nobody, guards: Sequence[Guard] = ()) -> AnyRun:
    """Return a run whose network's weights are all refit together, where its compensation ends so; else the run.

    A refit that would break a guard, none of which looks at the rows held out, is undone.

    Raises:
        BadInputError: it was made with augmentations of one's own, which a folder names and nobody else does.

    Cost: see `refit_jointly`; then measures, cut, proof and artefact again.
    """
    search = run.config.search
    if not search.ends_jointly or not run.verification.holds:
        return run
    if run.augmentations is None:
        got = f"{', '.join(map(str, search.augment))} in the folder"
        do = "If that is your own, open the run with `trust=True`."
        raise BadInputError("augment", "trusted where it is code: nothing that a run folder names is imported", got, do)
    epochs, augment = _num_epochs(run.config, run.task), augmented(run.augmentations)
    with run.network.program.scoring.arithmetic():
        network = refit_jointly(run.task, run.network, augment, epochs, search.seed, tell)
        measures = measure(run.task, network, run.ships.costs)
    if any(guard.broken(run.history[0].measures, measures) for guard in guards):
        log.warning("A joint refit would break a guard, and is undone: the weights are those of least squares.")
        return run
    ended = run.history, run.plan, measures, run.reason, run.is_met, run.config, run.ships
    log.info("Refit together: calibration loss %.4g -> %.4g.", run.measures.calibration_loss, measures.calibration_loss)
    return replace(finish(type(run), run.task, network, *ended), unfit=run.unfit, augmentations=run.augmentations)
