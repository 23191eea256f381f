"""The curvature of the loss in every gate at once, from random signs: two backward passes for any number of outputs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from shrinknet.engine.checkpoints import outputs_for_slopes
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch
from shrinknet.task.losses import Loss, with_slope
from shrinknet.task.trees import of_each, tensors_of

Signs = Callable[[Tensor], Tensor]
"""Given a tensor, random signs of its shape."""


def slopes_and_curvatures(
    network: GatedNetwork, batch: Batch, draws: int, signs: Signs
) -> tuple[Float[Tensor, "batch ids"], Float[Tensor, "draws batch ids"]]:
    """Return dL_n/dg, and for each draw an estimate of J^T H J whose mean it is, of each sample n and every neuron.

    Cost: that of `slopes_and_factors`.
    """
    slopes, one, other = slopes_and_factors(network, batch, draws, signs)
    return slopes, one * other


def slopes_and_factors(
    network: GatedNetwork, batch: Batch, draws: int, signs: Signs
) -> tuple[Float[Tensor, "batch ids"], Float[Tensor, "draws batch ids"], Float[Tensor, "draws batch ids"]]:
    """Return dL_n/dg, and for each draw two numbers of each sample n and neuron, a and b: the mean of a_i b_j is H_ij.

    H = J^T (d^2 L_n / d outputs^2) J is the loss's curvature in the gates; where one number does for both, as for
    classes, a is b.

    Cost: one forward pass, a backward pass for the slopes, and one or two for each draw (one sample at a time where a
    reader mixes samples with another axis).
    """
    if not network.program.has_samples_apart and len(batch) > 1:
        slopes, one, other = zip(
            *(slopes_and_factors(network, row, draws, signs) for row in batch.split(1)), strict=True
        )
        return torch.cat(slopes), torch.cat(one, 1), torch.cat(other, 1)
    present = torch.from_numpy(network.present).to(batch.device, network.program.dtype)
    gates = present.expand(len(batch), -1).clone().requires_grad_()
    with torch.enable_grad():
        returned = outputs_for_slopes(network.passes.program, batch.inputs, network.gating_by_sample(gates))
        outputs = [one for one in tensors_of(network.loss.read(returned)) if one.requires_grad]

    def along(change: list[Tensor]) -> Tensor:
        """The change of each sample's outputs, times their derivatives in the gates."""
        given = [one.to(output.dtype) for one, output in zip(change, outputs, strict=True)]
        (found,) = torch.autograd.grad(outputs, gates, given, retain_graph=True)
        return (found * present).double()

    judged = Judged(network.loss, returned, batch.targets)
    pairs = []
    for _ in range(draws):
        factors = [along(one) for one in judged.factors([signs(one) for one in outputs])]
        pairs.append((factors[0], factors[-1]))
    first, second = (torch.stack(some) for some in zip(*pairs, strict=True))
    return along(judged.slopes), first, second


class Interactions:
    """How far the rise of the loss when two neurons go together is from the sum of both: `H_ij`, to second order.

    H_ij = mean over rows of (a_i b_j + b_i a_j) / 2, never written down: a column of it is a product with the rows.

    Who looks for the least sum finds what chance has made too low. So a pair that seems to gain (H_ij below 0) is
    believed as far as that stands out of its noise: H_ij times 1 - var / H_ij^2, at least 0, where var is the variance
    of the mean over the rows (as James and Stein 1961 shrink).

    Args:
        first: a, a row for each sample and draw [rows, ids].
        second: b.

    >>> rows = torch.tensor([[1.0, 2.0, -1.0], [3.0, -1.0, -3.0]])
    >>> Interactions(rows, rows).with_these([0])
    tensor([ 5.0000,  0.0000, -1.8000])
    """

    def __init__(self, first: Float[Tensor, "rows ids"], second: Float[Tensor, "rows ids"]) -> None:
        self.first, self.second = first, second
        self._squares = first.square(), first * second, second.square()

    def columns(self, numbers: Sequence[int]) -> Float[Tensor, "ids some"]:
        """Return H_ij of every neuron i, and those of these numbers j, as the rows say it."""
        along = self.first.T @ self.second[:, numbers] + self.second.T @ self.first[:, numbers]
        return along / (2 * len(self.first))

    def with_these(self, numbers: Sequence[int]) -> Float[Tensor, " ids"]:
        """Return by how much more each neuron costs once those of these numbers are gone.

        Cost: five products of the rows with those of these neurons.
        """
        count, mean = len(self.first), self.columns(numbers)
        a, both, b = self._squares
        square = (a.T @ b[:, numbers] + 2 * both.T @ both[:, numbers] + b.T @ a[:, numbers]) / (4 * count)
        noise = (square - mean.square()).clamp(min=0) / max(1, count - 1)
        share = (1 - noise / mean.square()).where(mean < 0, 1.0).clamp(min=0)
        return (mean * share).sum(1)

    def mixed(self, other: "Interactions", share: float) -> "Interactions":
        """Return these and others, these counting for a share."""
        (mine, yours), total = (share, 1 - share), len(self.first) + len(other.first)

        def rows(one: Tensor, another: Tensor) -> Tensor:
            return torch.cat([one * (mine * total / len(one)) ** 0.5, another * (yours * total / len(another)) ** 0.5])

        return Interactions(rows(self.first, other.first), rows(self.second, other.second))


