"""Loss, accuracy and recall of a network, in one pass over a role's data."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shrinknet.data import Batch, Data
from shrinknet.losses import Loss, checked


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over samples. Accuracy and recalls are there when the targets are classes, one for each sample."""

    loss: float
    accuracy: float | None
    recalls: tuple[float, ...] | None
    num_samples: int


def evaluate(outputs_of: Callable[[Tensor], Tensor], loss: Loss, data: Data) -> Evaluation:
    """Measure a network on a role's data.

    Recall of class c is the share of its samples that are answered c (NaN for a class without samples).

    Cost: one forward pass over the data; memory for one batch.
    """
    total, num_samples = 0.0, 0
    confusion: Tensor | None = None
    with torch.no_grad():
        for batch in data.batches():
            outputs = outputs_of(batch.inputs)
            total += float(checked(loss.of(outputs, batch.targets), len(batch), loss.name).sum(dtype=torch.float64))
            num_samples += len(batch)
            if _are_classes(batch, outputs):
                counts = _confusion(outputs, batch.targets)
                confusion = counts if confusion is None else confusion + counts
    if confusion is None:
        return Evaluation(total / num_samples, None, None, num_samples)
    hits = confusion.diagonal()
    recalls = tuple((hits / confusion.sum(1)).tolist())
    return Evaluation(total / num_samples, float(hits.sum() / confusion.sum()), recalls, num_samples)


def _are_classes(batch: Batch, outputs: Tensor) -> bool:
    return not batch.targets.is_floating_point() and batch.targets.dim() == 1 and outputs.dim() == 2


def _confusion(outputs: Tensor, targets: Tensor) -> Tensor:
    """Counts of (target, answer), float64 [classes, classes]."""
    num_classes = outputs.shape[1]
    pairs = targets * num_classes + outputs.argmax(1)
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes).double().cpu()
