"""Losses that a network brings along: how far it is from its own answers, and the loss that it computes itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from shrinknet.core.errors import BadInputError
from shrinknet.core.units import names_in
from shrinknet.task.data import Batch
from shrinknet.task.losses import LOSSES, OWN_ANSWERS, OWN_LOSS, Loss
from shrinknet.task.per_sample import IGNORED, cross_entropy, cross_entropy_of_counted
from shrinknet.task.trees import Inputs, call_of, floats_of, of_each, tensors_of, tolerance
from shrinknet.task.unpacking import TARGETS

LOGITS = "logits"
"""What networks call outputs whose softmax is meant."""

ROWS_COMPARED = 16
"""So many rows say which loss a network computes."""

COMPUTED = names_in("""
    cross-entropy, binary-cross-entropy, mean-squared-error, next-token, each-token, absolute-error, huber
""")
"""The losses of one output that a network's own is compared with."""

PAIRED = ("paired-cross-entropy",)
"""Those of several outputs with targets each."""


def of_own_answers(loss: Loss, outputs: Any, key: str, inputs: Inputs) -> Loss:
    """Return what `own-answers` means for a network: "own-answers-kl" of logits, "own-answers-squares" of other values,
    squares of all where several outputs are judged.

    Outputs are taken for logits where the network calls them so, there being several for each row (and position); or
    where they are [N, C], some are negative, and they are not of the shape of the inputs, as those of an autoencoder
    are. Nothing else can be known of numbers: the longer names say it.
    """
    if loss.name != OWN_ANSWERS or not isinstance(outputs, Tensor):
        return loss
    is_alike = isinstance(inputs, Tensor) and inputs.shape == outputs.shape
    may_be = outputs.dim() == 2 and not is_alike and bool((outputs < 0).any())
    are_logits = (key == LOGITS or may_be) and outputs.dim() > 1 and outputs.shape[1] > 1
    return LOSSES["own-answers-kl" if are_logits else "own-answers-squares"]


def answers_of(read: Any) -> Any:
    """Return what is kept of a network's outputs: the one that a loss reads, or all of floating numbers."""
    return of_each(read if isinstance(read, Tensor) else tuple(floats_of(read)), lambda one: one.detach().cpu())


def counting(loss: Loss) -> Loss:
    """Return cross-entropy as it is where targets of -100 are left out."""
    return replace(loss, of=cross_entropy_of_counted) if loss.of is cross_entropy else loss


def own_loss(model: nn.Module, batch: Batch, outputs: Any, reads: int | None) -> Loss:
    """Return the built-in loss that computes what a network computes from labels itself, as those of Hugging Face do.

    The network's word is its `loss` for a row and its labels alone. Some rows are asked one by one, and the built-in
    losses compared with what they say: one that agrees on all of them has the same numbers for each sample, faster.

    Raises:
        BadInputError: the network returns no `loss`, or it is none of the built-in ones.

    Cost: 16 passes of one row.
    """
    targets = batch.targets
    count = min(ROWS_COMPARED, len(batch))
    said = torch.stack([_loss_of(model, batch, row) for row in range(count)])
    is_said = said.isfinite()  # a mean over no token at all is none
    for name in PAIRED if len(tensors_of(targets)) > 1 else COMPUTED:
        found = replace(counting(LOSSES[name]), reads=reads)
        try:
            losses = found.each(*of_each((outputs, targets), lambda one: one[:count][is_said]))
        except (BadInputError, IndexError):
            continue
        if len(losses) and bool((losses - said[is_said]).abs().max() <= tolerance(said.dtype, float(losses.max()))):
            return LOSSES[name]
    allowed = f"the name of a loss or a function where a network's own is none of {', '.join(COMPUTED + PAIRED)}"
    do = "Give a function of outputs and targets."
    raise BadInputError("loss", allowed, f"{OWN_LOSS!r}, with {float(said[0]):.4g} for the first row", do)


def _loss_of(model: nn.Module, batch: Batch, row: int) -> Tensor:
    """What the network says of one row and its labels."""
    args, kwargs = call_of(batch.inputs[row : row + 1])
    targets = of_each(batch.targets, lambda one: one[row : row + 1])
    named = targets if isinstance(targets, Mapping) else {_labels(model): targets}
    with _settings_kept(model):
        try:
            outputs = model(*args, **kwargs, **named)
        except Exception as error:  # the user's own forward
            raise _no_loss(f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")) from error
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise _no_loss("none")
    return loss.reshape(())


def _labels(model: nn.Module) -> str:
    """The argument that takes the targets."""
    found = next((name for name in TARGETS if name in signature(model.forward).parameters), None)
    if found is None:
        raise _no_loss("a forward without labels")
    return found


def _no_loss(came: str) -> BadInputError:
    allowed = f"{OWN_LOSS!r} only for a network whose forward takes labels and returns a loss"
    do = "Name the loss that it was trained by, or give a function of outputs and targets."
    return BadInputError("loss", allowed, came, do)


@contextmanager
def _settings_kept(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass with labels notes in the network's configuration (`problem_type`)."""
    settings = getattr(getattr(model, "config", None), "__dict__", {})
    before = dict(settings)
    try:
        yield
    finally:
        settings.clear()
        settings.update(before)


def has_ignored(targets: Any) -> bool:
    """Whether some target is -100."""
    return isinstance(targets, Tensor) and not targets.is_floating_point() and bool((targets == IGNORED).any())