class Judged:
    """The losses of some outputs, as a function of these alone: its slopes, and its Hessian times a change.

    Args:
        loss: the loss.
        returned: what the network returns.
        targets: what it is compared with.
    """

    def __init__(self, loss: Loss, returned: Any, targets: Any) -> None:
        with torch.enable_grad():
            moved = [
                one.detach().double().requires_grad_() for one in tensors_of(loss.read(returned)) if one.requires_grad
            ]
            rest = iter(moved)
            again = of_each(loss.read(returned), lambda one: next(rest) if one.requires_grad else one.detach())
            losses = with_slope(loss.of(again, targets), loss.name).sum()
            self._outputs = moved
            self._slopes = torch.autograd.grad(losses, moved, create_graph=True)
        self._classes = loss.classes_along(moved[0]) if len(moved) == 1 else None

    @property
    def slopes(self) -> list[Tensor]:
        """The slope of the losses in each output."""
        return [one.detach() for one in self._slopes]

    def factors(self, signs: list[Tensor]) -> tuple[list[Tensor], ...]:
        """Return s with E[s s^T] = H; or a pair (s, r) with E[s r^T] = H."""
        if self._classes is not None:
            return ([self._of_classes(self._outputs[0].detach(), signs[0].double(), self._classes)],)
        return signs, self._hessian_times(signs)

    def _hessian_times(self, change: list[Tensor]) -> list[Tensor]:
        curved = [(slope, one.double()) for slope, one in zip(self._slopes, change, strict=True) if slope.requires_grad]
        if not curved:  # the loss is linear in the outputs
            return [torch.zeros_like(one) for one in self._outputs]
        slopes, along = zip(*curved, strict=True)
        found = torch.autograd.grad(slopes, self._outputs, along, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(y) if one is None else one for y, one in zip(self._outputs, found, strict=True)]

    def _of_classes(self, outputs: Tensor, signs: Tensor, axis: int) -> Tensor:
        """A z where H = w (diag(p) - p p^T), p the softmax along an axis: A = sqrt(w) (I - p 1^T) diag(sqrt(p)).

        The weight w of each position (0 where it is left out) is what H times a ramp says: `r^T H r = w Var_p(r)`.
        """
        p, ramp = outputs.softmax(axis), _ramp(outputs, axis)
        variance = (p * ramp.square()).sum(axis, keepdim=True) - (p * ramp).sum(axis, keepdim=True).square()
        told = (ramp * self._hessian_times([ramp])[0]).sum(axis, keepdim=True)
        weight = (told / variance).where(variance > torch.finfo(p.dtype).eps, 0.0).clamp(min=0)
        rooted = p.sqrt() * signs
        return weight.sqrt() * (rooted - p * rooted.sum(axis, keepdim=True))


def _ramp(outputs: Tensor, axis: int) -> Tensor:
    """Numbers from -1 to 1 along an axis, all different."""
    shape = [1] * outputs.dim()
    shape[axis] = outputs.shape[axis]
    steps = torch.linspace(-1, 1, outputs.shape[axis], dtype=outputs.dtype, device=outputs.device)
    return steps.view(shape).expand_as(outputs)
