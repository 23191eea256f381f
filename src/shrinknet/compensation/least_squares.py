"""Least squares on the survivors: how well the others can speak for a neuron, and with which weights.

With G the mean of x x^T over rows (a last column of ones for the bias) and H = G + r I, the weights W of a reader that
loses the columns Q change by `-W_Q ([H^-1]_QQ)^-1 H^-1[Q, :]`, and the mean square of what it gives rises by
`W_Q ([H^-1]_QQ)^-1 W_Q^T` (Hassibi and Stork 1993; Stahlberger and Riedmiller 1997 for whole units).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from shrinknet.compensation.readers import Reader

CHUNK_ELEMENTS = 2**24
"""How many elements of patches are laid out at once."""

RIDGE = 1e-3
"""How strongly weights are held, as a share of the mean square of what is read, where there are rows enough."""

RIDGES = (1e-4, RIDGE, 1e-2, 1e-1, 1.0)
"""Those that rows held out choose from, where there are not."""

FOLDS = 5
"""A fit is tried on one of so many parts of the samples after the other."""


@dataclass(frozen=True)
class Moments:
    """Means over rows of what a reader reads (x, ones last) and of what it should give (y); all in float64.

    gram = mean x x^T [columns + 1, columns + 1], cross = mean x y^T [columns + 1, outputs], power = mean y^2 [outputs].
    """

    gram: Float[Tensor, "columns columns"]
    cross: Float[Tensor, "columns outputs"]
    power: Float[Tensor, " outputs"]
    num_rows: int

    @classmethod
    def of(cls, reader: Reader, x: Tensor, y: Tensor) -> "Moments":
        """Take the means over all rows, some samples at a time."""
        at_once = max(1, CHUNK_ELEMENTS // (reader.given(y[:1]).shape[0] * (len(reader.owners) + 1)))
        size, num_outputs = len(reader.owners) + 1, reader.num_outputs
        gram, cross = (x.new_zeros(shape, dtype=torch.float64) for shape in ((size, size), (size, num_outputs)))
        power, num_rows = x.new_zeros(num_outputs, dtype=torch.float64), 0
        for some, given in zip(x.split(at_once), y.split(at_once), strict=True):
            read, rows = with_ones(reader.read(some)), reader.given(given)
            gram += (read.T @ read).double()
            cross += (read.T @ rows).double()
            power += rows.square().sum(0, dtype=torch.float64)
            num_rows += len(read)
        return cls(gram / num_rows, cross / num_rows, power / num_rows, num_rows)

    @classmethod
    def together(cls, parts: Sequence["Moments"]) -> "Moments":
        """Return the means over the rows of all parts."""
        num_rows = sum(part.num_rows for part in parts)
        gram, cross, power = (
            sum(part.num_rows / num_rows * getattr(part, name) for part in parts) for name in ("gram", "cross", "power")
        )
        return cls(gram, cross, power, num_rows)

    def error(self, weights: Float[Tensor, "outputs columns"]) -> Float[Tensor, " outputs"]:
        """Return the mean of (x w - y)^2 for each output: `power - 2 w cross + w gram w^T`."""
        return self.power - 2 * (weights * self.cross.T).sum(1) + ((weights @ self.gram) * weights).sum(1)

    def held(self, ridge: float) -> float:
        """Return r: that share of the mean square of what is read."""
        return ridge * float(self.gram.diagonal()[:-1].mean().clamp_min(torch.finfo(torch.float64).tiny))


Fit = Callable[[Moments, float], Float[Tensor, "outputs columns"]]
"""Given moments and a ridge, the weights that give y best."""


def best_ridge(parts: Sequence[Moments], fit: Fit) -> float:
    """Return the ridge whose fits to all parts but one err least on that one, over all parts: from moments alone.

    argmin over r of sum_k n_k error_k(fit(moments of all but part k, r)) (Stone 1974).

    Cost: a fit for each part and ridge.
    """

    errors = dict.fromkeys(RIDGES, 0.0)
    for place, part in enumerate(parts):
        others = Moments.together([*parts[:place], *parts[place + 1 :]])
        for ridge in RIDGES:
            errors[ridge] += part.num_rows * float(part.error(fit(others, ridge)).sum())
    return min(RIDGES, key=errors.__getitem__)


def means(reader: Reader, x: Tensor, y: Tensor) -> tuple[Float[Tensor, " columns"], Float[Tensor, " outputs"]]:
    """Return the means over all rows of what a reader reads and of what it should give, in float64.

    Rows are laid out of the mean sample: that is the same, and far less.
    """
    mean_x, mean_y = (values.mean(0, keepdim=True, dtype=torch.float64) for values in (x, y))
    return reader.read(mean_x).mean(0), reader.given(mean_y).mean(0)


def with_ones(rows: Tensor) -> Tensor:
    """Put a column of ones behind the others: the bias reads it."""
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


def least_squares(
    moments: Moments, weights: Float[Tensor, "outputs columns"], alive: Bool[Tensor, " columns"], ridge: float
) -> Float[Tensor, "outputs columns"]:
    """Return the weights on the living columns that give y best, held near the present ones; 0 on the others.

    (G + r I) W'^T = C + r W^T, r being a share `ridge` of the mean square of what is read. The bias is not held.

    Args:
        moments: of what is read and what should be given.
        weights: the present ones, the bias last.
        alive: which columns may be used (the last: whether there is a bias).
        ridge: how strongly the present weights are held.
    """
    keep = alive.nonzero()[:, 0]
    held = moments.held(ridge) * (keep < len(alive) - 1).double()  # the bias is not held
    gram = moments.gram[keep][:, keep] + torch.diag(held)
    refit = torch.zeros_like(weights)
    refit[:, keep] = torch.linalg.solve(gram, moments.cross[keep] + held[:, None] * weights[:, keep].T).T
    return refit


def scaled(
    moments: Moments,
    weights: Float[Tensor, "outputs columns"],
    owners: Int[Tensor, " elements"],
    alive: Bool[Tensor, " columns"],
    ridge: float,
) -> Float[Tensor, "outputs columns"]:
    """Return the weights on the living columns, those of each neuron times one factor, that give y best; 0 elsewhere.

    argmin over s, b of mean |W diag(s) x + b - y|^2 + r |s - 1|^2: one system, (A + r I) s = d + r 1, where A and d sum
    W^T W o cov(x, x) and W^T o cov(x, y) over each neuron's columns, and r is a share `ridge` of A's mean diagonal.
    Without a bias b = 0, and second moments stand for the covariances.

    Args:
        moments: of what is read and what should be given.
        weights: the present ones, the bias last.
        owners: the neuron of each column.
        alive: which columns may be used (the last: whether there is a bias).
        ridge: how strongly factors are held to 1.
    """
    keep, has_bias = alive[:-1].nonzero()[:, 0], alive[-1].double()
    own, x, y = weights[:, keep], has_bias * moments.gram[keep, -1], has_bias * moments.cross[-1]
    inner = own.T @ own * (moments.gram[keep][:, keep] - torch.outer(x, x))
    wanted = (own.T * (moments.cross[keep] - torch.outer(x, y))).sum(1)
    neurons, place = torch.unique(owners[keep], return_inverse=True)
    of_neuron = functional.one_hot(place, len(neurons)).to(inner)
    system = of_neuron.T @ inner @ of_neuron
    held = ridge * system.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    factors = torch.linalg.solve(system + held * torch.eye(len(system)).to(system), of_neuron.T @ wanted + held)
    refit = torch.zeros_like(weights)
    refit[:, keep] = own * factors[place]
    refit[:, -1] = has_bias * (y - refit[:, keep] @ x)
    return refit


def residual_maker(
    gram: Float[Tensor, "columns columns"],
    owners: Int[Tensor, " elements"],
    alive: Bool[Tensor, " elements"],
    ridge: float,
) -> Float[Tensor, "columns elements"]:
    """Return R with x R = what of each living element the survivors of other neurons and a constant cannot tell.

    R's columns are `H^-1[:, Q] ([H^-1]_QQ)^-1` for the elements Q of each neuron; 0 for what is gone.
    """
    keep = functional.pad(alive, (0, 1), value=True).nonzero()[:, 0]
    held = gram.new_full((len(keep),), ridge * float(gram.diagonal()[:-1].mean().clamp_min(1e-300)))
    held[-1] = 0
    whole = torch.linalg.inv(gram[keep][:, keep] + torch.diag(held))
    own, parts = owners[alive], gram.new_zeros(len(keep), len(keep) - 1)
    if len(own.unique()) == len(own):
        parts = whole[:, :-1] / whole.diagonal()[:-1]
    else:
        for neuron in own.unique():
            places = (own == neuron).nonzero()[:, 0]
            parts[:, places] = torch.linalg.solve(whole[places][:, places], whole[:, places].T).T
    result = gram.new_zeros(len(owners) + 1, len(owners))
    result[keep[:, None], keep[:-1][None]] = parts
    return result
