"""A task: a trained network, the loss it is judged by, and the data of three roles."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from shrinknet.core.config import DEFAULT_BATCH_SIZE
from shrinknet.core.errors import BadInputError
from shrinknet.core.turns import alone
from shrinknet.core.units import counted
from shrinknet.task.accuracy import ASKED, Accuracy, Judge, argmax, find_accuracy, judged
from shrinknet.task.coupling import couples_samples
from shrinknet.task.data import Batch, Data, Source, as_data
from shrinknet.task.fitting import check_alike, of_rows, transposition
from shrinknet.task.kinds import check_kind
from shrinknet.task.losses import LOSSES, OWN_LOSS, Loss, find_loss
from shrinknet.task.metrics import Computation, Given, Measured, find_metrics
from shrinknet.task.own_answers import answers_of, counting, has_ignored, of_own_answers, own_loss
from shrinknet.task.per_sample import IGNORED, OF_CANDIDATES, MeanOfElements, PerSample, cross_entropy, next_token
from shrinknet.task.torch_losses import TorchLoss
from shrinknet.task.trees import Inputs, are_alike, called, joined, named_leaves, same, tensors_of
from shrinknet.task.unpacking import ByForward, Call, of_the_users

log = logging.getLogger(__name__)

ROWS_LOOKED_AT = 128
"""So many rows, spread over the data, say whether samples depend on each other."""


@dataclass(frozen=True, init=False)
class Task:
    """What is to be shrunk, and by what it is judged.

    Scores see only `calibration` data, guards only `validation` data, the last number of a report only `test` data.
    Each role is all its rows at once, as a batch of a training loop has them (`(x, y)`, `(x1, x2, y)`,
    `((x1, x2), y)`, a mapping), a `Dataset` of such rows or a `DataLoader`: the rows of its sampler, read unshuffled,
    put together by its `collate_fn` (see `shrinknet.task.samplers`). The last part of a batch, or the keys that the
    network's `forward` does not take, are the targets; the network is called with the rest (see
    `shrinknet.task.unpacking`). It is computed in eval mode, in its own dtype and on its own device, and comes back
    untouched.

    Where the loss of one sample depends on the others of its batch (a Dice of the whole batch, a contrastive loss), the
    loss of the data is the mean over its batches, each counted by its rows: then `batch_size` and the order of the rows
    are part of the loss, candidates are scored one copy of the batch at a time, and what needs a loss of each sample
    alone (races, some criteria) is refused. A task finds that out by itself: `task.loss.couples_samples`.

    Args:
        model: any `nn.Module`; samples lie along the first axis of each tensor that it takes and returns.
        loss: a name ("cross-entropy", "binary-cross-entropy" of logits, "squared-error", "mean-squared-error",
            "absolute-error", "huber", "next-token", "each-token"); a loss of `torch.nn` or `torch.nn.functional` with
            any `reduction`, rebuilt to give one value for each sample (see `shrinknet.task.torch_losses`); or a
            function `(outputs, targets) -> [num_samples]`, which is given what the network returns, as it is.
            "own-answers" is the distance from the network's own outputs and needs no targets: roles are then inputs
            alone. "own-loss" is the loss that a network (one of Hugging Face) computes from labels itself.
        calibration: the rows that scores are computed on.
        validation: the rows that guards look at (needed only for guards).
        test: the rows that nothing looks at but the last line of the report.
        batch_size: the most rows for each pass; fewer are taken where a network's activations are large. It changes
            speed and memory, never a result beyond rounding.
        accuracy: which rows are right. The built-in losses say so themselves where targets are classes; with a loss of
            your own: "argmax" (the largest output is the class), "threshold" (logits above 0 are 1; of several, all
            must be right), "agreement" (the largest output is that of the own answers), or a function
            `(outputs, targets) -> [num_samples]` of numbers from 0 to 1. There is none where it is left out, and guards
            on it are refused.
        metrics: what else a network is measured by, on validation and test data, over the whole role: names ("top-5",
            "balanced-accuracy", "f1", "mean-iou", "perplexity", "mean-absolute-error", "r2"), objects with `update`,
            `compute` and `reset` (a `torchmetrics.Metric`), functions of outputs and targets that give a number for
            each row; one, several, or {name: metric}.
        unpack: a function of a batch that returns (args, kwargs, targets): what the network is called with, and what
            the loss is given.
        output: where a network returns several tensors, the one that the loss is given: its key, or its number. A
            built-in loss takes the only one of floating numbers, "logits" or "out"; a function of your own is given
            what the network returns, as it is.
        free: inputs by their names, each with the axes whose sizes stay free in what ships, such as
            `{"input_ids": [1], "attention_mask": [1]}`; the samples' axis always is. Batches may then differ there.

    Raises:
        BadInputError: data, weights, outputs or loss cannot be used; the message says what, where and what to do.

    Cost: one pass over the data of each role (targets and outputs are looked at once).

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> task = Task(model, loss="cross-entropy", calibration=(torch.randn(20, 4), torch.arange(20) % 3))
    >>> len(task.calibration), task.validation
    (20, None)
    """

    model: nn.Module
    loss: Loss
    calibration: Data
    validation: Data | None
    test: Data | None
    batch_size: int = field(default=DEFAULT_BATCH_SIZE)
    metrics: tuple[Measured, ...] = ()
    output: str | int | None = None
    free: Mapping[str, Sequence[int]] = field(default_factory=dict)
    examples: tuple[Inputs, ...] = field(default=(), repr=False)

    def __init__(
        self,
        model: nn.Module,
        loss: str | PerSample | Loss,
        calibration: Source,
        validation: Source | None = None,
        test: Source | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        accuracy: str | Judge | None = None,
        metrics: Given = (),
        unpack: Callable[[Any], Call] | None = None,
        output: str | int | None = None,
        free: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        check_default_device()
        _check_weights(model)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise BadInputError("batch_size", "a whole number of at least 1", repr(batch_size), "Leave it out.")
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        device = first.device if first is not None else torch.device("cpu")
        dtype = first.dtype if first is not None else torch.get_default_dtype()
        way = ByForward(model) if unpack is None else of_the_users(unpack)
        sources = {"calibration": calibration, "validation": validation, "test": test}
        judge = find_loss(loss)
        if accuracy is not None:
            judge = replace(judge, accuracy=find_accuracy(accuracy))
        keeps_truth = judge.name not in LOSSES and not isinstance(judge.of, TorchLoss)
        roles = {
            role: replace(as_data(role, source, batch_size, device, dtype, way), keeps_truth=keeps_truth)
            for role, source in sources.items()
            if source is not None or role == "calibration"
        }
        measured, is_asked = find_metrics(metrics), accuracy is not None
        if judge.name == OWN_LOSS:
            judge = _of_the_network(model, roles["calibration"], judge, output)
        if judge.is_own:
            judge, roles = _answered(model, roles, judge, output)
        judge, examples = _looked_through(model, judge, output, measured, list(roles.values()), is_asked=is_asked)
        said = {"model": model, "loss": judge, "batch_size": batch_size, "metrics": measured, "output": output,
                "free": _axes_of(free or {}), "examples": examples}  # fmt: skip
        fields = {**said, **dict.fromkeys(sources), **roles}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        roles = (self.calibration, self.validation, self.test)
        rows = ", ".join(counted(len(data), f"{data.role} row") for data in roles if data is not None)
        return f"<Task: {type(self.model).__name__} by {self.loss.name}, {rows}>"

    @property
    def facts(self) -> dict[str, Any]:
        """What a run's config says of the loss and the metrics."""
        metrics: Mapping[str, Any] = {"metrics": [one.facts for one in self.metrics]} if self.metrics else {}
        output: Mapping[str, Any] = {} if self.output is None else {"output": self.output}
        free: Mapping[str, Any] = {"free": {name: list(axes) for name, axes in self.free.items()}} if self.free else {}
        return {**self.loss.facts, **metrics, **output, **free}

    @property
    def example_inputs(self) -> Inputs:
        """Two rows of calibration inputs: what the network is traced with, and no other row in their memory."""
        inputs = next(self.calibration.batches()).inputs
        return inputs[[0, min(1, len(inputs) - 1)]]

    def with_model(self, model: nn.Module) -> "Task":
        """Return the same task of another network that takes and gives the same."""
        return self._with(model=model)

    def with_roles(self, calibration: Data, validation: Data) -> "Task":
        """Return the same task of other rows of the same kind."""
        return self._with(calibration=calibration, validation=validation, test=None)

    def in_batches_of(self, most: int) -> "Task":
        """Return the same task with at most that many rows for each pass.

        Raises:
            BadInputError: the loss couples the samples of a batch, and a batch has more rows.
        """
        smaller = {}
        for role in ("calibration", "validation", "test"):
            data = getattr(self, role)
            if data is None or min(len(data), data.batch_size) <= most:
                continue
            if self.loss.couples_samples:
                raise BadInputError(
                    "batch_size", f"at most {most:,}, as memory holds no more and the loss looks at batches as a whole",
                    f"{data.batch_size:,}", "Take smaller batches, which changes the loss, or allow more memory.",
                )  # fmt: skip
            smaller[role] = replace(data, batch_size=most)
        return self._with(**smaller)

    def _with(self, **changed: Any) -> "Task":
        """A copy with other fields, which is not looked through again."""
        other = copy.copy(self)
        vars(other).update(changed)
        return other


