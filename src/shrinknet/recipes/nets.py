"""The networks of the recipes, their data prepared, and the rates they are trained with."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from shrinknet.recipes.files import Rows

CATEGORIES = (1, 3, 5, 6, 7, 8, 9, 13)
"""The categorical columns of UCI Adult; the others are numbers."""


def dense(*widths: int) -> nn.Sequential:
    """Return dense layers with ReLU between them, images flattened first."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet5() -> nn.Sequential:
    """Return LeNet-5 as Caffe has it: 431,080 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def one_cycle(progress: float) -> float:
    """Return the rate at a progress: up in a line for 30 %, then down a cosine to 0.

    >>> [round(one_cycle(p), 3) for p in (0.0, 0.15, 0.3, 0.65, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return progress / 0.3 if progress < 0.3 else 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7))


def split(rows: Rows, *sizes: int) -> list[Rows]:
    """Return parts of rows, one after another."""
    bounds = [0]
    for size in sizes:
        bounds.append(bounds[-1] + size)
    return [(rows[0][a:b], rows[1][a:b]) for a, b in pairwise(bounds)]


def shifted(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return one random window of a batch of images, up to eight pixels off; half of the batches are mirrored."""
    top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
    window = images[..., top : top + size, left : left + size]
    return window.flip(-1) if float(torch.rand((), generator=generator)) < 0.5 else window


class Embedded(nn.Module):
    """UCI Adult: every feature becomes a vector of 10 (numbers times a vector, categories from a table), then dense.

    Takes [N, 14]: six numbers, then eight categories as whole numbers.
    """

    def __init__(self, num_categories: list[int], size: int = 10, width: int = 400) -> None:
        super().__init__()
        self.first: Tensor
        self.register_buffer("first", torch.tensor([0, *num_categories[:-1]]).cumsum(0))
        self.table = nn.Embedding(sum(num_categories), size)
        self.scale = nn.Parameter(torch.randn(14 - len(num_categories), size))
        self.shift = nn.Parameter(torch.zeros(14 - len(num_categories), size))
        self.first_dense = nn.Linear(14 * size, width)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the two classes' logits."""
        num_numbers = len(self.scale)
        numbers = rows[:, :num_numbers, None] * self.scale + self.shift
        categories = self.table(rows[:, num_numbers:].long() + self.first)
        out: Tensor = self.rest(self.first_dense(torch.cat([numbers, categories], 1).flatten(1)))
        return out


def adult_rows(train: list[list[str]], test: list[list[str]]) -> tuple[Rows, Rows, list[int]]:
    """Return UCI Adult as tensors [N, 14], and how many categories each categorical feature has.

    Numbers are standardised by the training rows (capital gain and loss after `log(1 + x)`); categories are numbered
    as they come in the training rows, 0 for one that does not ("?" is a category).
    """
    names = [{name: n + 1 for n, name in enumerate(dict.fromkeys(row[c] for row in train))} for c in CATEGORIES]
    numbers = [c for c in range(14) if c not in CATEGORIES]

    def encoded(rows: list[list[str]]) -> Rows:
        values = torch.tensor([[float(row[c]) for c in numbers] for row in rows])
        values[:, [3, 4]] = values[:, [3, 4]].log1p()
        kinds = torch.tensor(
            [[known.get(row[c], 0) for c, known in zip(CATEGORIES, names, strict=True)] for row in rows]
        )
        labels = torch.tensor([int(row[14].startswith(">")) for row in rows])
        return torch.cat([values, kinds.float()], 1), labels

    (x, y), (test_x, test_y) = encoded(train), encoded(test)
    count = len(numbers)
    middle, width = x[:, :count].mean(0), x[:, :count].std(0)
    for one in (x, test_x):
        one[:, :count] = (one[:, :count] - middle) / width
    return (x, y), (test_x, test_y), [len(known) + 1 for known in names]
