"""Loss, metrics and recalls of a network, in one pass over a role's data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from shrinknet.core.quantities import ACCURACY
from shrinknet.core.records import Answer
from shrinknet.task.accuracy import judged
from shrinknet.task.data import Batch, Data
from shrinknet.task.losses import Loss
from shrinknet.task.measured import Computation, Measured
from shrinknet.task.per_sample import IGNORED
from shrinknet.task.trees import Inputs, tensors_of


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The mean loss over samples, and each metric; accuracy is one where the loss defines it or the user asked for it.

    Recalls and `answers` [samples, 2], the class of each sample and its answer, are there where each has one class;
    samples of class -100 count for no accuracy and no recall, and there are no answers then.
    """

    loss: float
    metrics: Mapping[str, float | None]
    recalls: tuple[float, ...] | None
    num_samples: int
    answers: Int[Tensor, "samples 2"] | None = None


def evaluate(
    outputs_of: Callable[[Inputs], Any], loss: Loss, data: Data, metrics: Sequence[Measured] = ()
) -> Evaluation:
    """Measure a network on a role's data.

    Recall of class c is the share of its samples that are answered c (NaN for a class without samples).

    Cost: one forward pass over the data; memory for one batch.
    """
    return evaluate_batches(lambda batch: outputs_of(batch.inputs), loss, data, metrics)


def evaluate_batches(
    outputs_of: Callable[[Batch], Any], loss: Loss, data: Data, metrics: Sequence[Measured] = ()
) -> Evaluation:
    """Measure the same of outputs that are found by the batch: a pass of it may have been kept."""
    total, num_samples, num_classes = 0.0, 0, 2
    rows, computation = list[Tensor | None](), Computation(metrics, data.device)
    with torch.no_grad():
        for batch in data.batches():
            outputs = outputs_of(batch)
            total += float(loss.each(outputs, batch.targets).sum(dtype=torch.float64))
            num_samples += len(batch)
            given, targets = loss.compared(outputs, batch.targets)
            num_classes = max([num_classes, *(size for one in tensors_of(given) for size in one.shape[1:2])])
            rows.append(judged(loss.accuracy, given, targets))
            computation.update(given, targets)
    found, figures = [one.cpu() for one in rows if one is not None], computation.values()
    if len(found) < len(rows):
        return Evaluation(total / num_samples, figures, None, num_samples)
    judgement = torch.cat(found)
    if judgement.dim() == 1:
        accuracy = float(judgement.double().mean())
        return Evaluation(total / num_samples, {ACCURACY.name: accuracy, **figures}, None, num_samples)
    counted = judgement[judgement[:, 0] != IGNORED]
    recalls, accuracy = _shares_right(counted, num_classes)
    answers = judgement if len(counted) == len(judgement) else None
    return Evaluation(total / num_samples, {ACCURACY.name: accuracy, **figures}, recalls, num_samples, answers)


def other_answers(before: Evaluation | None, after: Evaluation | None) -> tuple[Answer, ...] | None:
    """Return the answers that are not those of before, or all where there is no before; None where there are none.

    >>> one = Evaluation(0.0, {}, (1.0,), 2, torch.tensor([[0, 0], [1, 1]]))
    >>> other_answers(one, Evaluation(0.0, {}, (1.0,), 2, torch.tensor([[0, 0], [1, 0]])))
    (Answer(row=1, target=1, answer=0),)
    """
    if after is None or after.answers is None:
        return None
    rows = torch.arange(len(after.answers))
    if before is not None and before.answers is not None:
        rows = (before.answers[:, 1] != after.answers[:, 1]).nonzero()[:, 0]
    return tuple(Answer(row, *after.answers[row].tolist()) for row in rows.tolist())


def _shares_right(answers: Tensor, num_classes: int) -> tuple[tuple[float, ...], float]:
    """The share of each class's samples that is right, and of all samples."""
    targets, is_right = answers[:, 0], answers[:, 0] == answers[:, 1]
    counts, hits = (torch.bincount(some, minlength=num_classes).double() for some in (targets, targets[is_right]))
    return tuple((hits / counts).tolist()), float(hits.sum() / len(answers))
