"""Skeletonization: the slope of the linear error in each neuron's attentional strength."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from shrinknet.core.errors import BadInputError
from shrinknet.criteria.base import Criterion, Statistics, Sums, by_batch, mean_over_samples, of_batch
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch
from shrinknet.task.losses import Loss
from shrinknet.task.per_sample import classes_first, of_the_next

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
    follows_slopes = True
    unit = "linear error"

    def __init__(self, smoothing: float | None = None) -> None:
        self.smoothing = smoothing

    def begin(self, network: GatedNetwork) -> GatedNetwork:
        """Judge the network by the linear error."""
        network.program.check_one_output(self.name)
        judge = Loss("linear-error", AFTER.get(network.loss.name, linear_error), reads=network.loss.reads)
        return replace(network, loss=judge)

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed slopes of the linear error, turned round; with smoothing, what the batch does to rho."""
        if self.smoothing is None:
            return {group: -slopes for group, slopes in network.summed_gate_slopes(batch).items()}
        slopes = network.gate_slopes(batch)
        return of_batch(
            batch, {group: smoothing(-rows.double().cpu(), self.smoothing) for group, rows in slopes.items()}
        )

    def conclude(self, network: GatedNetwork, sums: Sums) -> Statistics:
        """Return means over samples; with smoothing, rho after all patterns in the order in which they came."""
        if self.smoothing is None:
            return mean_over_samples(sums)
        relevance = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in network.groups}
        for presented in by_batch(sums):
            for group, (kept, gained) in presented.items():
                relevance[group] = relevance[group] * kept + gained
        return relevance


def smoothing(presented: Tensor, kept: float = KEPT) -> Tensor:
    """Return a and b [2, neurons] with `a rho + b` what `rho <- kept rho + (1 - kept) x` makes of rho after all rows x.

    >>> smoothing(torch.tensor([[1.0], [0.0]])).round(decimals=2)
    tensor([[0.6400],
            [0.1600]])
    """
    shares = (1 - kept) * kept ** torch.arange(len(presented) - 1, -1, -1, dtype=presented.dtype)
    gained = shares @ presented
    return torch.stack([torch.full_like(gained, kept ** len(presented)), gained])


def linear_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return `sum_j |t_j - o_j|` of each sample; classes are compared one-hot.

    Raises:
        BadInputError: targets are neither classes within the outputs nor values of their number.
    """
    if targets.numel() != outputs.numel():
        is_of_classes = not targets.is_floating_point() and outputs.dim() == targets.dim() + 1
        if not is_of_classes or not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
            raise BadInputError(
                "criterion='skeletonization'", "used with targets that are classes within the outputs, or their values",
                f"targets {list(targets.shape)} for outputs {list(outputs.shape)}", "Use `criterion='taylor-1'`.",
            )  # fmt: skip
        targets = functional.one_hot(targets, outputs.shape[1]).movedim(-1, 1)
    return (outputs - targets.reshape(outputs.shape).to(outputs.dtype)).abs().reshape(len(outputs), -1).sum(1)


def _after_softmax(outputs: Tensor, targets: Tensor) -> Tensor:
    return linear_error(outputs.softmax(1), targets)


def _after_sigmoid(outputs: Tensor, targets: Tensor) -> Tensor:
    return linear_error(outputs.sigmoid(), targets)


def _of_each_token(outputs: Tensor, targets: Tensor) -> Tensor:
    return _after_softmax(*classes_first(outputs, targets))


def _of_the_next_token(outputs: Tensor, targets: Tensor) -> Tensor:
    return _after_softmax(*of_the_next(outputs, targets))


AFTER = {
    "cross-entropy": _after_softmax, "binary-cross-entropy": _after_sigmoid, "each-token": _of_each_token,
    "next-token": _of_the_next_token,
}  # fmt: skip
"""Losses of logits: the linear error is that of the probabilities."""
