"""Metrics: how well a network does, beside its loss. The interface is torchmetrics': update, compute, reset."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from shrinknet.core.errors import BadInputError
from shrinknet.core.registry import Named
from shrinknet.task.trees import num_rows

ROUNDING = 1e-12
"""Targets whose squares spread by less than this part of them are all the same."""


class Metric(Named):
    """A figure of how well a network does on rows.

    A subclass gives `each(outputs, targets)`: one number for each row, of which the metric is the mean; or several
    for each row, and `conclude(means)`, which makes the figure of their means over all rows. One that is neither writes
    `reset`, `update` and `compute` instead, as a `torchmetrics.Metric` does.

    Attributes:
        name: what it is called; its class's name, where it says none.
        is_share: whether it is a part of a whole, from 0 to 1: shown in percent.
        higher_is_better: whether it falls when a network gets worse; where it does not say, a guard may hold it from
            rising or from falling.
    """

    is_share: ClassVar[bool] = False
    higher_is_better: ClassVar[bool | None] = None

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return one number for each row, or several: [rows, ...]."""
        raise NotImplementedError("a metric has each(outputs, targets), or reset, update and compute")

    def conclude(self, means: Tensor) -> Any:
        """Return the figure, given the means of what `each` gives, over all rows."""
        return means

    def reset(self) -> None:
        """Forget all rows."""
        self.total, self.count = torch.zeros((), dtype=torch.float64), 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take the rows of a batch in.

        Raises:
            BadInputError: there is not one number for each row: the figure would follow the size of batches.
        """
        values, rows = self.each(outputs, targets), num_rows(outputs)
        is_one = type(self).conclude is Metric.conclude
        if values.shape[:1] != (rows,) or (is_one and values.dim() > 1):
            do = "Average over all but the rows, or make one number of their means by conclude(means)."
            came = f"shape {list(values.shape)} from {self.name!r}"
            raise BadInputError("metrics", f"functions that give one number for each row, shape [{rows}]", came, do)
        self.total = self.total + values.detach().sum(0, dtype=torch.float64).cpu()
        self.count += rows

    def compute(self) -> float:
        """Return the figure for all rows taken in."""
        return float(self.conclude(self.total / self.count)) if self.count else float("nan")


class TopFive(Metric):
    """The share of rows whose class is among the five largest outputs."""

    name, is_share, higher_is_better = "top-5", True, True

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return whether each row's class is among them.

        >>> TopFive().each(torch.arange(6.0)[None], torch.tensor([1]))
        tensor([True])
        """
        return (outputs.topk(min(5, outputs.shape[1]), 1).indices == _classes(self, outputs, targets)[:, None]).any(1)


class Confusion(Metric, ABC):
    """A metric of the counts [C, C] of rows, or positions, of each class that are answered each class.

    Targets are classes [N, ...], outputs [N, C, ...]; negative targets, such as -100, and 255 where there are fewer
    classes, are left out. A class that is neither a target nor an answer takes no part.
    """

    is_share = higher_is_better = True

    def reset(self) -> None:
        """Forget all counts."""
        self.counts = torch.zeros(0, 0, dtype=torch.int64)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch."""
        targets, size = _classes(self, outputs, targets), outputs.shape[1]
        is_counted = (targets >= 0) & ((targets != 255) | (size > 255))
        pairs = targets[is_counted] * size + outputs.argmax(1)[is_counted]
        found = torch.bincount(pairs, minlength=size * size).view(size, size).cpu()
        self.counts = found + (self.counts if len(self.counts) else 0)

    @abstractmethod
    def of(self, hits: Tensor, rows: Tensor, answers: Tensor) -> Tensor:
        """Return the figure of each class [C], NaN for one that takes no part."""

    def compute(self) -> float:
        """Return the mean of the classes' figures."""
        counts = self.counts.double()
        return float(self.of(counts.diagonal(), counts.sum(1), counts.sum(0)).nanmean())