def _axes_of(free: Any) -> dict[str, tuple[int, ...]]:
    """What was said of free sizes."""
    is_said = isinstance(free, Mapping) and all(
        isinstance(name, str) and isinstance(axes, Sequence) and all(type(axis) is int for axis in axes)
        for name, axes in free.items()
    )
    if not is_said:
        do = 'Write {"input_ids": [1]}.'
        raise BadInputError("free", "names of inputs, each with the axes whose sizes stay free", repr(free), do)
    return {name: tuple(axes) for name, axes in free.items()}


def _looked_through(
    model: nn.Module, loss: Loss, output: str | int | None, metrics: Sequence[Measured], roles: Sequence[Data], *,
    is_asked: bool,
) -> tuple[Loss, tuple[Inputs, ...]]:  # fmt: skip
    """The loss, which says what it reads and whether it couples samples, once all of the task has been looked at.

    Beside it, two rows of each size that batches have.
    """
    examples: dict[str, Inputs] = {}
    with evaluating(model), torch.no_grad():
        for data in roles:
            batches = data.checked_batches()
            batch = next(batches)
            outputs = _outputs(model, batch, data.role)
            if data is roles[0]:
                _check_outputs(outputs, _outputs(model, batch, data.role), batch)
                loss = replace(loss, reads=which_output(loss, outputs, output))
            read = loss.read(outputs)
            for rows in chain([batch], batches):
                loss = counting(loss) if has_ignored(rows.targets) else loss
                examples.setdefault(_sizes(rows.inputs), rows.inputs[:2])
                _check_targets(rows.targets, read, loss, data.role)
                if is_asked:
                    _check_classes(rows.targets, read, loss.accuracy, data.role)
            _check_loss(loss, outputs, batch.targets)
            judged(loss.accuracy, *loss.compared(outputs, batch.targets))
            Computation(metrics, batch.device).update(*loss.compared(outputs, batch.targets))
        rows = roles[0].spread(ROWS_LOOKED_AT)
        outputs = _outputs(model, rows, roles[0].role)
        _check_apart(model, rows, outputs)
        couples = couples_samples(loss, outputs, rows.targets)
        return (replace(loss, couples_samples=True) if couples else loss), tuple(examples.values())


