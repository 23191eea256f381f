"""Accuracy: which rows are answered right. A loss defines it, or the user who asks for it; otherwise there is none."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import starmap
from typing import Any

import torch
from torch import Tensor

from shrinknet.core.errors import BadInputError
from shrinknet.core.named import as_object
from shrinknet.core.registry import Registry
from shrinknet.task.trees import num_rows, shapes_text

Judge = Callable[[Tensor, Tensor], Tensor | None]
"""Given outputs and targets, for each row its class and its answer [rows, 2], or how right it is, 0 to 1 [rows]; None
where that is not defined."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An accuracy by its name: `of(outputs, targets)` judges each row."""

    name: str
    of: Judge


def argmax(outputs: Tensor, targets: Tensor) -> Tensor | None:
    """Return the class of each row and the index of its largest output; None where a row has not one class.

    >>> argmax(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor([[1, 1],
            [1, 0]])
    """
    if targets.is_floating_point() or targets.dim() != 1 or outputs.dim() != 2:
        return None
    return torch.stack([targets, outputs.argmax(1)], 1)


def threshold(outputs: Tensor, targets: Tensor) -> Tensor | None:
    """Return what logits above 0 say: class and answer of a row with one logit; with several, whether all are right.

    None where targets are not a 0 or 1 for each logit, and where a sample has positions.

    >>> threshold(torch.tensor([[-1.0], [2.0]]), torch.tensor([1, 1]))
    tensor([[1, 0],
            [1, 1]])
    >>> threshold(torch.tensor([[-1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    tensor([ True, False])
    """
    is_binary = outputs.numel() == targets.numel() and bool(((targets == 0) | (targets == 1)).all())
    if outputs.dim() > 2 or not is_binary:
        return None
    pairs = torch.stack([targets.reshape(outputs.shape).long(), (outputs > 0).long()], -1).view(len(outputs), -1, 2)
    return pairs[:, 0] if pairs.shape[1] == 1 else (pairs[..., 0] == pairs[..., 1]).all(1)


def agreement(outputs: Tensor, targets: Tensor) -> Tensor | None:
    """Return where the targets of each row are largest, and where its outputs are; None where either is no row [C].

    >>> agreement(torch.tensor([[0.1, 0.9]]), torch.tensor([[2.0, -1.0]]))
    tensor([[0, 1]])
    """
    if not targets.is_floating_point() or outputs.dim() != 2 or targets.shape != outputs.shape:
        return None
    return torch.stack([targets.argmax(1), outputs.argmax(1)], 1)


def nobody_says(outputs: Tensor, targets: Tensor) -> None:
    """Return None: the accuracy that a run was made with is a function that is not at hand."""


ASKED: dict[str, Judge] = {"argmax": argmax, "threshold": threshold, "agreement": agreement}
"""The accuracies that can be asked for by name."""


def find_accuracy(accuracy: str | Judge) -> Accuracy:
    """Return the accuracy of that name or `package.module:function`, or wrap a function `(outputs, targets) -> right`.

    Raises:
        BadInputError: the name is unknown.
    """
    return BY_NAME.find(accuracy)


def _own(accuracy: object) -> Accuracy | None:
    """An accuracy as it is; a function as an accuracy of its own name."""
    if isinstance(accuracy, Accuracy):
        return accuracy
    accuracy = as_object("accuracy", accuracy)
    name = getattr(accuracy, "__qualname__", type(accuracy).__name__)
    return Accuracy(name, accuracy) if callable(accuracy) else None


BY_NAME = Registry[Accuracy](
    "accuracy",
    "shrinknet.task.accuracy",
    "shrinknet.accuracies",
    lambda module: starmap(Accuracy, ASKED.items()),
    _own,
    "accuracy",
)


def judged(accuracy: Accuracy | None, outputs: Any, targets: Any) -> Tensor | None:
    """Return class and answer of each row, or how right each row is; None where there is no accuracy.

    Raises:
        BadInputError: a function of the user's own fails, or returns something else than one number for each row.
    """
    if accuracy is None:
        return None
    if accuracy.of in (*ASKED.values(), nobody_says):
        return accuracy.of(outputs, targets) if isinstance(outputs, Tensor) and isinstance(targets, Tensor) else None
    allowed = "a function of outputs and targets that returns one number from 0 to 1 for each row"
    try:
        right = torch.as_tensor(accuracy.of(outputs, targets))
    except Exception as error:  # a function of the user's own
        got = f"{accuracy.name!r}, which said: {type(error).__name__}: {error}"
        do = f"It was given outputs {shapes_text(outputs)} and targets {shapes_text(targets)}."
        raise BadInputError("accuracy", allowed, got, do) from error
    if right.shape != (num_rows(outputs),):
        do = "Compare each row's answer with its target, and average over the rest."
        raise BadInputError("accuracy", allowed, f"shape {list(right.shape)} from {accuracy.name!r}", do)
    if not bool(((right >= 0) & (right <= 1)).all()):
        raise BadInputError("accuracy", allowed, f"other numbers from {accuracy.name!r}", "Return True or False.")
    return right
