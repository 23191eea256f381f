"""Joint refit: all weights of a smaller network move together until it answers as the whole one did. No labels.

    minimise  D(whole, small) + 3 * mean over layers of |z - z'|^2 / var z

over the calibration rows and what augmentations make of them. D is the divergence of the answers, or their squared
difference (`answers.of_answers`); z is what a layer of the whole network gives, z' that of the smaller one. Weights of
what writes, not of what reads alone, move too, through nonlinearities and over all layers (`descent.py`).

A fifth of the calibration rows is held out: what comes back are the weights of the epoch at whose end D was least
there, the start's included. So the refit is never worse than its start on these rows.

Sources: Hinton, Vinyals and Dean 2015 (answers of another network), Romero et al. 2015 (what its layers give).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.fx import GraphModule

from shrinknet.core.progress import Tell, tell_nobody
from shrinknet.engine.gates import GatedNetwork
from shrinknet.recovery.answers import Teacher, of_answers, of_layers, said_by
from shrinknet.recovery.augment import Augment
from shrinknet.recovery.descent import (
    HELD_OUT,
    ROWS_A_STEP,
    Descent,
    Said,
    held_out,
    num_held_out,
    program_of,
    spread,
)
from shrinknet.task.data import Batch, Data
from shrinknet.task.task import Task
from shrinknet.task.trees import num_rows

EPOCHS, STEPS = 60, 960
"""The rows are gone through at most so often, or until so many steps are taken: what few rows lack are steps."""

LAYERS = 3.0
"""What the layers count beside the answers."""

PASSES_AN_EPOCH = 4 * (1 - 1 / HELD_OUT) + 1 / HELD_OUT
"""What an epoch costs at most, in forward passes of the whole network: it answers, the other moves, and is judged."""


def most_epochs(num_rows: int) -> int:
    """Return how often calibration rows are gone through at most, by how many there are.

    >>> most_epochs(10_000), most_epochs(1000), most_epochs(128)
    (60, 60, 320)
    """
    return max(EPOCHS, STEPS // max(1, -(-(num_rows - num_held_out(num_rows)) // ROWS_A_STEP)))


def epochs_within(passes: float, num_rows: int) -> int:
    """Return how many epochs some forward passes over calibration rows pay for.

    >>> epochs_within(35.0, 1000), epochs_within(1e9, 1000)
    (10, 60)
    """
    return min(most_epochs(num_rows), int(passes / PASSES_AN_EPOCH))


def refit_jointly(
    task: Task, network: GatedNetwork, augment: Augment, epochs: int, seed: int = 0, tell: Tell = tell_nobody
) -> GatedNetwork:
    """Return a masked network with all of the smaller network's weights refit to what the whole one gives.

    Args:
        task: its calibration rows; targets are not looked at.
        network: the masked network to start from.
        augment: what makes other rows of them.
        epochs: how often the rows are gone through.
        seed: draws their order and the augmentations.
        tell: told how far it is.

    Cost: for each epoch, of four fifths of the rows, a forward pass of the whole network, a forward and a backward pass
    of the smaller one. Memory for three passes of a step's 50 rows; where the task's memory holds fewer, slopes of as
    many rows as it holds are added up.
    """
    held, rows = held_out(task.calibration, seed)
    if not epochs or not len(rows) or bool(network.present.all()):
        return network
    descent = begun(Teacher.of(network, next(held.batches()).inputs), held, rows, augment, epochs, seed)
    descent.tell = partial(tell, "all weights are refit together")
    for _ in descent.epochs():
        pass
    return network.refit(spread(network, descent.best))


def begun(teacher: Teacher, held: Data, rows: Data, augment: Augment, epochs: int, seed: int) -> Descent:
    """Return the way to what the whole network gives, at its start."""

    def far(said: Said, batch: Batch) -> Tensor:
        """From what the whole network says of these rows."""
        (outputs, given), (answers, wanted) = said, teacher.says(batch.inputs)
        of_outputs = of_answers(teacher.network.loss, outputs, answers, teacher.variances[""])
        return of_outputs + LAYERS * of_layers(given, wanted, teacher.variances)

    return Descent(teacher, rows, far, _judge(teacher, held), augment, epochs, seed)


def _judge(teacher: Teacher, held: Data) -> Callable[[GraphModule], float]:
    """Return what measures D on the rows held out; the whole network answers them once."""
    answered = [(batch.inputs, teacher.says(batch.inputs)[0]) for batch in held.batches()]
    loss, variance = teacher.network.loss, teacher.variances[""]

    @torch.no_grad()
    def distance(cut: GraphModule) -> float:
        """The mean over rows."""
        program = program_of(teacher, cut)
        found = 0.0
        for inputs, answers in answered:
            outputs, _ = said_by(program, {}, inputs)
            found += float(of_answers(loss, outputs, answers, variance)) * num_rows(inputs)
        return found / len(held) if math.isfinite(found) else math.inf

    return distance
