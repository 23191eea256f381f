"""Losses of each sample. Every figure of shrinknet is a mean of these over samples."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from shrinknet.errors import BadInputError, did_you_mean

PerSample = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Shaped[Tensor, "..."], targets: Shaped[Tensor, "batch ..."]) -> Tensor:
    """Return -log softmax(outputs)[target] for each sample; positions beyond the class axis are averaged.

    Targets are classes [batch, ...], or probabilities of the outputs' shape. Leading axes of `outputs` (candidates)
    are kept. Written out as `log sum exp(x - max) - (x - max)[target]`: torch's own, over ten classes, is five times
    slower.

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))
    tensor([1.3863])
    """
    if targets.is_floating_point():
        lead, classes = outputs.dim() - targets.dim(), -targets.dim() + 1
        losses = -(outputs.log_softmax(classes) * targets).sum(classes)
    else:
        lead = outputs.dim() - 1 - targets.dim()
        classes = lead + 1
        shifted = outputs - outputs.detach().amax(classes, keepdim=True)
        index = targets.unsqueeze(1).expand(*outputs.shape[:lead], *targets.unsqueeze(1).shape)
        losses = shifted.exp().sum(classes).log() - shifted.gather(classes, index).squeeze(classes)
    return losses.flatten(lead + 1).mean(-1) if losses.dim() > lead + 1 else losses


def squared_error(outputs: Shaped[Tensor, "..."], targets: Shaped[Tensor, "batch ..."]) -> Tensor:
    """Return half the sum of squares over the outputs of each sample (the error of Sharma, Wolfe, Raj 2017).

    Targets that are classes are compared one-hot. Leading axes of `outputs` (candidates) are kept.

    >>> squared_error(torch.tensor([[0.5, 0.0]]), torch.tensor([0]))
    tensor([0.1250])
    """
    if not targets.is_floating_point():
        targets = functional.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)
    lead = outputs.dim() - targets.dim()
    squares = functional.mse_loss(outputs, targets.expand_as(outputs), reduction="none")
    if targets.dim() == 1:
        return squares / 2
    squares = squares.flatten(lead + 1)
    return squares @ squares.new_full((squares.shape[-1],), 0.5)  # a sum over a short last axis is slow


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss by its name: `of(outputs, targets)` gives one value for each sample."""

    name: str
    of: PerSample

    def of_candidates(
        self, outputs: Float[Tensor, "candidates batch ..."], targets: Shaped[Tensor, "batch ..."]
    ) -> Float[Tensor, "candidates batch"]:
        """Return the losses of many candidate networks on one batch.

        The built-in losses broadcast over the candidates; any other loss sees them folded into the batch.
        """
        if self.of in LOSSES.values():
            return self.of(outputs, targets)
        num_candidates, num_samples = outputs.shape[:2]
        repeated = targets.expand(num_candidates, *targets.shape).flatten(0, 1)
        return self.of(outputs.flatten(0, 1), repeated).view(num_candidates, num_samples)


def cross_entropy_across(
    outputs: Float[Tensor, "... outputs batch"], targets: Float[Tensor, "outputs batch"]
) -> Tensor:
    """Return `cross_entropy` of outputs that lie along the last axis but one, samples last.

    >>> cross_entropy_across(torch.zeros(4, 1), torch.eye(4)[:, :1])
    tensor([1.3863])
    """
    shifted = outputs - outputs.amax(-2, keepdim=True)
    return shifted.exp().sum(-2).log() * targets.sum(0) - (shifted * targets).sum(-2)


def squared_error_across(
    outputs: Float[Tensor, "... outputs batch"], targets: Float[Tensor, "outputs batch"]
) -> Tensor:
    """Return `squared_error` of outputs that lie along the last axis but one, samples last.

    >>> squared_error_across(torch.tensor([[0.5], [0.0]]), torch.tensor([[1.0], [0.0]]))
    tensor([0.1250])
    """
    return (outputs - targets).square_().sum(-2) / 2


def targets_across(targets: Shaped[Tensor, "batch ..."], outputs: Float[Tensor, "batch outputs"]) -> Tensor:
    """Return classes one-hot, or targets of the outputs' shape, samples last.

    >>> targets_across(torch.tensor([1]), torch.zeros(1, 3))
    tensor([[0.],
            [1.],
            [0.]])
    """
    if not targets.is_floating_point():
        targets = functional.one_hot(targets, outputs.shape[1])
    return targets.to(outputs.dtype).view(outputs.shape).T.contiguous()


LOSSES: dict[str, PerSample] = {"cross-entropy": cross_entropy, "squared-error": squared_error}


ACROSS: dict[PerSample, PerSample] = {cross_entropy: cross_entropy_across, squared_error: squared_error_across}
"""The built-in losses for outputs [..., outputs, batch] and targets [outputs, batch]."""


def find_loss(loss: str | PerSample | Loss) -> Loss:
    """Return the loss of that name, or wrap a function `(outputs, targets) -> one loss for each sample`.

    Raises:
        BadInputError: the name is unknown.
    """
    if isinstance(loss, Loss):
        return loss
    if callable(loss):
        return Loss(getattr(loss, "__qualname__", type(loss).__name__), loss)
    if loss not in LOSSES:
        do = f"{did_you_mean(loss, LOSSES)} A loss of your own is written package.module:function."
        raise BadInputError("loss", "the name of a loss", repr(loss), do)
    return Loss(loss, LOSSES[loss])


def checked(losses: Tensor, num_samples: int, name: str) -> Tensor:
    """Return the losses after checking that there is one for each sample and that all are finite.

    Raises:
        BadInputError: the loss returned another shape, NaN or infinity.
    """
    if losses.shape != (num_samples,):
        raise BadInputError(
            "loss",
            f"a function that returns one value for each sample, shape [{num_samples}]",
            f"shape {list(losses.shape)} from {name!r}",
            "Use reduction='none' and average over everything but the samples.",
        )
    bad = torch.nonzero(~losses.isfinite())
    if len(bad):
        row = int(bad[0])
        raise BadInputError(
            "loss",
            "finite on every sample",
            f"{float(losses[row].detach())} for sample {row} of a batch ({name!r})",
            "Look at the model's outputs on that sample.",
        )
    return losses
