"""The demo's network: a small convolutional network trained on handwritten digits.

The digits, `digits.npz`, are the test rows of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak,
1998, UCI Machine Learning Repository, doi 10.24432/C50P49), under CC BY 4.0, with the values of scikit-learn's copy.
"""

from collections import OrderedDict
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shrinknet.recipes.training import train_epochs
from shrinknet.task.per_sample import cross_entropy

EPOCHS = 30


def build() -> nn.Module:
    """Return the network, untrained: two convolutions, pooling, two dense layers."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 12, 3, padding=1),
            norm1=nn.BatchNorm2d(12),
            relu1=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            conv2=nn.Conv2d(12, 24, 3, padding=1),
            norm2=nn.BatchNorm2d(24),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            dense1=nn.Linear(24 * 4 * 4, 48),
            relu3=nn.ReLU(),
            dense2=nn.Linear(48, 10),
        )
    )


def load_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return 1,797 images of 8 x 8 pixels, values 0 to 16, and the digit that each shows.

    >>> [rows.shape for rows in load_digits()]
    [(1797, 8, 8), (1797,)]
    """
    with as_file(files(__package__) / "digits.npz") as path, np.load(path) as stored:
        return stored["images"].astype(np.float64), stored["labels"].astype(np.int64)


def data(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return 1,078 calibration, 359 validation and 360 test images of 8 x 8 pixels, values in [0, 1]."""
    images, labels = load_digits()
    inputs, targets = torch.tensor(images, dtype=torch.float32)[:, None] / 16, torch.tensor(labels)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    parts = order.split([1078, 359, 360])
    return {
        role: (inputs[part], targets[part])
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