def _sizes(inputs: Inputs) -> str:
    """The sizes of inputs, but for how many rows there are."""
    return str([tuple(one.shape[1:]) for one in tensors_of(inputs)])


def _of_the_network(model: nn.Module, data: Data, loss: Loss, output: str | int | None) -> Loss:
    """The loss that the network computes from labels itself."""
    with evaluating(model), torch.no_grad():
        batch = data.spread(ROWS_LOOKED_AT)
        outputs = _outputs(model, batch, data.role)
        are_several = len(tensors_of(batch.targets)) > 1  # each is compared with an output of its own
        reads = None if are_several else which_output(find_loss("cross-entropy"), outputs, output)
        found = own_loss(model, batch, outputs, reads)
    return found if loss.accuracy is None else replace(found, accuracy=loss.accuracy)


def _answered(
    model: nn.Module, roles: dict[str, Data], loss: Loss, output: str | int | None
) -> tuple[Loss, dict[str, Data]]:
    """The same roles with the network's own answers for targets, and what is compared with them."""
    with evaluating(model), torch.no_grad():
        first = next(roles["calibration"].batches())
        outputs = _outputs(model, first, "calibration")
        reads = which_output(loss, outputs, output)
        key = "" if reads is None else _keyed(outputs)[reads][0]
        loss = replace(loss, reads=reads)
        said = of_own_answers(loss, loss.read(outputs), key, first.inputs)
        answered = {
            role: replace(data, answers=_joined_answers([
                answers_of(loss.read(_outputs(model, batch, role))) for batch in data.batches()]))
            for role, data in roles.items()
        }  # fmt: skip
    if said.name != loss.name:
        taken, other = ("logits", "squares") if said.name.endswith("kl") else ("values that are no logits", "kl")
        log.info("The network's answers are taken for %s (`loss='own-answers-%s'` says otherwise).", taken, other)
    return replace(said, reads=reads, accuracy=loss.accuracy), answered


