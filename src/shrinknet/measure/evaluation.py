"""Loss, accuracy and recall of a network, in one pass over a role's data."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from shrinknet.data import Batch, Data
from shrinknet.losses import Loss, checked
from shrinknet.records import Answer


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Means over samples. The rest is there when the targets are classes, one for each sample.

    `answers` [samples, 2] holds for each sample its class and the answer.
    """

    loss: float
    accuracy: float | None
    recalls: tuple[float, ...] | None
    num_samples: int
    answers: Int[Tensor, "samples 2"] | None = None


def evaluate(outputs_of: Callable[[Tensor], Tensor], loss: Loss, data: Data) -> Evaluation:
    """Measure a network on a role's data.

    Recall of class c is the share of its samples that are answered c (NaN for a class without samples).

    Cost: one forward pass over the data; memory for one batch.
    """
    total, num_samples = 0.0, 0
    confusion: Tensor | None = None
    pairs = list[Tensor]()
    with torch.no_grad():
        for batch in data.batches():
            outputs = outputs_of(batch.inputs)
            total += float(checked(loss.of(outputs, batch.targets), len(batch), loss.name).sum(dtype=torch.float64))
            num_samples += len(batch)
            if _are_classes(batch, outputs):
                counts = _confusion(outputs, batch.targets)
                confusion = counts if confusion is None else confusion + counts
                pairs.append(torch.stack([batch.targets, outputs.argmax(1)], 1).cpu())
    if confusion is None:
        return Evaluation(total / num_samples, None, None, num_samples)
    hits = confusion.diagonal()
    recalls = tuple((hits / confusion.sum(1)).tolist())
    return Evaluation(total / num_samples, float(hits.sum() / confusion.sum()), recalls, num_samples, torch.cat(pairs))


def other_answers(before: Evaluation | None, after: Evaluation | None) -> tuple[Answer, ...] | None:
    """Return the answers that are not those of before, or all where there is no before; None where there are none.

    >>> one = Evaluation(0.0, 1.0, (1.0,), 2, torch.tensor([[0, 0], [1, 1]]))
    >>> other_answers(one, Evaluation(0.0, 0.5, (1.0,), 2, torch.tensor([[0, 0], [1, 0]])))
    (Answer(row=1, target=1, answer=0),)
    """
    if after is None or after.answers is None:
        return None
    rows = torch.arange(len(after.answers))
    if before is not None and before.answers is not None:
        rows = (before.answers[:, 1] != after.answers[:, 1]).nonzero()[:, 0]
    return tuple(Answer(row, *after.answers[row].tolist()) for row in rows.tolist())


def _are_classes(batch: Batch, outputs: Tensor) -> bool:
    return not batch.targets.is_floating_point() and batch.targets.dim() == 1 and outputs.dim() == 2


def _confusion(outputs: Tensor, targets: Tensor) -> Tensor:
    """Counts of (target, answer), float64 [classes, classes]."""
    num_classes = outputs.shape[1]
    pairs = targets * num_classes + outputs.argmax(1)
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes).double().cpu()
