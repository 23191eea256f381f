"""A plain training loop for those without one: seeded, with progress, and a state that goes on to the same bits."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from shrinknet.recovery.states import load_optimizer, optimizer_state, packed, under, unpacked
from shrinknet.sparsify.base import Sparsifier
from shrinknet.task.per_sample import PerSample
from shrinknet.task.trees import Inputs, called, of_each

Rows = tuple[Tensor, Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass
class Training:
    """A loop over epochs: shuffled batches, one step of the optimizer for each, and the rate that a schedule gives.

    Args:
        model: trained in place.
        loss: of outputs and targets, one value for each sample; its mean over the batch is minimised.
        rows: inputs and targets: a tensor each, or trees of them.
        optimizer: of the model's parameters.
        batch_size, seed: of the batches and of their order.
        rate: the learning rate at a progress from 0 to 1, as a factor of the optimizer's own; constant where left out.
        num_epochs: how many epochs the schedule is for.
        augment: what becomes of a batch of inputs before it is seen.
        clip: the largest norm of all gradients together.
        sparsifier: the method that the training is under.
        order: whose draws shuffle the rows, one epoch after another; left out, each epoch draws anew from the seed, so
            that a training that was broken off ends in the same bits.
        only_whole: leave out the rows of an epoch that fill no batch.

    >>> from shrinknet.task.per_sample import squared_error
    >>> model = nn.Linear(2, 1)
    >>> rows = torch.ones(8, 2), torch.ones(8, 1)
    >>> training = Training(model, squared_error, rows, torch.optim.SGD(model.parameters(), 0.1), 4, 0, num_epochs=3)
    >>> [epoch for epoch in training.epochs()]
    [1, 2, 3]
    """

    model: nn.Module
    loss: PerSample
    rows: tuple[Inputs, Any]
    optimizer: Optimizer
    batch_size: int
    seed: int
    num_epochs: int
    rate: Callable[[float], float] | None = None
    augment: Augment | None = None
    clip: float | None = None
    sparsifier: Sparsifier | None = None
    order: torch.Generator | None = None
    only_whole: bool = False
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    """Whatever the caller notes of each epoch: kept in the state."""

    def __post_init__(self) -> None:
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def steps_per_epoch(self) -> int:
        """How many steps an epoch takes."""
        return -(-len(self.rows[0]) // self.batch_size)

    def epochs(self) -> Iterator[int]:
        """Train one epoch after another, and yield how many are done; the sparsifier is attached meanwhile."""
        with nullcontext() if self.sparsifier is None else self.sparsifier.attached(self.optimizer):
            while self.epoch < self.num_epochs:
                self._one_epoch()
                self.epoch += 1
                yield self.epoch

    def _one_epoch(self) -> None:
        generator = self.order or torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        inputs, targets = self.rows
        self.model.train()
        total, num_seen = 0.0, 0
        for place, chosen in enumerate(torch.randperm(len(inputs), generator=generator).split(self.batch_size)):
            if self.only_whole and len(chosen) < self.batch_size:
                continue
            self._set_rate((self.epoch + place / self.steps_per_epoch) / self.num_epochs)
            seen, wanted = of_each((inputs, targets), itemgetter(chosen))
            seen = seen if self.augment is None else self.augment(seen, generator)
            self.optimizer.zero_grad()
            loss = self.loss(called(self.model, seen), wanted).mean()
            loss.backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            total += float(loss.detach()) * len(chosen)
            num_seen += len(chosen)
        self.losses.append(total / num_seen)
        self.model.eval()

    def _set_rate(self, progress: float) -> None:
        if self.rate is not None:
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * self.rate(progress)

    def state(self) -> bytes:
        """Return everything that the next epoch depends on, as a safetensors file: no pickle.

        Weights, what optimizer and sparsifier remember, the state of torch's generator, the epoch; no clock, so that a
        training that was broken off ends in the same bits.
        """
        values, settings = optimizer_state(self.optimizer)
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in values.items()}
        tensors["rng"] = torch.get_rng_state()
        numbers: dict[str, Any] = {"epoch": self.epoch, "losses": self.losses, "rates": self._rates}
        numbers["history"] = [{name: one for name, one in row.items() if name != "seconds"} for row in self.history]
        numbers["optimizer"] = settings
        if self.sparsifier is not None:
            masks, numbers["sparsifier"] = self.sparsifier.state()
            tensors |= {f"sparsifier/{name}": tensor for name, tensor in masks.items()}
        return packed(tensors, numbers)

    def load_state(self, path: Path) -> None:
        """Go on from a state.

        Raises:
            RunFolderError: it cannot be read, or is another network's.
        """
        with unpacked(path) as (tensors, numbers):
            parts = {part: under(tensors, part) for part in ("model", "optimizer", "sparsifier")}
            self.model.load_state_dict(parts["model"])
            load_optimizer(self.optimizer, parts["optimizer"], numbers["optimizer"])
            if self.sparsifier is not None:
                self.sparsifier.load_state(parts["sparsifier"], numbers["sparsifier"])
            torch.set_rng_state(tensors["rng"])
            self.epoch, self._rates = int(numbers["epoch"]), list(numbers["rates"])
            self.losses, self.history = list(numbers["losses"]), list(numbers["history"])


def accuracy(model: nn.Module, rows: Rows, at_once: int = 2048) -> float:
    """Return the share of rows whose largest output is their class."""
    return _added_up(model, rows, at_once, lambda found, y: int((found.argmax(-1) == y).sum())) / rows[1].numel()


def mean_loss(model: nn.Module, loss: PerSample, rows: Rows, at_once: int = 2048) -> float:
    """Return the mean loss over rows."""
    return _added_up(model, rows, at_once, lambda found, y: float(loss(found, y).sum())) / len(rows[0])


def _added_up(model: nn.Module, rows: Rows, at_once: int, of: Callable[[Tensor, Tensor], int | float]) -> int | float:
    """What outputs and targets say of each part of the rows, added up; the network is in eval mode meanwhile."""
    was = model.training
    model.eval()
    with torch.no_grad():
        total = sum(of(model(x), y) for x, y in zip(*(r.split(at_once) for r in rows), strict=True))
    model.train(was)
    return total