OUTPUTS = ("logits", "out")
"""What networks call the output that a loss is given, where they return several."""


def which_output(loss: Loss, outputs: Any, asked: str | int | None) -> int | None:
    """Return which of the tensors that a network returns a loss is given, counted over all; None: what is returned.

    Raises:
        BadInputError: there is none such, or a built-in loss has several to choose from.

    >>> cross_entropy = find_loss("cross-entropy")
    >>> which_output(cross_entropy, {"hidden": torch.zeros(2, 8), "logits": torch.zeros(2, 3)}, None)
    1
    """
    if isinstance(outputs, Tensor) or (asked is None and not (loss.takes_one_output or loss.is_own)):
        return None
    leaves = _keyed(outputs)
    numbers = [place for place, (_, leaf) in enumerate(leaves) if leaf.is_floating_point()]
    keys = [key for key, _ in leaves]
    for key in OUTPUTS if asked is None else (str(asked),):
        if key in keys:
            return keys.index(key)
    if asked is None and len(numbers) == 1:
        return numbers[0]
    if isinstance(asked, int) and 0 <= asked < len(leaves):
        return asked
    if asked is None and not loss.takes_one_output:
        return None
    got = f"{len(leaves)} outputs ({', '.join(keys)})" if asked is None else repr(asked)
    raise BadInputError(
        "output", f"the name or number of an output, for {loss.name}: {', '.join(keys)}", got,
        "Say which by `output`, or give a loss of your own, which is given all that the network returns.",
    )  # fmt: skip


def _keyed(outputs: Any) -> list[tuple[str, Tensor]]:
    """The tensors that a network returns, with the key or number of each."""
    leaves = named_leaves(outputs, "")
    return [(name.strip("[].'\""), leaf) for name, leaf in leaves if isinstance(leaf, Tensor)]


