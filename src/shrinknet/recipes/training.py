"""Just enough training to have a trained network: recipes and the demo need one, users bring their own."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from shrinknet.task.losses import PerSample


def train_epochs(
    model: nn.Module, loss: PerSample, rows: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer,
    batch_size: int, seed: int,
) -> Iterator[int]:  # fmt: skip
    """Train for ever, one epoch at a time, and yield how many are done; the caller decides when it is enough."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = rows
    epoch = 0
    while True:
        model.train()
        for chosen in torch.randperm(len(inputs), generator=generator).split(batch_size):
            optimizer.zero_grad()
            loss(model(inputs[chosen]), targets[chosen]).mean().backward()
            optimizer.step()
        epoch += 1
        model.eval()
        yield epoch


def train_until(model: nn.Module, epochs: Iterator[int], good_enough: Callable[[], bool], most_epochs: int) -> int:
    """Train until a test passes or the epochs are used up; return how many were used."""
    for epoch in epochs:
        if good_enough() or epoch >= most_epochs:
            return epoch
    raise AssertionError("training never ends by itself")
