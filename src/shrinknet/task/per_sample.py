"""The built-in losses: each gives one value for each sample, also of many candidates at once, and with samples last."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from shrinknet.task.trees import floats_of, tensors_of

PerSample = Callable[[Tensor, Tensor], Tensor]

IGNORED = -100
"""The target that does not count: torch's own `ignore_index`, and that of Hugging Face's data."""


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
        losses = _of_each_position(outputs, targets, lead)
    return losses.flatten(lead + 1).mean(-1) if losses.dim() > lead + 1 else losses


def _of_each_position(outputs: Tensor, targets: Tensor, lead: int) -> Tensor:
    """Cross-entropy with a class at each position; `lead` axes come before that of the samples."""
    classes = lead + 1
    shifted = outputs - outputs.detach().amax(classes, keepdim=True)
    index = targets.unsqueeze(1).expand(*outputs.shape[:lead], *targets.unsqueeze(1).shape)
    return shifted.exp().sum(classes).log() - shifted.gather(classes, index).squeeze(classes)


def cross_entropy_of_counted(outputs: Shaped[Tensor, "..."], targets: Shaped[Tensor, "batch ..."]) -> Tensor:
    """Return `cross_entropy` averaged over the positions whose target is not -100; 0 for a sample without one.

    >>> cross_entropy_of_counted(torch.zeros(2, 4, 2), torch.tensor([[2, -100], [-100, -100]]))
    tensor([1.3863, 0.0000])
    """
    is_counted, lead = targets != IGNORED, outputs.dim() - 1 - targets.dim()
    losses = _of_each_position(outputs, targets.where(is_counted, 0), lead) * is_counted
    if targets.dim() == 1:
        return losses
    return losses.flatten(lead + 1).sum(-1) / is_counted.flatten(1).sum(1).clamp(min=1)


def classes_first(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs [..., batch, positions, classes] as [..., batch, classes, positions], and their targets.

    >>> classes_first(torch.zeros(2, 5, 4), torch.zeros(2, 5))[0].shape
    torch.Size([2, 4, 5])
    """
    return outputs.movedim(-1, outputs.dim() - targets.dim()), targets


