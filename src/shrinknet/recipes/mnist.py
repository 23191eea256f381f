"""The source paper's images, drawn from MNIST."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shrinknet.recipes.files import read_idx


def paper_subset(folder: Path, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return 4,500 training and 500 test rows of the 20 x 20 centre, 500 images a class, pixels in [0, 1].

    The paper used the 5,000 images of a course's exercise, 20 x 20; a seeded draw from MNIST stands in for them.
    """
    images = read_idx(folder / "train-images-idx3-ubyte.gz")
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")
    generator = np.random.default_rng(seed)
    chosen = np.concatenate([generator.choice(np.flatnonzero(labels == c), 500, replace=False) for c in range(10)])
    chosen = generator.permutation(chosen)
    inputs = torch.tensor(images[chosen, 4:24, 4:24].reshape(len(chosen), -1), dtype=torch.float64) / 255
    targets = torch.tensor(labels[chosen].astype(np.int64))
    return (inputs[:4500], targets[:4500]), (inputs[4500:], targets[4500:])