def check_default_device() -> None:
    """Raise BadInputError where torch makes tensors elsewhere than in memory: a default for everybody, ours too."""
    device = torch.get_default_device()
    if device.type != "cpu":
        raise BadInputError(
            "torch's default device", "the CPU while neurons are removed", repr(str(device)),
            "Call torch.set_default_device(None) first; network and data may lie on any device.",
        )  # fmt: skip


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold every submodule in eval mode, and give each its own mode back, also after an exception.

    One thread at a time: two tasks may be of one model, and the modes that the second saw would be those of the first.
    """
    with alone():
        modes = {module: module.training for module in model.modules()}
        try:
            for module in modes:
                module.training = False
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def _outputs(model: nn.Module, batch: Batch, role: str) -> Any:
    try:
        outputs = called(model, batch.inputs)
    except Exception as error:  # whatever the user's own forward raises
        shapes = (f"{list(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in tensors_of(batch.inputs))
        raise BadInputError(
            f"{role} inputs",
            "of a shape and dtype that the model takes",
            " and ".join(shapes),
            f"The model said: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        ) from error
    if not tensors_of(outputs):
        raise BadInputError(
            "model", "a network that returns tensors", type(outputs).__name__,
            "Wrap it in a module whose forward returns them, in whatever tuples and mappings; "
            "register a class of your own with torch.utils._pytree.register_dataclass.",
        )  # fmt: skip
    return outputs


def _check_outputs(outputs: Any, again: Any, batch: Batch) -> None:
    for name, leaf in named_leaves(outputs, "outputs"):
        if isinstance(leaf, Tensor) and (leaf.dim() == 0 or len(leaf) != len(batch)):
            got = f"shape {list(leaf.shape)} for {len(batch)} samples"
            raise BadInputError(
                "model",
                "a network that returns one row of outputs for each sample",
                got if isinstance(outputs, Tensor) else f"{name} of {got}",
                "Keep samples along the first axis.",
            )
    if not all(bool(leaf.isfinite().all()) for leaf in tensors_of(outputs) if leaf.is_floating_point()):
        raise BadInputError(
            "model",
            "a network with finite outputs",
            "NaN or infinity on the first calibration rows",
            "Look at its weights and its input scaling.",
        )
    if not same(outputs, again):
        raise BadInputError(
            "model",
            "a network that answers the same twice",
            "two different answers to the same rows",
            "Turn off dropout (a functional one needs training=self.training), sampling, and what forward remembers.",
        )


def _check_apart(model: nn.Module, rows: Batch, outputs: Any) -> None:
    """A row's answer must not depend on the rows beside it: means over samples, batches and lanes all lean on that."""
    cut = len(rows) // 3
    if cut == 0:
        return
    inputs = rows.inputs
    parts = [_outputs(model, Batch(given, rows.targets), "calibration") for given in (inputs[:cut], inputs[cut:])]
    if not are_alike(outputs, _joined_answers(parts)):
        raise _mixes_rows(f"other answers to {counted(cut, 'row')} alone than to the same rows among {len(rows)}")


def _joined_answers(parts: Sequence[Any]) -> Any:
    """The answers to several batches as one.

    Raises:
        BadInputError: their sizes follow the number of rows.
    """
    sizes = {str([tuple(one.shape[1:]) for one in tensors_of(part)]) for part in parts}
    if len(sizes) > 1:
        raise _mixes_rows(f"answers of other sizes for other numbers of rows, {' and '.join(sorted(sizes))}")
    return joined(parts)


def _mixes_rows(got: str) -> BadInputError:
    return BadInputError(
        "model", "a network that answers each row by itself", got,
        "Look for a sum, a mean, a sort, a softmax or a product over the first axis.",
    )  # fmt: skip


