"""Losses of each sample. Every figure of shrinknet is a mean of these over samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from shrinknet.core.errors import BadInputError
from shrinknet.core.registry import Registry
from shrinknet.task.accuracy import ASKED, Accuracy, argmax, import_path, threshold
from shrinknet.task.trees import joined, num_rows, of_each, shapes_text, tensors_of

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


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss by its name: `of(outputs, targets)` gives one value for each sample.

    Attributes:
        name: what it is called.
        of: the function.
        accuracy: which rows are right; None where nobody says.
        couples_samples: whether the value of one sample depends on the others of its batch.
        reads: which of a network's outputs it is given, counted over all tensors that are returned; None: what is
            returned, as it is.
    """

    name: str
    of: PerSample
    accuracy: Accuracy | None = None
    couples_samples: bool = False
    reads: int | None = None

    @property
    def facts(self) -> dict[str, object]:
        """What a run's config says of it: its name, an accuracy that is not its own, and whether it couples samples."""
        own = LOSSES[self.name].accuracy if self.name in LOSSES else None
        found: dict[str, object] = {"loss": self.name if self.name in LOSSES else import_path(self.of) or self.name}
        if self.accuracy is not None and self.accuracy != own:
            name = self.accuracy.name
            found["accuracy"] = name if name in ASKED else import_path(self.accuracy.of) or name
        if self.couples_samples:
            found["couples_samples"] = True
        return found

    def read(self, outputs: Any) -> Any:
        """Return what the loss is given of what a network returns."""
        return outputs if self.reads is None else tensors_of(outputs)[self.reads]

    def each(self, outputs: Any, targets: Any) -> Float[Tensor, " batch"]:
        """Return the loss of each sample, given what the network returns.

        Raises:
            BadInputError: a function of the user's own fails, or returns another shape, NaN or infinity.
        """
        given = self.read(outputs)
        try:
            losses = self.of(given, targets)
        except Exception as error:  # a function of the user's own
            raise BadInputError(
                "loss",
                "a function of outputs and targets that returns one value for each sample",
                f"{self.name!r}, which said: {type(error).__name__}: {error}",
                f"It was given outputs {shapes_text(given)} and targets {shapes_text(targets)}.",
            ) from error
        return checked(losses, num_rows(given), self.name)

    def of_candidates(self, outputs: Any, targets: Any) -> Float[Tensor, "candidates batch"]:
        """Return the losses of many candidate networks on one batch, given what it reads: [candidates, batch, ...].

        The built-in losses broadcast over the candidates; any other loss sees them folded into the batch, or one after
        the other where it couples samples.
        """
        if self.of in OF_CANDIDATES:
            return OF_CANDIDATES[self.of](outputs, targets)
        if self.couples_samples:
            lanes = range(num_rows(outputs))
            return torch.stack([self.of(of_each(outputs, lambda one, c=c: one[c]), targets) for c in lanes])  # type: ignore[misc]
        num_candidates, num_samples = tensors_of(outputs)[0].shape[:2]
        repeated = of_each(targets, lambda one: one.expand(num_candidates, *one.shape).flatten(0, 1))
        folded = of_each(outputs, lambda one: one.flatten(0, 1))
        return self.of(folded, repeated).view(num_candidates, num_samples)

    def needs_each_sample(self, what: str) -> None:
        """Raise BadInputError where this loss couples samples: `what` needs a loss of each sample alone."""
        if self.couples_samples:
            raise BadInputError(
                what,
                "used with a loss whose value for one sample does not depend on the others",
                f"{self.name!r}, which looks at the batch as a whole",
                "Rank and prune by ablation, taylor-1, taylor-2 or gauss-newton, without a race.",
            )


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
    """Return classes one-hot, or targets of the outputs' shape, samples last.

    >>> targets_across(torch.tensor([1]), torch.zeros(1, 3))
    tensor([[0.],
            [1.],
            [0.]])
    """
    if targets.numel() != outputs.numel():
        targets = functional.one_hot(targets, outputs.shape[1])
    return targets.to(outputs.dtype).view(outputs.shape).T.contiguous()


LOSSES: dict[str, Loss] = {
    "cross-entropy": Loss("cross-entropy", cross_entropy, Accuracy("argmax", argmax)),
    "squared-error": Loss("squared-error", squared_error, Accuracy("argmax", argmax)),
    "binary-cross-entropy": Loss("binary-cross-entropy", binary_cross_entropy, Accuracy("threshold", threshold)),
}

OF_CANDIDATES: dict[PerSample, PerSample] = {
    cross_entropy: cross_entropy, squared_error: squared_error, binary_cross_entropy: binary_cross_entropies,
}  # fmt: skip
"""The built-in losses for outputs [candidates, batch, ...]."""

