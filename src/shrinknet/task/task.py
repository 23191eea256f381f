"""A task: a trained network, the loss it is judged by, and the data of three roles."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from shrinknet.core.config import DEFAULT_BATCH_SIZE
from shrinknet.core.errors import BadInputError
from shrinknet.core.units import counted
from shrinknet.task.accuracy import Judge, find_accuracy
from shrinknet.task.data import Data, Source, as_data
from shrinknet.task.kinds import check_kind
from shrinknet.task.looking import answered_by, looked_through, of_the_network
from shrinknet.task.looking import evaluating as evaluating
from shrinknet.task.looking import which_output as which_output
from shrinknet.task.losses import LOSSES, OWN_LOSS, Loss, find_loss
from shrinknet.task.measured import Given, Measured, find_metrics
from shrinknet.task.per_sample import PerSample
from shrinknet.task.torch_losses import TorchLoss
from shrinknet.task.trees import Inputs
from shrinknet.task.unpacking import ByForward, Call, of_the_users

FreeAxes = Sequence[int] | Mapping[int, int | None]
"""Axes whose sizes stay free; in a mapping with the largest size of each."""


class Learnt:
    """What was learnt of a task's network: its trace, for as long as the task lives (see `engine.gates.traced`)."""

    trace: Any = None
    sizes: str = ""


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
            With the largest size of each, `{"input_ids": {1: 128}}`, files whose memory is planned take them, too.

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
    free: Mapping[str, FreeAxes] = field(default_factory=dict)
    examples: tuple[Inputs, ...] = field(default=(), repr=False)
    learnt: Learnt = field(default_factory=Learnt, repr=False, compare=False)

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
        free: Mapping[str, Sequence[int] | Mapping[Any, Any]] | None = None,
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
            judge = of_the_network(model, roles["calibration"], judge, output)
        if judge.is_own:
            judge, roles = answered_by(model, roles, judge, output)
        judge, examples = looked_through(model, judge, output, measured, list(roles.values()), is_asked=is_asked)
        fields = {"model": model, "loss": judge, "batch_size": batch_size, "metrics": measured, "output": output}
        fields |= {"free": _axes_of(free or {}), "examples": examples, "learnt": Learnt()}
        fields |= {**dict.fromkeys(sources), **roles}
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
        axes = {name: dict(one) if isinstance(one, Mapping) else list(one) for name, one in self.free.items()}
        free: Mapping[str, Any] = {"free": axes} if axes else {}
        return {**self.loss.facts, **metrics, **output, **free}

    @property
    def example_inputs(self) -> Inputs:
        """Two rows of calibration inputs: what the network is traced with, and no other row in their memory."""
        inputs = next(self.calibration.batches()).inputs
        return inputs[[0, min(1, len(inputs) - 1)]]

    def with_model(self, model: nn.Module) -> "Task":
        """Return the same task of another network that takes and gives the same."""
        return self._with(model=model, learnt=Learnt())

    def with_roles(self, calibration: Data, validation: Data) -> "Task":
        """Return the same task of other rows of the same kind."""
        return self._with(calibration=calibration, validation=validation, test=None)

    def with_calibration(self, data: Data) -> "Task":
        """Return the same task with other calibration rows, such as some of its own."""
        return self._with(calibration=data)

    def of_rows(self, role: str, source: Source) -> "Task":
        """Return the same task of other calibration rows, called `role`, which are looked through as its own were.

        Raises:
            BadInputError: the rows cannot be used.

        Cost: one pass over them.
        """
        like = self.calibration
        made = as_data(role, source, self.batch_size, like.device, like.dtype, like.unpack)
        rows = replace(made, keeps_truth=like.keeps_truth)
        loss, _ = looked_through(self.model, self.loss, self.output, (), [rows], is_asked=False)
        return self._with(loss=loss, calibration=rows, validation=None, test=None)

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
                allowed = f"at most {most:,}, as memory holds no more and the loss looks at batches as a whole"
                do = "Take smaller batches, which changes the loss, or allow more memory."
                raise BadInputError("batch_size", allowed, f"{data.batch_size:,}", do)
            smaller[role] = replace(data, batch_size=most)
        return self._with(**smaller)

    def _with(self, **changed: Any) -> "Task":
        """A copy with other fields, which is not looked through again."""
        other = copy.copy(self)
        vars(other).update(changed)
        return other


def _axes_of(free: Any) -> dict[str, FreeAxes]:
    """What was said of free sizes; JSON makes texts of the axes of a mapping."""
    if not (
        isinstance(free, Mapping) and all(isinstance(name, str) and _are_axes(axes) for name, axes in free.items())
    ):
        do = 'Write {"input_ids": [1]}, or {"input_ids": {1: 128}} with the largest size.'
        raise BadInputError("free", "names of inputs, each with the axes whose sizes stay free", repr(free), do)
    return {
        name: {int(axis): most for axis, most in axes.items()} if isinstance(axes, Mapping) else tuple(axes)
        for name, axes in free.items()
    }


def _are_axes(axes: Any) -> bool:
    if isinstance(axes, Mapping):
        is_said = all(most is None or (type(most) is int and most > 1) for most in axes.values())
        return is_said and all(type(axis) is int or (isinstance(axis, str) and axis.isdecimal()) for axis in axes)
    return isinstance(axes, Sequence) and all(type(axis) is int for axis in axes)


def check_default_device() -> None:
    """Raise BadInputError where torch makes tensors elsewhere than in memory: a default for everybody, ours too."""
    device = torch.get_default_device()
    if device.type != "cpu":
        do = "Call torch.set_default_device(None) first; network and data may lie on any device."
        raise BadInputError("torch's default device", "the CPU while neurons are removed", repr(str(device)), do)


def _check_weights(model: nn.Module) -> None:
    check_kind(model)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            do = "Load a checkpoint from before training diverged."
            raise BadInputError("model", "a network with finite weights", f"NaN or infinity in {name!r}", do)
