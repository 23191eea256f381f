"""Whether targets are what a loss, and an accuracy, can compare outputs with."""

from typing import Any

import torch
from torch import Tensor

from shrinknet.core.errors import BadInputError
from shrinknet.task.accuracy import ASKED, Accuracy, argmax, judged
from shrinknet.task.fitting import check_alike, of_rows, transposition
from shrinknet.task.losses import Loss
from shrinknet.task.per_sample import IGNORED, OF_CANDIDATES, MeanOfElements, cross_entropy, next_token


def check_targets(targets: Any, outputs: Any, loss: Loss, role: str) -> None:
    """Raise BadInputError where a built-in loss wants others: classes within the outputs, or values of their shape."""
    if loss.of not in OF_CANDIDATES or loss.is_own:
        return
    if not isinstance(targets, Tensor):
        do = "Give one for each row (a network that rebuilds its inputs has these as targets), or a loss of your own."
        if targets is None:
            do = "Give one for each row, or say `loss='own-answers'`, which needs none."
        raise BadInputError(f"{role} targets", f"one tensor for {loss.name}", _sort(targets), do)
    if loss.torchs and loss.name != "cross-entropy":
        check_alike(loss.torchs, outputs, targets)
    rest = tuple(outputs.shape[1:])
    if loss.name == "binary-cross-entropy":
        _check_one_for_each(targets, outputs, "a number from 0 to 1 for each logit", role)
        _check_binary(targets, role)
        return
    if isinstance(loss.of, MeanOfElements):
        _check_one_for_each(targets, outputs, f"a number for each output, for {loss.name}", role)
        return
    if loss.name in ("next-token", "each-token"):
        _check_tokens(targets, outputs, loss, role)
        return
    if loss.name == "cross-entropy" and (not rest or rest[0] < 2):
        raise BadInputError(
            "loss",
            "squared-error or your own where the network has one output",
            "cross-entropy",
            "Say `loss='binary-cross-entropy'` for one logit, `loss='squared-error'` for a value, or give the network "
            "one output for each class.",
        )
    if not targets.is_floating_point() and rest in ((), (1,)):
        raise BadInputError(
            f"{role} targets",
            "floating values where the network has one output",
            _kind(targets),
            "Say `loss='binary-cross-entropy'` for 0 and 1, or make them floating numbers.",
        )
    if targets.is_floating_point():
        wanted, values = rest, f"of the outputs' shape [N, {', '.join(map(str, rest))}]" if rest else "of shape [N]"
    else:
        wanted, values = rest[1:], "classes, one for each sample" + (" and position" if rest[1:] else "")
    if tuple(targets.shape[1:]) != wanted:
        fitting = transposition(outputs, targets).strip()
        do = fitting or "Reshape them; whole numbers are classes, floating ones are values."
        raise BadInputError(f"{role} targets", values, _kind(targets), do)
    if not targets.is_floating_point():
        _check_classes_within(targets if loss.of is cross_entropy else _counted(targets), rest[0], role)
    elif loss.name == "cross-entropy":
        _check_probabilities(targets, role)


def _check_tokens(targets: Tensor, outputs: Tensor, loss: Loss, role: str) -> None:
    """Losses of tokens want ids for outputs whose classes lie along the last axis, two of them where one is next."""
    is_short = loss.of is next_token and (targets.dim() != 2 or targets.shape[1] < 2)
    if targets.is_floating_point() or targets.shape[1:] != outputs.shape[1:-1] or is_short:
        values = f"whole numbers, one for each token of outputs [N, T, classes], for {loss.name}"
        do = "Say `loss='cross-entropy'` where classes lie along the second axis of the outputs."
        raise BadInputError(f"{role} targets", values, f"{_kind(targets)} for {_shape(outputs)}", do)
    _check_classes_within(_counted(targets), outputs.shape[-1], role)


def _counted(targets: Tensor) -> Tensor:
    return targets[targets != IGNORED]


def _check_classes_within(targets: Tensor, num_classes: int, role: str) -> None:
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < num_classes:
        wrong = targets[(targets < 0) | (targets >= num_classes)]
        got = f"class {int(wrong.flatten()[0])}"
        do = "Number the classes from 0, or give the network one output for each."
        raise BadInputError(f"{role} targets", f"classes from 0 to {num_classes - 1}", got, do)


def _check_probabilities(targets: Tensor, role: str) -> None:
    """Floating targets of cross-entropy are probabilities over the classes (smoothed labels are)."""
    sums, allowed = targets.double().sum(1), max(1e-3, 4 * torch.finfo(targets.dtype).eps)
    if bool((targets < 0).any()):
        got = f"{float(targets.min()):.4g} among them"
    elif bool(((sums - 1).abs() > allowed).any()):
        got = f"rows that add up to {float(sums.flatten()[(sums - 1).abs().flatten().argmax()]):.4g}"
    else:
        return
    do = "Say `loss='binary-cross-entropy'` where a row may have several classes or none, else divide by the sum."
    raise BadInputError(
        f"{role} targets", "probabilities over the classes, at least 0 and adding up to 1, for cross-entropy", got, do
    )


def _check_one_for_each(targets: Tensor, outputs: Tensor, wanted: str, role: str) -> None:
    """Targets of the outputs' shape, but for axes of length 1."""
    long_axes = [[size for size in shape if size != 1] for shape in (targets.shape[1:], outputs.shape[1:])]
    if long_axes[0] != long_axes[1]:
        do = (
            transposition(outputs, targets).strip()
            or "Give the network an output for each, or say `loss='cross-entropy'` where each row has one of several "
            "classes."
        )
        raise BadInputError(f"{role} targets", f"{wanted}, shape {_shape(outputs)}", _kind(targets), do)


def _check_binary(targets: Tensor, role: str) -> None:
    """Binary cross-entropy wants numbers from 0 to 1."""
    if bool(((targets < 0) | (targets > 1)).any()):
        wrong = targets[(targets < 0) | (targets > 1)].flatten()[0]
        do = "Scale them, or say `loss='squared-error'`."
        raise BadInputError(f"{role} targets", "from 0 to 1 for binary-cross-entropy", f"{wrong.item():.4g}", do)


def check_classes(targets: Any, outputs: Any, accuracy: Accuracy | None, role: str) -> None:
    """Raise BadInputError where an accuracy that was asked for by name cannot compare targets with outputs."""
    if accuracy is None or accuracy.of not in ASKED.values():
        return
    if accuracy.of is argmax and not targets.is_floating_point() and targets.dim() == 1 and outputs.dim() == 2:
        _check_classes_within(_counted(targets), outputs.shape[1], role)
    elif (
        accuracy.of is argmax or judged(accuracy, outputs[:1].expand(len(targets), *outputs.shape[1:]), targets) is None
    ):
        wanted = COMPARED_BY[accuracy.name]
        got = f"{_kind(targets)} for outputs of shape {_shape(outputs)}"
        do = "Give a function of outputs and targets that says how right each row is."
        raise BadInputError(f"{role} targets", f"{wanted} where accuracy is {accuracy.name!r}", got, do)


COMPARED_BY = {
    "argmax": "one class for each row of outputs [N, C]",
    "threshold": "a 0 or 1 for each logit [N, L]",
    "agreement": "numbers of the outputs' shape [N, C]",
}
"""What the accuracies that can be asked for by name compare outputs with."""


def _sort(tree: Any) -> str:
    """What a tree is, in a word or two."""
    return "nothing" if tree is None else f"a {type(tree).__name__}"


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {_shape(tensor)}"


def _shape(tensor: Tensor) -> str:
    return of_rows(tensor.shape[1:])
