"""How the networks of the recipes and of the demo are trained: all by the one loop of `sparsify.training`."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shrinknet.sparsify.base import Sparsifier
from shrinknet.sparsify.training import Augment, Rows, Training
from shrinknet.task.per_sample import PerSample, cross_entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What the trainings of one recipe share; see `Training`. `optimizer` makes one of parameters."""

    optimizer: Callable[..., torch.optim.Optimizer]
    batch: int
    loss: PerSample = cross_entropy
    rate: Callable[[float], float] | None = None
    augment: Augment | None = None
    clip: float | None = None

    def training(self, model: nn.Module, rows: Rows, epochs: int, seed: int) -> Training:
        """Return a training that has not begun."""
        optimizer = self.optimizer(model.parameters())
        return Training(model, self.loss, rows, optimizer, self.batch, seed, epochs, self.rate, self.augment, self.clip)

    def train(self, model: nn.Module, rows: Rows, epochs: int, seed: int, sparsifier: Sparsifier | None = None) -> None:
        """Train a network to the end, and finish the method that it is under."""
        training = self.training(model, rows, epochs, seed)
        training.sparsifier = sparsifier
        list(training.epochs())
        if sparsifier is not None:
            sparsifier.finish()


def sgd(rate: float, decay: float = 0.0) -> Callable[..., torch.optim.Optimizer]:
    """Return a maker of gradient descent with momentum 0.9."""
    return lambda parameters: torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)


def train_epochs(
    model: nn.Module,
    loss: PerSample,
    rows: tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    seed: int,
) -> Iterator[int]:
    """Train for ever, one epoch at a time, and yield how many are done; the caller decides when it is enough."""
    order = torch.Generator().manual_seed(seed)
    return Training(model, loss, rows, optimizer, batch_size, seed, sys.maxsize, order=order).epochs()


def train_until(model: nn.Module, epochs: Iterator[int], good_enough: Callable[[], bool], most_epochs: int) -> int:
    """Train until a test passes or the epochs are used up; return how many were used."""
    for epoch in epochs:
        if good_enough() or epoch >= most_epochs:
            return epoch
    raise AssertionError("training never ends by itself")