def of_the_next(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs [..., batch, T, classes] at all places but the last as [..., batch, classes, T - 1], and the
    targets [batch, T] of the places behind them.

    >>> of_the_next(torch.zeros(1, 3, 4), torch.tensor([[7, 8, 9]]))[1]
    tensor([[8, 9]])
    """
    return classes_first(outputs[..., :-1, :], targets[:, 1:])


def each_token(outputs: Shaped[Tensor, "..."], targets: Shaped[Tensor, "batch ..."]) -> Tensor:
    """Return the mean cross-entropy over each sample's tokens, classes along the last axis; -100 is left out.

    >>> each_token(torch.zeros(1, 3, 4), torch.tensor([[2, 0, -100]]))
    tensor([1.3863])
    """
    return cross_entropy_of_counted(*classes_first(outputs, targets))


def next_token(outputs: Shaped[Tensor, "..."], targets: Shaped[Tensor, "batch tokens"]) -> Tensor:
    """Return the mean over each sample's tokens of -log softmax(outputs at the token before)[token].

    Targets [batch, T] are the ids themselves, not shifted; -100 is left out, and so is the first, which nothing stands
    before. Outputs are [..., batch, T, classes].

    >>> next_token(torch.zeros(1, 3, 4), torch.tensor([[2, 0, -100]]))
    tensor([1.3863])
    """
    return cross_entropy_of_counted(*of_the_next(outputs, targets))


@dataclass(frozen=True, slots=True)
class MeanOfElements:
    """The mean over each sample's outputs of a function of an output and its target, one of torch's own.

    Targets have an element for each output, so that [batch] and [batch, 1] are the same. Leading axes of the outputs
    (candidates) are kept.

    >>> MeanOfElements(functional.l1_loss)(torch.tensor([[0.5, 0.0]]), torch.tensor([[1.0, 2.0]]))
    tensor([1.2500])
    """

    function: Callable[..., Tensor]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample; of outputs of the targets' shape."""
        return self._means(outputs, targets.reshape(outputs.shape), 1)

    def of_candidates(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the same of many candidate networks on one batch [candidates, batch, ...]."""
        return self._means(outputs, targets.reshape(outputs.shape[1:]).expand_as(outputs), 2)

    def across(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the same of outputs that lie along the last axis but one, samples last."""
        return self.function(outputs, targets.expand_as(outputs), reduction="none").mean(-2)

    def _means(self, outputs: Tensor, targets: Tensor, lead: int) -> Tensor:
        losses = self.function(outputs, targets.to(outputs.dtype), reduction="none")
        return losses.flatten(lead).mean(-1) if losses.dim() > lead else losses


absolute_error = MeanOfElements(functional.l1_loss)
huber = MeanOfElements(functional.huber_loss)
mean_squared_error = MeanOfElements(functional.mse_loss)


def paired_cross_entropy(outputs: Any, targets: Any) -> Tensor:
    """Return the mean of the cross-entropies of several outputs [batch, classes], each with its targets.

    Both come in one order, such as where an answer starts in a text and where it ends. Targets beyond the classes do
    not count.

    >>> paired_cross_entropy((torch.zeros(1, 4), torch.zeros(1, 4)), (torch.tensor([2]), torch.tensor([4])))
    tensor([0.6931])
    """
    pairs = [
        cross_entropy_of_counted(said, wanted.where(wanted < said.shape[1], IGNORED))
        for said, wanted in zip(floats_of(outputs), tensors_of(targets), strict=False)
    ]
    return torch.stack(pairs).mean(0)


def divergence(outputs: Shaped[Tensor, "..."], answers: Shaped[Tensor, "batch ..."]) -> Tensor:
    """Return the Kullback-Leibler divergence `sum_c p_c (log p_c - log q_c)` of two sets of logits, the mean over
    positions: p the softmax of the answers, q that of the outputs.

    Classes lie along axis 1, of [batch, T, classes] along the last. Leading axes of `outputs` (candidates) are kept.

    >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([0.])
    """
    classes = classes_of_logits(answers)
    classes = classes if classes < 0 else classes - answers.dim()
    lead = outputs.dim() - answers.dim()
    losses = divergence_along(outputs, answers.expand_as(outputs), classes)
    return losses.flatten(lead + 1).mean(-1) if losses.dim() > lead + 1 else losses


def classes_of_logits(outputs: Tensor) -> int:
    """The axis of the classes in logits: 1, of [batch, T, classes] the last."""
    return -1 if outputs.dim() == 3 else 1


def divergence_along(outputs: Tensor, answers: Tensor, classes: int) -> Tensor:
    """Return `divergence` at each position, the classes lying along that axis.

    >>> divergence_along(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), 1).shape
    torch.Size([2, 4])
    """
    said, wanted = outputs.log_softmax(classes), answers.log_softmax(classes)
    return functional.kl_div(said, wanted, reduction="none", log_target=True).sum(classes)


def squares_of_all(outputs: Any, answers: Any) -> Tensor:
    """Return `squared_error` summed over every tensor of floating numbers that a network returns.

    >>> squares_of_all({"a": torch.ones(1, 2), "b": torch.zeros(1)}, (torch.zeros(1, 2), torch.ones(1)))
    tensor([1.5000])
    """
    return torch.stack(list(map(squared_error, floats_of(outputs), floats_of(answers)))).sum(0)


def squared_error(outputs: Shaped[Tensor, "..."], targets: Shaped[Tensor, "batch ..."]) -> Tensor:
    """Return half the sum of squares over the outputs of each sample (the error of Sharma, Wolfe, Raj 2017).

    Targets that are classes are compared one-hot. Leading axes of `outputs` (candidates) are kept.

    >>> squared_error(torch.tensor([[0.5, 0.0]]), torch.tensor([0]))
    tensor([0.1250])
    """
    if not targets.is_floating_point():
        targets = _one_hot(targets, outputs.shape[-targets.dim()]).to(outputs.dtype)
    lead = outputs.dim() - targets.dim()
    squares = functional.mse_loss(outputs, targets.expand_as(outputs), reduction="none")
    if targets.dim() == 1:
        return squares / 2
    squares = squares.flatten(lead + 1)
    return squares @ squares.new_full((squares.shape[-1],), 0.5)  # a sum over a short last axis is slow


def _one_hot(targets: Shaped[Tensor, "batch ..."], num_classes: int) -> Shaped[Tensor, "batch classes ..."]:
    return functional.one_hot(targets, num_classes).movedim(-1, 1)


def binary_cross_entropy(outputs: Shaped[Tensor, "batch ..."], targets: Shaped[Tensor, "batch ..."]) -> Tensor:
    """Return the mean over each sample's logits x of `-t log s(x) - (1 - t) log(1 - s(x))`, s the sigmoid, 0 <= t <= 1.

    Targets have an element for each logit, so that [batch] and [batch, 1] are the same; whole numbers are 0 and 1.

    >>> binary_cross_entropy(torch.tensor([[0.0], [0.0]]), torch.tensor([0, 1]))
    tensor([0.6931, 0.6931])
    """
    return binary_cross_entropies(outputs[None], targets)[0]


def binary_cross_entropies(
    outputs: Float[Tensor, "candidates batch ..."], targets: Shaped[Tensor, "batch ..."]
) -> Float[Tensor, "candidates batch"]:
    """Return `binary_cross_entropy` of many candidate networks on one batch.

    >>> binary_cross_entropies(torch.zeros(3, 1, 2), torch.tensor([[0.0, 1.0]]))
    tensor([[0.6931],
            [0.6931],
            [0.6931]])
    """
    wanted = targets.reshape(outputs.shape[1:]).to(outputs.dtype).expand_as(outputs)
    losses = functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
    return losses if losses.dim() == 2 else losses.flatten(2).mean(-1)


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


def binary_cross_entropy_across(
    outputs: Float[Tensor, "... outputs batch"], targets: Float[Tensor, "outputs batch"]
) -> Tensor:
    """Return `binary_cross_entropy` of logits that lie along the last axis but one, samples last.

    >>> binary_cross_entropy_across(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    tensor([0.6931, 0.6931])
    """
    return (outputs.clamp_min(0) - outputs * targets + outputs.abs().neg().exp().log1p()).mean(-2)


def targets_across(targets: Shaped[Tensor, "batch ..."], outputs: Float[Tensor, "batch outputs"]) -> Tensor:
    """Return classes one-hot (nothing but 0 for -100), or targets of the outputs' shape, samples last.

    >>> targets_across(torch.tensor([1]), torch.zeros(1, 3))
    tensor([[0.],
            [1.],
            [0.]])
    """
    if targets.numel() != outputs.numel():
        classes = torch.arange(outputs.shape[1], device=targets.device)
        return (classes[:, None] == targets.view(-1)).to(outputs.dtype)  # no class is -100
    return targets.to(outputs.dtype).view(outputs.shape).T.contiguous()


def divergence_across(outputs: Float[Tensor, "... outputs batch"], answers: Float[Tensor, "outputs batch"]) -> Tensor:
    """Return `divergence` of outputs that lie along the last axis but one, samples last.

    >>> divergence_across(torch.zeros(2, 1), torch.zeros(2, 1))
    tensor([0.])
    """
    return divergence_along(outputs, answers.expand_as(outputs), -2)


OF_CANDIDATES: dict[PerSample, PerSample] = {
    **{
        one: one for one in (cross_entropy, cross_entropy_of_counted, each_token, next_token, squared_error, divergence)
    },
    **{one: one.of_candidates for one in (absolute_error, huber, mean_squared_error)},
    binary_cross_entropy: binary_cross_entropies,
}
"""The built-in losses for outputs [candidates, batch, ...]."""

ACROSS: dict[PerSample, PerSample] = {
    cross_entropy: cross_entropy_across,
    cross_entropy_of_counted: cross_entropy_across,
    squared_error: squared_error_across,
    binary_cross_entropy: binary_cross_entropy_across,
    **{one: one.across for one in (absolute_error, huber, mean_squared_error)},
    divergence: divergence_across,
}
"""The built-in losses for outputs [..., outputs, batch] and targets [outputs, batch]."""

COMPARED: dict[PerSample, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    each_token: classes_first,
    next_token: of_the_next,
}
"""What a loss compares, where that is not outputs and targets as they come: metrics and accuracy see the same."""

CLASSES_ALONG: dict[PerSample, Callable[[Tensor], int]] = {
    **dict.fromkeys((cross_entropy, cross_entropy_of_counted), lambda outputs: 1),
    **dict.fromkeys((each_token, next_token), lambda outputs: -1),
    divergence: classes_of_logits,
}
"""Along which axis of the outputs the losses that compare a softmax take it."""
