"""What a criterion and a way to search need of a loss."""

from shrinknet.criteria import Criterion
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
    if compensate == "newton":
        task.loss.needs_each_sample("compensate='newton'")
