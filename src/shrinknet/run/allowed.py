"""What a criterion and a way to search need of a loss and of a network."""

from shrinknet.compensation.kinds import KINDS
from shrinknet.core.errors import BadInputError
from shrinknet.criteria import Criterion
from shrinknet.engine.gates import GatedNetwork
from shrinknet.run.noise import check_slopes
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task


def check_loss(task: Task, criterion: Criterion, scoring: Scoring, compensate: str = "none") -> None:
    """What the loss is not for is refused before anything is done: slopes where it is flat, samples that it couples."""
    if criterion.follows_slopes:
        task.loss.needs_slopes(f"criterion={criterion.name!r}")
    if criterion.needs_each_sample:
        task.loss.needs_each_sample(f"criterion={criterion.name!r}")
    if scoring.races:
        task.loss.needs_each_sample("confidence and screen")
    if compensate in KINDS and KINDS[compensate].follows_the_loss:
        task.loss.needs_each_sample(f"compensate={compensate!r}")


ROWS_TRIED = 4


def can_score(task: Task, criterion: Criterion, network: GatedNetwork) -> bool:
    """Whether a criterion can score a few rows of this task."""
    try:
        check_loss(task, criterion, Scoring())
        check_network(task, criterion, network)
        criterion.score(network, [task.calibration.spread(ROWS_TRIED)])
    except BadInputError:
        return False
    return True


def check_network(task: Task, criterion: Criterion, network: GatedNetwork) -> None:
    """What a criterion is not for is refused before anything is scored, or written."""
    criterion.check(network, task.calibration)
    check_slopes(criterion, network, task.calibration)