class BalancedAccuracy(Confusion):
    """The mean over the classes of the share of their rows that are answered right."""

    name = "balanced-accuracy"

    def of(self, hits: Tensor, rows: Tensor, answers: Tensor) -> Tensor:
        """Return each class's recall.

        >>> BalancedAccuracy().of(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0]), torch.tensor([1.0, 4.0]))
        tensor([0.5000, 1.0000])
        """
        return hits / rows


class F1(Confusion):
    """The mean over the classes of the harmonic mean of recall and precision."""

    name = "f1"

    def of(self, hits: Tensor, rows: Tensor, answers: Tensor) -> Tensor:
        """Return each class's `2 hits / (rows + answers)`.

        >>> F1().of(torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([1.0]))
        tensor([0.6667])
        """
        return 2 * hits / (rows + answers)


class MeanIoU(Confusion):
    """The mean over the classes of intersection over union of where they are and where they are answered."""

    name = "mean-iou"

    def of(self, hits: Tensor, rows: Tensor, answers: Tensor) -> Tensor:
        """Return each class's `hits / (rows + answers - hits)`.

        >>> MeanIoU().of(torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([1.0]))
        tensor([0.5000])
        """
        return hits / (rows + answers - hits)


class Perplexity(Metric):
    """The exponential of the mean of -log softmax(outputs)[target] over positions; negative targets are left out."""

    name, higher_is_better = "perplexity", False

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of each row's losses, and how many positions they are of."""
        targets = _classes(self, outputs, targets)
        losses, is_counted = functional.cross_entropy(outputs, targets.clamp(min=0), reduction="none"), targets >= 0
        pairs = losses.double().where(is_counted, 0.0), is_counted.double()
        return torch.stack([one.reshape(len(one), -1).sum(1) for one in pairs], 1)

    def conclude(self, means: Tensor) -> Tensor:
        """Return the perplexity.

        >>> found = Perplexity()
        >>> found.reset()
        >>> found.update(torch.zeros(2, 4), torch.tensor([1, 3]))
        >>> round(found.compute(), 4)
        4.0
        """
        return torch.exp(means[0] / means[1])


class MeanAbsoluteError(Metric):
    """The mean over rows of the mean absolute difference of outputs and targets."""

    name, higher_is_better = "mean-absolute-error", False

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return it for each row.

        >>> MeanAbsoluteError().each(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([0.5000])
        """
        return (outputs - _values(self, outputs, targets)).abs().flatten(1).mean(1)


class R2(Metric):
    """One minus the sum of squared errors over the sum of squares of the targets about their mean, of each output.

    The mean over the outputs whose targets are not all the same.
    """

    name, higher_is_better = "r2", True

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return squared errors, targets and their squares of each row, in float64."""
        wanted = _values(self, outputs, targets).double().flatten(1)
        return torch.stack([(outputs.double().flatten(1) - wanted).square(), wanted, wanted.square()], 1)

    def conclude(self, means: Tensor) -> Tensor:
        """Return the figure.

        >>> found = R2()
        >>> found.reset()
        >>> found.update(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]]))
        >>> found.compute()
        0.5
        """
        errors, targets, squares = means
        spread = squares - targets.square()
        figures: Tensor = (1 - errors / spread)[spread > ROUNDING * squares]
        return figures.mean()


def _classes(metric: Metric, outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets that are classes, one for each row and position.

    Raises:
        BadInputError: they are not.
    """
    if targets.is_floating_point() or outputs.dim() < 2 or targets.shape != outputs[:, 0].shape:
        raise _unfit(metric, "classes, one for each row (and position) of outputs [N, C, ...]", outputs, targets)
    return targets


def _values(metric: Metric, outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets that are numbers, one for each output.

    Raises:
        BadInputError: they are not.
    """
    if targets.numel() != outputs.numel():
        raise _unfit(metric, "numbers, one for each output", outputs, targets)
    return targets.reshape(outputs.shape)


def _unfit(metric: Metric, wanted: str, outputs: Tensor, targets: Tensor) -> BadInputError:
    came = f"targets {list(targets.shape)} for outputs {list(outputs.shape)}"
    do = "Leave the metric out, or give one of your own."
    return BadInputError("metrics", f"fit for the data: {metric.name} wants {wanted}", came, do)
