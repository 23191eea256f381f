"""The eigenvalues of a matrix that is met in products only, as a quadrature."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shrinknet.core.progress import Tell, tell_nobody

Vector = NDArray[np.float64]
Product = Callable[[Tensor], Tensor]
"""A vector in, a symmetric matrix times that vector out."""

NEXT_TO_ZERO = 1e-9
"""Of the largest eigenvalue: below that a node stands for 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The Hessian's eigenvalues as a quadrature: `mean f(lambda) = sum_j weights_j f(nodes_j)`.

    `zero_rows` is the share of weights whose row of the Hessian is zero: as many eigenvalues are 0, of which the nodes
    see a part (those next to 0) or, in large networks, none.
    """

    nodes: Vector
    weights: Vector
    size: int
    zero_rows: float = 0.0

    @property
    def trace(self) -> float:
        """The sum of the eigenvalues."""
        return float((self.weights * self.nodes).sum()) * self.size

    @property
    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(self.nodes.max())

    def share_free(self, radius: float, eps: float) -> float:
        """Return delta(R) / D = mean of `r^2 / (R^2 + r^2)` with `r^2 = 2 eps / |lambda|`.

        >>> Spectrum(np.array([2.0]), np.array([1.0]), 1).share_free(1.0, 1.0)
        0.5
        """
        if eps <= 0:
            return self.zero_rows
        free = float((self.weights / (1 + radius**2 * np.abs(self.nodes) / (2 * eps))).sum())
        return self._unseen + (1 - self._unseen) * free

    @property
    def _unseen(self) -> float:
        """The share of zero eigenvalues that no node stands for."""
        seen = float(self.weights[np.abs(self.nodes) <= NEXT_TO_ZERO * np.abs(self.nodes).max()].sum())
        return max(0.0, self.zero_rows - seen) / (1 - seen) if seen < 1 else 0.0


def lanczos(
    product: Product, like: Tensor, iterations: int, probes: int, seed: int, tell: Tell = tell_nobody
) -> tuple[Vector, Vector]:
    """Return nodes and weights of a quadrature over a symmetric matrix's eigenvalues.

    Each probe v (random signs, of length 1) gives a tridiagonal matrix T whose eigenvalues are nodes and whose
    eigenvectors' squared first elements are weights: `v^T f(H) v` is exact for polynomials f of a degree up to
    `2 iterations - 1`, and its mean over probes is `trace f(H) / D` (Golub and Meurant; Ghorbani, Krishnan, Xiao 2019).
    Every new vector is made orthogonal to all before it, twice.

    Cost: `iterations x probes` products, `iterations` vectors in memory.

    >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 4.0]).double())
    >>> nodes, weights = lanczos(lambda v: matrix @ v, torch.zeros(3).double(), 3, 1, 0)
    >>> nodes.round(6).tolist(), round(float((nodes * weights).sum()), 6)
    ([1.0, 2.0, 4.0], 2.333333)
    """
    generator = torch.Generator().manual_seed(seed)
    nodes, weights = list[Vector](), list[Vector]()
    for probe in range(probes):
        signs = torch.randint(0, 2, like.shape, generator=generator) * 2 - 1
        vector = signs.to(like) / math.sqrt(like.numel())
        basis, diagonal, beside = [vector], list[float](), list[float]()
        for step in range(iterations):
            tell("the loss's curvature", (probe * iterations + step) / (probes * iterations))
            moved = product(vector)
            diagonal.append(float(moved @ vector))
            for _ in range(2):
                for known in basis:
                    moved -= (moved @ known) * known
            length = float(moved.norm())
            if step + 1 == iterations or length <= 1e-6 * max(map(abs, diagonal)):
                break
            vector = moved / length
            beside.append(length)
            basis.append(vector)
        tridiagonal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values, vectors = np.linalg.eigh(tridiagonal)
        nodes.append(values)
        weights.append(vectors[0] ** 2 / probes)
    return np.concatenate(nodes), np.concatenate(weights)