def _check_loss(loss: Loss, outputs: Any, targets: Any) -> None:
    """A loss says the same twice, and leaves what it is given as it is."""
    given = tensors_of((outputs, targets))
    versions = [tensor._version for tensor in given]
    first, again = loss.each(outputs, targets), loss.each(outputs, targets)
    if [tensor._version for tensor in given] != versions:
        raise BadInputError(
            "loss", "a function that leaves outputs and targets as they are",
            f"{loss.name!r}, which changes them in place", "Write it without operators that end in an underscore.",
        )  # fmt: skip
    if not torch.equal(first, again):
        raise BadInputError(
            "loss", "a function that says the same of the same outputs", f"{loss.name!r}, which said two things",
            "Take what is random, and what it remembers, out of it.",
        )  # fmt: skip


def _check_targets(targets: Any, outputs: Any, loss: Loss, role: str) -> None:
    """The built-in losses want classes within the outputs, or values of the outputs' shape."""
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
            "loss", "squared-error or your own where the network has one output", "cross-entropy",
            "Say `loss='binary-cross-entropy'` for one logit, `loss='squared-error'` for a value, or give the network "
            "one output for each class.",
        )  # fmt: skip
    if not targets.is_floating_point() and rest in ((), (1,)):
        raise BadInputError(
            f"{role} targets", "floating values where the network has one output", _kind(targets),
            "Say `loss='binary-cross-entropy'` for 0 and 1, or make them floating numbers.",
        )  # fmt: skip
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
        raise BadInputError(
            f"{role} targets", f"classes from 0 to {num_classes - 1}", f"class {int(wrong.flatten()[0])}",
            "Number the classes from 0, or give the network one output for each.",
        )  # fmt: skip


def _check_probabilities(targets: Tensor, role: str) -> None:
    """Floating targets of cross-entropy are probabilities over the classes (smoothed labels are)."""
    sums, allowed = targets.double().sum(1), max(1e-3, 4 * torch.finfo(targets.dtype).eps)
    if bool((targets < 0).any()):
        got = f"{float(targets.min()):.4g} among them"
    elif bool(((sums - 1).abs() > allowed).any()):
        got = f"rows that add up to {float(sums.flatten()[(sums - 1).abs().flatten().argmax()]):.4g}"
    else:
        return
    raise BadInputError(
        f"{role} targets", "probabilities over the classes, at least 0 and adding up to 1, for cross-entropy", got,
        "Say `loss='binary-cross-entropy'` where a row may have several classes or none, else divide by the sum.",
    )  # fmt: skip


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


def _check_classes(targets: Any, outputs: Any, accuracy: Accuracy | None, role: str) -> None:
    """An accuracy that was asked for by name needs targets that it can compare with."""
    if accuracy is None or accuracy.of not in ASKED.values():
        return
    if accuracy.of is argmax and not targets.is_floating_point() and targets.dim() == 1 and outputs.dim() == 2:
        _check_classes_within(_counted(targets), outputs.shape[1], role)
    elif (
        accuracy.of is argmax or judged(accuracy, outputs[:1].expand(len(targets), *outputs.shape[1:]), targets) is None
    ):
        wanted = COMPARED_BY[accuracy.name]
        raise BadInputError(
            f"{role} targets", f"{wanted} where accuracy is {accuracy.name!r}",
            f"{_kind(targets)} for outputs of shape {_shape(outputs)}",
            "Give a function of outputs and targets that says how right each row is.",
        )  # fmt: skip


COMPARED_BY = {
    "argmax": "one class for each row of outputs [N, C]", "threshold": "a 0 or 1 for each logit [N, L]",
    "agreement": "numbers of the outputs' shape [N, C]",
}  # fmt: skip
"""What the accuracies that can be asked for by name compare outputs with."""


def _sort(tree: Any) -> str:
    """What a tree is, in a word or two."""
    return "nothing" if tree is None else f"a {type(tree).__name__}"


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {_shape(tensor)}"


def _shape(tensor: Tensor) -> str:
    return of_rows(tensor.shape[1:])


def _check_weights(model: nn.Module) -> None:
    check_kind(model)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BadInputError(
                "model",
                "a network with finite weights",
                f"NaN or infinity in {name!r}",
                "Load a checkpoint from before training diverged.",
            )
