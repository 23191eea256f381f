"""The demo's network: a small convolutional network trained on scikit-learn's handwritten digits."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from shrinknet.recipes.training import train_epochs
from shrinknet.task.losses import cross_entropy

EPOCHS = 30


def build() -> nn.Module:
    """Return the network, untrained: two convolutions, pooling, two dense layers."""
    return nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(1, 12, 3, padding=1), norm1=nn.BatchNorm2d(12), relu1=nn.ReLU(), pool=nn.MaxPool2d(2),
        conv2=nn.Conv2d(12, 24, 3, padding=1), norm2=nn.BatchNorm2d(24), relu2=nn.ReLU(), flatten=nn.Flatten(),
        dense1=nn.Linear(24 * 4 * 4, 48), relu3=nn.ReLU(), dense2=nn.Linear(48, 10),
    ))  # fmt: skip


def data(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return 1,078 calibration, 359 validation and 360 test images of 8 x 8 pixels, values in [0, 1]."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    parts = order.split([1078, 359, 360])
    return {
        role: (images[part], labels[part])
        for role, part in zip(("calibration", "validation", "test"), parts, strict=True)
    }


def write_npz(roles: dict[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """Write the three roles as the command line reads them: `inputs`, `targets` and `split`."""
    inputs, targets = (torch.cat([rows[part] for rows in roles.values()]).numpy() for part in (0, 1))
    split = np.repeat(np.arange(len(roles)), [len(rows[0]) for rows in roles.values()])
    np.savez_compressed(path, inputs=inputs, targets=targets, split=split)


def trained(rows: tuple[Tensor, Tensor], seed: int, tell: Callable[[str, float], None]) -> nn.Module:
    """Return the network after 30 epochs of Adam on the calibration rows."""
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    epochs = train_epochs(model, cross_entropy, rows, optimizer, batch_size=64, seed=seed)
    for epoch in epochs:
        tell(f"epoch {epoch} of {EPOCHS}", epoch / EPOCHS)
        if epoch == EPOCHS:
            break
    return model.eval()
