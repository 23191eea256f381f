"""Recovery: all weights of a smaller network are trained on, with the user's loss, labels and rows.

    minimise  mean over rows of loss(small, target)  +  D(whole, small)

D is how far the answers are from the whole network's (`answers.of_answers`): distillation, on unless it is turned off.
Some of the rows are held out; what comes back are the weights of the pass at whose end the loss was least there, the
start's included (`descent.py`).

Sources: Hinton, Vinyals and Dean 2015 (labels and another network's answers at once).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule

from shrinknet.engine.gates import GatedNetwork
from shrinknet.measure.evaluation import evaluate
from shrinknet.recovery.answers import Teacher, of_answers
from shrinknet.recovery.augment import Augment
from shrinknet.recovery.descent import ROWS_A_STEP, Descent, Said, held_out, program_of
from shrinknet.task.data import Batch, Data
from shrinknet.task.task import Task


def begun(task: Task, network: GatedNetwork, augment: Augment, passes: int, seed: int, *, distill: bool) -> Descent:
    """Return the way to a network that is right about the calibration rows of a task, at its start.

    Args:
        task: the rows with their targets, and the loss that is minimised.
        network: the masked network to start from.
        augment: what becomes of inputs before they are seen.
        passes: how often the rows are gone through.
        seed: of what is held out, of the order of the rows and of augmentations.
        distill: whether the whole network's answers count as well.
    """
    held, rows = held_out(task.calibration, seed)
    teacher, loss = replace(Teacher.of(network, next(held.batches()).inputs), layers={}), network.loss
    of_one = replace(loss, reads=None)  # a program says what the loss is given

    def far(said: Said, batch: Batch) -> Tensor:
        """From the targets of these rows, and from what the whole network answers."""
        outputs, _ = said
        found = of_one.each(outputs, batch.targets).mean()
        if not distill:
            return found
        return found + of_answers(loss, outputs, teacher.says(batch.inputs)[0], teacher.variances[""])

    rows_a_step = rows.batch_size if loss.couples_samples else ROWS_A_STEP
    return Descent(teacher, rows, far, _judge(teacher, held), augment, passes, seed, rows_a_step)


def _judge(teacher: Teacher, held: Data) -> Callable[[GraphModule], float]:
    """Return what measures the loss on the rows held out."""

    @torch.no_grad()
    def loss(cut: GraphModule) -> float:
        """The mean over rows."""
        return evaluate(program_of(teacher, cut).outputs, teacher.network.loss, held).loss

    return loss
