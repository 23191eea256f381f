"""Losses that a network brings along: how far it is from its own answers, and the loss that it computes itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from shrinknet.core.errors import BadInputError
from shrinknet.core.units import names_in
from shrinknet.task.data import Batch
from shrinknet.task.losses import LOSSES, OWN_ANSWERS, OWN_LOSS, Loss
from shrinknet.task.own_word import FLOAT, ROUNDINGS, loss_of, own_word
from shrinknet.task.per_sample import IGNORED, cross_entropy, cross_entropy_of_counted
from shrinknet.task.trees import Inputs, are_alike, call_of, floats_of, num_rows, of_each, tensors_of
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
    """Return the loss that a network computes from labels itself, as those of Hugging Face do.

    The network's word is its `loss`. Some rows are asked one by one, and the built-in losses compared with what they
    say: one that agrees on all of them, and on rows that count as many labels together, has the same numbers, faster.
    Where none does, it is the network's own operators between outputs and labels (see `own_word`).

    Args:
        model: the network.
        batch: some rows.
        outputs: what it returns of them, as far as a loss is given it.
        reads: which of the outputs a built-in loss is given.

    Raises:
        BadInputError: the network returns no `loss`, or one that follows from more than outputs and labels.

    Cost: 16 passes of one row, one of several; otherwise a trace of the network with its labels.
    """
    rows = _some((batch.inputs, batch.targets, outputs), slice(min(ROWS_COMPARED, len(batch))))
    return _built_in(model, rows, reads) or _at_its_word(model, rows)


Rows = tuple[Inputs, Any, Any]
"""Inputs, targets and outputs of some rows."""


def _some(rows: Rows, which: slice | Tensor) -> Rows:
    some: Rows = of_each(rows, itemgetter(which))
    return some


def _built_in(model: nn.Module, rows: Rows, reads: int | None) -> Loss | None:
    """The built-in loss of which the network says the same of each row, and of rows together."""
    said = torch.stack([_said(model, _some(rows, slice(place, place + 1))) for place in range(num_rows(rows))])
    is_said, (_, targets, outputs) = said.isfinite(), rows  # a mean over no label at all is none
    is_pair = len(tensors_of(targets)) > 1
    for name in PAIRED if is_pair else COMPUTED:
        loss = replace(counting(LOSSES[name]), reads=reads)
        try:
            losses, counts = loss.each(outputs, targets), _num_counted(loss.compared(outputs, targets)[1])
        except (BadInputError, IndexError):
            continue
        is_silent = is_pair or not bool(counts[~is_said].any())  # the network ignores no other labels than the loss
        if is_said.any() and is_silent and are_alike(said[is_said], losses[is_said]):
            together = is_said & _as_most(counts, is_said)
            whole, mean = float(_said(model, _some(rows, together))), float(said[together].mean())
            if abs(whole - mean) <= ROUNDINGS * FLOAT * max(1.0, abs(mean)):
                return LOSSES[name]
    return None


def _num_counted(targets: Any) -> Tensor:
    """How many labels of each row count, in each tensor of them."""
    return torch.stack([(one != IGNORED).reshape(len(one), -1).sum(1) for one in tensors_of(targets)], 1)


def _as_most(counts: Tensor, among: Tensor) -> Tensor:
    """Which rows have the commonest counts among some: a mean over these labels is one over these rows, too."""
    kinds, number = counts[among].unique(dim=0, return_counts=True)
    is_alike: Tensor = counts == kinds[number.argmax()]
    return is_alike.all(1)


def _at_its_word(model: nn.Module, rows: Rows) -> Loss:
    """The loss by the network's own operators, held against what it says of all rows, of one and of half of them."""
    inputs, targets, outputs = rows
    with _settings_kept(model):
        word = own_word(model, inputs, _named(model, targets), outputs)
    for some in (_some(rows, slice(count)) for count in (num_rows(rows), 1, num_rows(rows) // 2)):
        if num_rows(some) and not are_alike(_said(model, some), replace(word, is_of_each=False)(some[2], some[1])[0]):
            got = "one of which torch's graph says something else, as where len(labels) is written down as a number"
            raise _no_loss(got)
    return Loss(OWN_LOSS, word)


def _named(model: nn.Module, targets: Any) -> dict[str, Any]:
    """Targets by the names of the arguments that take them."""
    return dict(targets) if isinstance(targets, Mapping) else {_labels(model): targets}


def _said(model: nn.Module, rows: Rows) -> Tensor:
    """What the network says of some rows and their labels."""
    (args, kwargs), named = call_of(rows[0]), _named(model, rows[1])
    with _settings_kept(model):
        try:
            outputs = model(*args, **kwargs, **named)
        except Exception as error:  # the user's own forward
            raise _no_loss(f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")) from error
    loss = loss_of(outputs)
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
    do = (
        "Name the loss that it was trained by, or give a function of outputs and targets. A run is opened with the "
        "model itself, or by `trust=True`."
    )
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
