"""Skeletonization: the slope of the linear error in each neuron's attentional strength."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from shrinknet.criteria.base import Criterion, Statistics, as_scores, mean_over_samples
from shrinknet.data import Batch
from shrinknet.errors import BadInputError
from shrinknet.gates import GatedNetwork
from shrinknet.losses import Loss
from shrinknet.types import Scores

KEPT = 0.8
"""What the paper keeps of the relevance so far at each presentation of a pattern."""


class Skeletonization(Criterion):
    """Relevance `rho = -dE_l/d alpha` at alpha = 1, `E_l = sum_j |t_j - o_j|` (Mozer and Smolensky 1989).

    alpha is the neuron's attentional strength, `o_j = f(sum_i w_ji alpha_i o_i)`: our gate. The linear error stands in
    for the squared one, whose slope vanishes where outputs reach their targets, so that neurons which matter would
    look as if they did not; its own slope is `sign(o - t)`, 0 where they are equal. Under cross-entropy the outputs are
    taken after the softmax, under binary cross-entropy after the sigmoid.

    Args:
        smoothing: None for the mean over all patterns; 0.8 for the paper's running mean over presentations,
            `rho <- 0.8 rho + 0.2 (-dE_l/d alpha)`, which sees little but the last dozen patterns.

    The paper removes inputs too; here inputs of the network are never cut.

    Cost: one forward and one backward pass; with smoothing one number for each sample and neuron.
    """

    name = "skeletonization"
    unit = "linear error"

    def __init__(self, smoothing: float | None = None) -> None:
        self.smoothing = smoothing

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed slopes of the linear error, turned round."""
        return {group: -slopes for group, slopes in _linear(network).summed_gate_slopes(batch).items()}

    def conclude(self, sums: Statistics, num_samples: int) -> Statistics:
        """Return means over samples."""
        return mean_over_samples(sums, num_samples)

    def score(self, network: GatedNetwork, batches: Iterable[Batch]) -> Scores:
        """Score every neuron; with smoothing, in the order in which patterns are presented."""
        if self.smoothing is None:
            return super().score(network, batches)
        relevance = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in network.groups}
        with torch.no_grad():
            for batch in batches:
                for group, slopes in _linear(network).gate_slopes(batch).items():
                    relevance[group] = smoothed(relevance[group], -slopes.double().cpu(), self.smoothing)
        return as_scores(relevance, self.unit)


def smoothed(start: Tensor, presented: Tensor, kept: float = KEPT) -> Tensor:
    """Return `rho <- kept rho + (1 - kept) x` after each row x in turn.

    >>> smoothed(torch.zeros(1), torch.tensor([[1.0], [0.0]])).round(decimals=2)
    tensor([0.1600])
    """
    shares = (1 - kept) * kept ** torch.arange(len(presented) - 1, -1, -1, dtype=presented.dtype)
    return start * kept ** len(presented) + shares @ presented


def linear_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return `sum_j |t_j - o_j|` of each sample; classes are compared one-hot.

    Raises:
        BadInputError: targets are neither classes within the outputs nor values of their number.
    """
    if targets.numel() != outputs.numel():
        is_of_classes = not targets.is_floating_point() and outputs.dim() == targets.dim() + 1
        if not is_of_classes or not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
            raise BadInputError(
                "criterion 'skeletonization'", "used with targets that are classes within the outputs, or their values",
                f"targets {list(targets.shape)} for outputs {list(outputs.shape)}", "Use criterion 'taylor-1'.",
            )  # fmt: skip
        targets = functional.one_hot(targets, outputs.shape[1]).movedim(-1, 1)
    return (outputs - targets.reshape(outputs.shape).to(outputs.dtype)).abs().reshape(len(outputs), -1).sum(1)


def _linear(network: GatedNetwork) -> GatedNetwork:
    return replace(network, loss=Loss("linear-error", AFTER.get(network.loss.name, linear_error)))


def _after_softmax(outputs: Tensor, targets: Tensor) -> Tensor:
    return linear_error(outputs.softmax(1), targets)


def _after_sigmoid(outputs: Tensor, targets: Tensor) -> Tensor:
    return linear_error(outputs.sigmoid(), targets)


AFTER = {"cross-entropy": _after_softmax, "binary-cross-entropy": _after_sigmoid}
"""Losses of logits: the linear error is that of the probabilities."""
