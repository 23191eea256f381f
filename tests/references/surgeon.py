"""Optimal Brain Surgeon for whole columns, by the book: the inverse, its downdate, and the rise it promises.

Hassibi and Stork 1993; Stahlberger and Riedmiller 1997. The slow twin of `surgery/least_squares.py`, which solves anew.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shrinknet.compensation.least_squares import Moments


def inverse(moments: Moments, alive: Bool[Tensor, " columns"], ridge: float) -> Float[Tensor, "some some"]:
    """Return H^-1 over the living columns, the bias (last) not held."""
    keep = alive.nonzero()[:, 0]
    held = moments.held(ridge) * (keep < len(alive) - 1).double()  # the bias is not held
    return torch.linalg.inv(moments.gram[keep][:, keep] + torch.diag(held))  # type: ignore[no-any-return]


def without(inverse: Float[Tensor, "n n"], columns: Int[Tensor, " q"]) -> Float[Tensor, "m m"]:
    """Return the inverse once some columns are gone, without inverting anew: `K_SS - K_SQ (K_QQ)^-1 K_QS`.

    >>> matrix = torch.tensor([[2.0, 1, 0], [1, 3, 1], [0, 1, 4]], dtype=torch.float64)
    >>> torch.dist(without(matrix.inverse(), torch.tensor([1])), matrix[[0, 2]][:, [0, 2]].inverse()).item() < 1e-12
    True
    """
    rest = torch.ones(len(inverse), dtype=torch.bool)
    rest[columns] = False
    across = inverse[rest][:, columns]
    return inverse[rest][:, rest] - across @ torch.linalg.solve(inverse[columns][:, columns], across.T)  # type: ignore[no-any-return]


def rise(
    inverse: Float[Tensor, "n n"], weights: Float[Tensor, "outputs n"], columns: Int[Tensor, " q"]
) -> Float[Tensor, " outputs"]:
    """Return how much each output's held mean square error rises when columns go and the rest makes up for them."""
    gone = weights[:, columns]
    return (gone * torch.linalg.solve(inverse[columns][:, columns], gone.T).T).sum(1)  # type: ignore[no-any-return]