ACROSS: dict[PerSample, PerSample] = {
    cross_entropy: cross_entropy_across, squared_error: squared_error_across,
    binary_cross_entropy: binary_cross_entropy_across,
}  # fmt: skip
"""The built-in losses for outputs [..., outputs, batch] and targets [outputs, batch]."""


def find_loss(loss: str | PerSample | Loss) -> Loss:
    """Return the loss of that name or `package.module:function`, or wrap a function `(outputs, targets) -> losses`.

    Raises:
        BadInputError: the name is unknown.
    """
    return BY_NAME.find(loss)


def _own(loss: object) -> Loss | None:
    """A loss as it is; a function as a loss of its own name."""
    if isinstance(loss, Loss):
        return loss
    return Loss(getattr(loss, "__qualname__", type(loss).__name__), loss) if callable(loss) else None


BY_NAME = Registry[Loss](
    "loss", "shrinknet.task.losses", "shrinknet.losses", lambda module: LOSSES.values(), _own, "loss"
)


RELATIVE = 1e-6
"""How far losses may differ that are the same but for rounding, in float64, as a share of the largest one."""

ROUNDINGS = 64
"""The same in other precisions, in roundings."""


def couples_samples(loss: Loss, outputs: Any, targets: Any) -> bool:
    """Whether the loss of some rows is anything else than the losses of parts of them, put together.

    Asked of the rows' own outputs, of those of their neighbours, of outputs near to each other and of smaller ones: a
    loss may be 0 where a network is right. The parts are halves and two unequal ones; and all of these are put in one
    batch, as candidates are. What a loss cannot say of a part couples too.

    Cost: some evaluations of the loss.

    >>> couples_samples(find_loss(lambda o, t: (o - t).abs()), torch.randn(5), torch.zeros(5))
    False
    >>> couples_samples(find_loss(lambda o, t: (o - t).norm().expand(5)), torch.randn(5), torch.zeros(5))
    True
    """
    if loss.of in OF_CANDIDATES:
        return False
    outputs = loss.read(outputs)
    near = _floats(outputs, lambda one: one.lerp(one.mean(0, keepdim=True), 0.9))
    neighbours, smaller = of_each(outputs, lambda one: one.roll(1, 0)), _floats(outputs, lambda one: one / 2)
    wholes = [(given, targets) for given in (outputs, neighbours, near, smaller)]
    wholes = [whole for whole in wholes if _said(loss, whole) is not None]
    cuts = {num_rows(outputs) // 2, num_rows(outputs) // 3} - {0}
    partitions = [wholes, *([_part(whole, 0, cut), _part(whole, cut, None)] for whole in wholes for cut in cuts)]
    return not wholes or not all(_falls_apart(loss, parts) for parts in partitions)


Rows = tuple[Any, Any]
"""Outputs and targets of some rows."""


def _floats(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tree with each tensor of floating numbers changed."""
    return of_each(tree, lambda one: change(one) if one.is_floating_point() else one)


def _part(rows: Rows, start: int, stop: int | None) -> Rows:
    part: Rows = of_each(rows, lambda one: one[start:stop])
    return part


def _falls_apart(loss: Loss, parts: Sequence[Rows]) -> bool:
    """Whether the loss of all parts at once is the losses of the parts, put together."""
    whole, apart = _said(loss, joined(parts)), [_said(loss, part) for part in parts]
    if whole is None or any(part is None for part in apart):
        return False
    together = torch.cat([part for part in apart if part is not None])
    precision = torch.finfo(whole.dtype).eps
    allowed = RELATIVE if whole.dtype == torch.float64 else ROUNDINGS * precision
    return bool((whole - together).abs().max() <= allowed * together.abs().max())


def _said(loss: Loss, rows: Rows) -> Tensor | None:
    """The losses of some rows, in float64 where the loss can; None where it has nothing to say."""
    for given in (_floats(rows, Tensor.double), rows):
        try:
            losses = loss.of(*given).reshape(num_rows(given[0]))
        except Exception:  # a function of the user's own, which may know batches of one size alone, or one precision
            continue
        return losses if bool(losses.isfinite().all()) else None
    return None


def with_slope(losses: Tensor, name: str) -> Tensor:
    """Return losses that have a derivative.

    Raises:
        BadInputError: they have none: a share of wrong answers moves in steps.
    """
    if not losses.requires_grad:
        raise BadInputError(
            "loss", "one with a slope in the outputs where derivatives are taken", f"{name!r}, which has none",
            "Use `criterion='ablation'`, which takes none.",
        )  # fmt: skip
    return losses


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
            "Use reduction='none' and average over everything but the samples; what is one number for a whole batch, "
            "give to each of its samples: loss.expand(len(targets)).",
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
