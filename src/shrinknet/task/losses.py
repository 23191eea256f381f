"""Losses of each sample. Every figure of shrinknet is a mean of these over samples."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from shrinknet.core.errors import BadInputError
from shrinknet.core.named import as_object, import_path
from shrinknet.core.registry import Registry
from shrinknet.task.accuracy import ASKED, Accuracy, argmax, threshold
from shrinknet.task.fitting import transposition
from shrinknet.task.per_sample import (
    CLASSES_ALONG,
    COMPARED,
    OF_CANDIDATES,
    PerSample,
    absolute_error,
    binary_cross_entropy,
    cross_entropy,
    divergence,
    each_token,
    huber,
    mean_squared_error,
    next_token,
    paired_cross_entropy,
    squared_error,
    squares_of_all,
)
from shrinknet.task.torch_losses import TorchLoss, of_torch
from shrinknet.task.trees import num_rows, of_each, shapes_text, tensors_of


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
        is_own: whether targets are the untouched network's own answers, so that its slope is 0 at the start.
        torchs: the name of torch's own loss that it stands for, which takes targets of the outputs' very shape alone.
    """

    name: str
    of: PerSample
    accuracy: Accuracy | None = None
    couples_samples: bool = False
    reads: int | None = None
    is_own: bool = False
    torchs: str = ""

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

    def compared(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return what the loss compares, given what a network returns: what accuracy and metrics see."""
        given = self.read(outputs)
        return COMPARED[self.of](given, targets) if self.of in COMPARED else (given, targets)

    @property
    def takes_one_output(self) -> bool:
        """Whether it is given one of several outputs, unless somebody says otherwise."""
        return self.of in OF_CANDIDATES or (isinstance(self.of, TorchLoss) and self.of.takes_one_output)

    def classes_along(self, outputs: Tensor) -> int | None:
        """The axis of the classes whose softmax is compared, so that the loss's Hessian is `w (diag(p) - p p^T)`."""
        if not self.compares_classes:
            return None
        return 1 if isinstance(self.of, TorchLoss) else CLASSES_ALONG[self.of](outputs)

    @property
    def compares_classes(self) -> bool:
        """Whether it is a cross-entropy: of a softmax over classes."""
        return self.of.compares_classes if isinstance(self.of, TorchLoss) else self.of in CLASSES_ALONG

    def each(self, outputs: Any, targets: Any) -> Float[Tensor, " batch"]:
        """Return the loss of each sample, given what the network returns.

        Raises:
            BadInputError: a function of the user's own fails, or returns another shape, NaN or infinity.
        """
        given = self.read(outputs)
        try:
            losses = self.of(given, targets)
        except BadInputError:
            raise
        except Exception as error:  # a function of the user's own
            do = f"It was given outputs {shapes_text(given)} and targets {shapes_text(targets)}."
            allowed = "a function of outputs and targets that returns one value for each sample"
            got = f"{self.name!r}, which said: {type(error).__name__}: {error}"
            raise BadInputError("loss", allowed, got, f"{do}{transposition(given, targets)}") from error
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

    def needs_slopes(self, what: str) -> None:
        """Raise BadInputError where this loss is flat at the start: `what` sees slopes alone."""
        if self.is_own:
            got = f"{self.name!r}, whose slope is 0 as targets are the network's own answers"
            do = "Use `criterion='ablation'` or `criterion='taylor-2'`."
            raise BadInputError(what, "used where the loss has slopes", got, do)

    def needs_each_sample(self, what: str) -> None:
        """Raise BadInputError where this loss couples samples: `what` needs a loss of each sample alone."""
        if self.couples_samples:
            allowed = "used with a loss whose value for one sample does not depend on the others"
            do = "Rank and prune by ablation, taylor-1, taylor-2 or gauss-newton, without a race."
            raise BadInputError(what, allowed, f"{self.name!r}, which looks at the batch as a whole", do)


ARGMAX, THRESHOLD = Accuracy("argmax", argmax), Accuracy("threshold", threshold)

OWN_ANSWERS, OWN_LOSS = "own-answers", "own-loss"
"""Losses that a task takes from its network: what they are is known once it has answered."""


def not_known_yet(outputs: Any, targets: Any) -> Tensor:
    """Stand for the loss that a network computes itself, until a task has found out which one that is."""
    do = "Ask a task for its loss."
    raise BadInputError("loss", f"another than {OWN_LOSS!r} where there is no task", repr(OWN_LOSS), do)


LOSSES: dict[str, Loss] = {
    one.name: one
    for one in (
        Loss("cross-entropy", cross_entropy, ARGMAX),
        Loss("squared-error", squared_error, ARGMAX),
        Loss("binary-cross-entropy", binary_cross_entropy, THRESHOLD),
        Loss("mean-squared-error", mean_squared_error),
        Loss("absolute-error", absolute_error),
        Loss("huber", huber),
        Loss("next-token", next_token),
        Loss("each-token", each_token),
        Loss("paired-cross-entropy", paired_cross_entropy),
        Loss(OWN_ANSWERS, squares_of_all, is_own=True),
        Loss(OWN_LOSS, not_known_yet),
        Loss("own-answers-kl", divergence, is_own=True),
        Loss("own-answers-squares", squared_error, is_own=True),
    )
}


def find_loss(loss: str | PerSample | Loss) -> Loss:
    """Return the loss of that name or `package.module:function`, or wrap a function `(outputs, targets) -> losses`.

    A loss of torch, an object or a function with whatever `reduction`, is rebuilt to give one value for each sample.

    Raises:
        BadInputError: the name is unknown.
    """
    return BY_NAME.find(loss)


def _own(loss: object) -> Loss | None:
    """A loss as it is; one of torch's own; a function as a loss of its own name."""
    if isinstance(loss, Loss):
        return loss
    loss = as_object("loss", loss)
    if (of := of_torch(loss)) is not None:
        named = None if of.accuracy is None else Accuracy(of.accuracy, ASKED[of.accuracy])
        return replace(LOSSES[of.built_in], torchs=of.kind) if of.built_in else Loss(of.name, of, named)
    return Loss(getattr(loss, "__qualname__", type(loss).__name__), loss) if callable(loss) else None


BY_NAME = Registry[Loss]("loss", "shrinknet.task.losses", "shrinknet.losses", lambda _: LOSSES.values(), _own, "loss")


def with_slope(losses: Tensor, name: str) -> Tensor:
    """Return losses that have a derivative.

    Raises:
        BadInputError: they have none: a share of wrong answers moves in steps.
    """
    if not losses.requires_grad:
        got = f"{name!r}, which has none"
        do = "Use `criterion='ablation'`, which takes none."
        raise BadInputError("loss", "one with a slope in the outputs where derivatives are taken", got, do)
    return losses


def checked(losses: Tensor, num_samples: int, name: str) -> Tensor:
    """Return the losses after checking that there is one for each sample and that all are finite.

    Raises:
        BadInputError: the loss returned another shape, NaN or infinity.
    """
    if losses.shape != (num_samples,):
        allowed = f"a function that returns one value for each sample, shape [{num_samples}]"
        do = (
            "Use reduction='none' and average over everything but the samples; what is one number for a whole batch, "
            "give to each of its samples: loss.expand(len(targets))."
        )
        raise BadInputError("loss", allowed, f"shape {list(losses.shape)} from {name!r}", do)
    is_finite = losses.isfinite()
    if not is_finite.all():
        row = int(torch.nonzero(~is_finite)[0])
        got = f"{float(losses[row].detach())} for sample {row} of a batch ({name!r})"
        raise BadInputError("loss", "finite on every sample", got, "Look at the model's outputs on that sample.")
    return losses
