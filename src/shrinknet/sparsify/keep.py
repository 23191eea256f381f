"""Which of many are kept: the largest, exactly so many."""

import torch
from torch import Tensor


def top(scores: Tensor, count: int) -> Tensor:
    """Return a mask of the `count` largest scores, ties to the first; exactly that many.

    >>> top(torch.tensor([1.0, 3.0, 3.0, 3.0]), 2).tolist()
    [False, True, True, False]
    """
    flat = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    flat[torch.sort(scores.flatten(), descending=True, stable=True).indices[:count]] = True
    return flat.view(scores.shape)


def num_left(total: int, sparsity: float) -> int:
    """Return how many of so many stay at a sparsity: the nearest whole number, at least one.

    >>> num_left(1225, 0.97), num_left(3, 0.99)
    (37, 1)
    """
    return max(1, round(total * (1 - sparsity)))


MOST_FOR_A_QUANTILE = 2**24


def quantile(sizes: Tensor, share: float) -> float:
    """Return the value below which a share of some numbers lies; of very many every n-th is looked at.

    >>> quantile(torch.arange(11.0), 0.9)
    9.0
    """
    return float(torch.quantile(thinned(sizes.flatten()), share))


def thinned(numbers: Tensor) -> Tensor:
    """Return every n-th of very many numbers: as many as torch takes quantiles of."""
    return numbers[:: -(-numbers.numel() // MOST_FOR_A_QUANTILE)]
