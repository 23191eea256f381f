"""A task: a trained network, the loss it is judged by, and the data of three roles."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from shrinknet.data import Batch, Data, Source, as_data
from shrinknet.errors import BadInputError
from shrinknet.losses import LOSSES, Loss, PerSample, checked, find_loss

DEFAULT_BATCH_SIZE = 1024


@dataclass(frozen=True, slots=True, init=False)
class Task:
    """What is to be shrunk, and by what it is judged.

    Scores see only `calibration` data, guards only `validation` data, the last number of a report only `test` data.
    Each role is a pair of tensors `(inputs, targets)`, a `Dataset` or a `DataLoader` (read unshuffled). The network
    is computed in eval mode, in its own dtype and on its own device, and comes back untouched.

    Args:
        model: any `nn.Module` that takes one tensor and returns one, samples along the first axis.
        loss: "cross-entropy", "squared-error", or a function `(outputs, targets) -> [num_samples]`.
        calibration: the rows that scores are computed on.
        validation: the rows that guards look at (needed only for guards).
        test: the rows that nothing looks at but the last line of the report.
        batch_size: the most rows for each pass; fewer are taken where a network's activations are large. It changes
            speed and memory, never a result beyond rounding.

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

    def __init__(
        self,
        model: nn.Module,
        loss: str | PerSample | Loss,
        calibration: Source,
        validation: Source | None = None,
        test: Source | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        _check_weights(model)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise BadInputError("batch_size", "a whole number of at least 1", repr(batch_size), "Leave it out.")
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        device = first.device if first is not None else torch.device("cpu")
        dtype = first.dtype if first is not None else torch.get_default_dtype()
        sources = {"calibration": calibration, "validation": validation, "test": test}
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "loss", find_loss(loss))
        object.__setattr__(self, "batch_size", batch_size)
        for role, source in sources.items():
            data = None if source is None else as_data(role, source, batch_size, device, dtype)
            object.__setattr__(self, role, data)
        self._check()

    @property
    def example_inputs(self) -> Tensor:
        """Two rows of calibration inputs: what the network is traced with, and no other row in their memory."""
        inputs = next(self.calibration.batches()).inputs
        return inputs[[0, min(1, len(inputs) - 1)]]

    def with_model(self, model: nn.Module) -> "Task":
        """Return the same task of another network that takes and gives the same."""
        other = copy.copy(self)
        object.__setattr__(other, "model", model)
        return other

    def in_batches_of(self, most: int) -> "Task":
        """Return the same task with at most that many rows for each pass."""
        smaller = copy.copy(self)
        for role in ("calibration", "validation", "test"):
            data = getattr(self, role)
            if data is not None:
                object.__setattr__(smaller, role, replace(data, batch_size=min(most, data.batch_size)))
        return smaller

    def _check(self) -> None:
        with evaluating(self.model), torch.no_grad():
            for data in (self.calibration, self.validation, self.test):
                if data is None:
                    continue
                batches = data.checked_batches()
                batch = next(batches)
                outputs = _outputs(self.model, batch, data.role)
                if data is self.calibration:
                    _check_outputs(outputs, _outputs(self.model, batch, data.role), batch)
                for rows in (batch, *batches):
                    _check_targets(rows.targets, outputs, self.loss, data.role)
                checked(_losses(self.loss, outputs, batch.targets), len(batch), self.loss.name)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold every submodule in eval mode, and give each its own mode back, also after an exception."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _outputs(model: nn.Module, batch: Batch, role: str) -> Tensor:
    try:
        outputs = model(batch.inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise BadInputError(
            f"{role} inputs",
            "of a shape and dtype that the model takes",
            f"{list(batch.inputs.shape)} {str(batch.inputs.dtype).removeprefix('torch.')}",
            f"The model said: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        ) from error
    if not isinstance(outputs, Tensor):
        raise BadInputError(
            "model",
            "a network that returns one tensor",
            type(outputs).__name__,
            "Wrap it in a module whose forward picks the tensor.",
        )
    return outputs


def _check_outputs(outputs: Tensor, again: Tensor, batch: Batch) -> None:
    if outputs.dim() == 0 or len(outputs) != len(batch):
        raise BadInputError(
            "model",
            "a network that returns one row of outputs for each sample",
            f"shape {list(outputs.shape)} for {len(batch)} samples",
            "Keep samples along the first axis.",
        )
    if not bool(outputs.isfinite().all()):
        raise BadInputError(
            "model",
            "a network with finite outputs",
            "NaN or infinity on the first calibration rows",
            "Look at its weights and its input scaling.",
        )
    if not torch.equal(outputs, again):
        raise BadInputError(
            "model",
            "a network that answers the same twice",
            "two different answers to the same rows",
            "Turn dropout and other randomness off (functional dropout needs training=self.training).",
        )


def _losses(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    try:
        return loss.of(outputs, targets)
    except Exception as error:  # a function of the user's own
        raise BadInputError(
            "loss",
            "a function of outputs and targets that returns one value for each sample",
            f"{loss.name!r}, which said: {type(error).__name__}: {error}",
            f"It was given outputs {list(outputs.shape)} and targets {list(targets.shape)}.",
        ) from error


def _check_targets(targets: Tensor, outputs: Tensor, loss: Loss, role: str) -> None:
    """The built-in losses want classes within the outputs, or values of the outputs' shape."""
    if loss.of not in LOSSES.values():
        return
    rest = tuple(outputs.shape[1:])
    if loss.name == "cross-entropy" and (not rest or rest[0] < 2):
        raise BadInputError(
            "loss", "squared-error or your own where the network has one output", "cross-entropy",
            "Say --loss squared-error, or give the network one output for each class.",
        )  # fmt: skip
    if targets.is_floating_point():
        wanted, values = rest, f"of the outputs' shape [N, {', '.join(map(str, rest))}]" if rest else "of shape [N]"
    else:
        wanted, values = rest[1:], "classes, one for each sample" + (" and position" if rest[1:] else "")
    if tuple(targets.shape[1:]) != wanted or not (rest or targets.is_floating_point()):
        kind = str(targets.dtype).removeprefix("torch.")
        raise BadInputError(
            f"{role} targets", values, f"{kind} of shape [N{''.join(f', {size}' for size in targets.shape[1:])}]",
            "Reshape them; whole numbers are classes, floating ones are values.",
        )  # fmt: skip
    if not targets.is_floating_point() and not 0 <= int(targets.min()) <= int(targets.max()) < rest[0]:
        wrong = targets[(targets < 0) | (targets >= rest[0])]
        raise BadInputError(
            f"{role} targets", f"classes from 0 to {rest[0] - 1}", f"class {int(wrong.flatten()[0])}",
            "Number the classes from 0, or give the network one output for each.",
        )  # fmt: skip


def _check_weights(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BadInputError(
                "model",
                "a network with finite weights",
                f"NaN or infinity in {name!r}",
                "Load a checkpoint from before training diverged.",
            )
