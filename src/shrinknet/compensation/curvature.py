"""A fit by the loss's own curvature: how a reader's outputs may move, where the loss says how much that matters.

argmin over W' of mean (x W'^T - y) H (x W'^T - y)^T + r |W' - W|^2, H = d2 loss / d outputs2 of each sample. The system
has outputs x columns unknowns and is never written out: it is met in products, by conjugate gradients (Hestenes and
Stiefel 1952), preconditioned by the mean curvature and the second moments of what is read (mean H (x) mean x x^T).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.fx import Node

from shrinknet.compensation.readers import downstream
from shrinknet.engine.gates import GatedNetwork

FLOOR = 0.1
"""The share of the mean curvature that every sample has in every direction."""

TOLERANCE, MOST_PRODUCTS = 1e-10, 500
"""The system is solved where what is left of it is so small a share of its right side, or after so many products."""


def curvatures(
    network: GatedNetwork, node: Node, values: Mapping[Node, Any], targets: Tensor
) -> Float[Tensor, "samples outputs outputs"]:
    """Return the Gauss-Newton curvature of each sample's loss in what a reader gives.

    s H s: H the second derivative of the loss in the network's outputs, s the slope of the element-wise operators in
    between, at the given values.

    Cost: one forward pass of what is behind the reader, and a backward pass of the loss for each output.
    """
    program = network.program
    network.loss.needs_each_sample("compensate='newton'")
    with torch.enable_grad():
        y = values[node].detach().requires_grad_()
        found: dict[Node, Any] = {**program.constants, node: y}
        behind = downstream([node])
        for one in program.nodes:
            if one in behind:
                found[one] = program.call(one, found, None, decomposed=True)
        slope = torch.ones_like(y)
        if found[program.output] is not y:
            (slope,) = torch.autograd.grad(found[program.output].sum(), y)
        outputs = values[program.output].detach().requires_grad_()
        (first,) = torch.autograd.grad(network.loss.of(outputs, targets).sum(), outputs, create_graph=True)
        rows = [torch.autograd.grad(column.sum(), outputs, retain_graph=True)[0] for column in first.unbind(1)]
    bent = torch.stack(rows, 1)
    return (slope[:, :, None] * bent * slope[:, None]).double()


def with_floor(curvature: Float[Tensor, "samples outputs outputs"]) -> Float[Tensor, "samples outputs outputs"]:
    """Return curvatures with a share of their mean added in every direction.

    A sample that is answered surely has next to no curvature where it stands, and a large move would go unseen.
    """
    mean = curvature.diagonal(dim1=1, dim2=2).mean()
    return curvature + FLOOR * mean * torch.eye(curvature.shape[1], dtype=curvature.dtype, device=curvature.device)


@dataclass(frozen=True)
class Bend:
    """The second-order model of a loss in a reader's weights: mean (x W^T - y) H (x W^T - y)^T over samples.

    Attributes:
        x: what is read, ones last.
        y: what should be given.
        curvature: H of each sample.
    """

    x: Float[Tensor, "samples columns"]
    y: Float[Tensor, "samples outputs"]
    curvature: Float[Tensor, "samples outputs outputs"]

    def of(self, keep: Tensor) -> "Bend":
        """Return the model of some columns alone."""
        return Bend(self.x[:, keep], self.y, self.curvature)

    def pulled(self, given: Float[Tensor, "samples outputs"]) -> Float[Tensor, "outputs columns"]:
        """Return mean (H v) x^T for what is given to each sample, v."""
        return torch.einsum("nij,nj->ni", self.curvature, given).T @ self.x / len(self.x)

    def times(self, weights: Float[Tensor, "outputs columns"]) -> Float[Tensor, "outputs columns"]:
        """Return the system's product with some weights: mean (H W x) x^T."""
        return self.pulled(self.x @ weights.T)

    def mean_diagonal(self) -> float:
        """Return the mean of the system's diagonal: that of mean H_ii x_a^2."""
        return float((self.curvature.diagonal(dim1=1, dim2=2).T @ self.x.square()).mean() / len(self.x))

    def preconditioner(self, held: float) -> Callable[[Tensor], Tensor]:
        """Return the product with the inverse of mean H (x) mean x x^T + held, by the eigenvectors of both."""
        bends, of_outputs = torch.linalg.eigh(self.curvature.mean(0))
        sizes, of_columns = torch.linalg.eigh(self.x.T @ self.x / len(self.x))
        scale = bends.clamp_min(0)[:, None] * sizes.clamp_min(0) + held
        return lambda left: of_outputs @ (of_outputs.T @ left @ of_columns / scale) @ of_columns.T


def by_curvature(
    bend: Bend, weights: Float[Tensor, "outputs columns"], alive: Bool[Tensor, " columns"], ridge: float
) -> Float[Tensor, "outputs columns"]:
    """Return the weights on the living columns that hold the loss best by its second-order model; 0 on the others.

    Args:
        bend: the model.
        weights: the present ones, the bias last; they are held by a share `ridge` of the system's mean diagonal.
        alive: which columns may be used.
        ridge: how strongly the present weights are held.

    Cost: some tens of products, each of two passes over what is read.
    """
    keep = alive.nonzero()[:, 0]
    own = bend.of(keep)
    held = ridge * max(own.mean_diagonal(), torch.finfo(torch.float64).tiny)
    wanted = own.pulled(own.y) + held * weights[:, keep]
    refit = torch.zeros_like(weights)
    refit[:, keep] = _solved(
        lambda some: own.times(some) + held * some, wanted, weights[:, keep], own.preconditioner(held)
    )
    return refit


def _solved(
    times: Callable[[Tensor], Tensor], wanted: Tensor, start: Tensor, eased: Callable[[Tensor], Tensor]
) -> Tensor:
    """Solve `times(found) = wanted` from a start, eased by a preconditioner."""
    found, left = start.clone(), wanted - times(start)
    step = eased_left = eased(left)
    size, enough = (left * eased_left).sum(), TOLERANCE * wanted.norm()
    for _ in range(MOST_PRODUCTS):
        if left.norm() <= enough:
            break
        product = times(step)
        length = size / (step * product).sum()
        found, left = found + length * step, left - length * product
        eased_left = eased(left)
        before, size = size, (left * eased_left).sum()
        step = eased_left + size / before * step
    return found
