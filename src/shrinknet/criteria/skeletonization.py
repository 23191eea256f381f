"""Skeletonization: the slope of the linear error in each neuron's attentional strength."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from shrinknet.core.errors import BadInputError
from shrinknet.criteria.base import Criterion, Statistics, Sums, by_batch, mean_over_samples, of_batch
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch, Data
from shrinknet.task.losses import Loss
from shrinknet.task.per_sample import IGNORED, classes_first, of_the_next
from shrinknet.task.torch_losses import TorchLoss
from shrinknet.task.trees import named_leaves

KEPT = 0.8
"""What the paper keeps of the relevance so far at each presentation of a pattern."""

ROWS_CHECKED = 8
"""So many rows say whether outputs have targets."""


class Skeletonization(Criterion):
    """Relevance `rho = -dE_l/d alpha` at alpha = 1, `E_l = sum_j |t_j - o_j|` (Mozer and Smolensky 1989).

    alpha is the neuron's attentional strength, `o_j = f(sum_i w_ji alpha_i o_i)`: our gate. The linear error stands in
    for the squared one, whose slope vanishes where outputs reach their targets, so that neurons which matter would
    look as if they did not; its own slope is `sign(o - t)`, 0 where they are equal. Under cross-entropy the outputs are
    taken after the softmax, under binary cross-entropy after the sigmoid. Where a loss is given several outputs, E_l is
    the sum over all of them, each beside the target of its key or place.

    Args:
        smoothing: None for the mean over all patterns; 0.8 for the paper's running mean over presentations,
            `rho <- 0.8 rho + 0.2 (-dE_l/d alpha)`, which sees little but the last dozen patterns.

    The paper removes inputs too; here inputs of the network are never cut.

    Cost: one forward and one backward pass; with smoothing one number for each sample and neuron.
    """

    name = "skeletonization"
    follows_slopes = True
    unit = "linear error"

    def __init__(self, smoothing: float | None = None) -> None:
        self.smoothing = smoothing

    def check(self, network: GatedNetwork, data: Data) -> None:
        """Raise BadInputError where outputs have no targets that they could be compared with."""
        self.begin(network).losses(data.spread(ROWS_CHECKED))

    def begin(self, network: GatedNetwork) -> GatedNetwork:
        """Judge the network by the linear error."""
        return replace(network, loss=Loss("linear-error", linear_error_under(network.loss), reads=network.loss.reads))

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed slopes of the linear error, turned round; with smoothing, what the batch does to rho."""
        if self.smoothing is None:
            return {group: -slopes for group, slopes in network.summed_gate_slopes(batch).items()}
        slopes = network.gate_slopes(batch)
        return of_batch(
            batch, {group: smoothing(-rows.double().cpu(), self.smoothing) for group, rows in slopes.items()}
        )

    def conclude(self, network: GatedNetwork, sums: Sums) -> Statistics:
        """Return means over samples; with smoothing, rho after all patterns in the order in which they came."""
        if self.smoothing is None:
            return mean_over_samples(sums)
        relevance = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in network.groups}
        for presented in by_batch(sums):
            for group, (kept, gained) in presented.items():
                relevance[group] = relevance[group] * kept + gained
        return relevance


def smoothing(presented: Tensor, kept: float = KEPT) -> Tensor:
    """Return a and b [2, neurons] with `a rho + b` what `rho <- kept rho + (1 - kept) x` makes of rho after all rows x.

    >>> smoothing(torch.tensor([[1.0], [0.0]])).round(decimals=2)
    tensor([[0.6400],
            [0.1600]])
    """
    shares = (1 - kept) * kept ** torch.arange(len(presented) - 1, -1, -1, dtype=presented.dtype)
    gained = shares @ presented
    return torch.stack([torch.full_like(gained, kept ** len(presented)), gained])


def linear_error(outputs: Tensor, targets: Tensor, ignored: int = IGNORED) -> Tensor:
    """Return `sum_j |t_j - o_j|` of each sample; classes are compared one-hot, where they are not to be ignored.

    Raises:
        BadInputError: targets are neither classes within the outputs nor values of their number.

    >>> linear_error(torch.tensor([[0.25, 0.75]]), torch.tensor([1]))
    tensor([0.5000])
    """
    errors = outputs
    if targets.numel() != outputs.numel():
        is_of_classes = not targets.is_floating_point() and outputs.dim() == targets.dim() + 1
        is_counted = targets != ignored
        classes = targets.where(is_counted, 0)
        if not is_of_classes or not 0 <= int(classes.min()) <= int(classes.max()) < outputs.shape[1]:
            raise _not_comparable(f"targets {list(targets.shape)} for outputs {list(outputs.shape)}")
        targets = functional.one_hot(classes, outputs.shape[1]).movedim(-1, 1)
        errors = (outputs - targets) * is_counted[:, None]
    else:
        errors = outputs - targets.reshape(outputs.shape).to(outputs.dtype)
    return errors.abs().reshape(len(outputs), -1).sum(1)


def _not_comparable(got: str) -> BadInputError:
    allowed = "used with targets that are classes within the outputs, or their values"
    return BadInputError(
        "criterion='skeletonization'", allowed, got, "Use `criterion='taylor-1'` or `criterion='ablation'`."
    )


@dataclass(frozen=True, slots=True)
class LinearError:
    """The linear error of all outputs, summed: each beside the target of its key or place.

    Attributes:
        after: what an output is compared as, and its target.
        ignored: the class that does not count.
        in_order: whether outputs and targets go together in their order, whatever their keys.
    """

    after: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    ignored: int = IGNORED
    in_order: bool = False

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the error of each sample.

        Raises:
            BadInputError: outputs and targets do not say which belongs to which, or cannot be compared.
        """
        found = [pair if self.after is None else self.after(*pair) for pair in self._pairs(outputs, targets)]
        return torch.stack([linear_error(said, wanted, self.ignored) for said, wanted in found]).sum(0)

    def _pairs(self, outputs: Any, targets: Any) -> list[tuple[Tensor, Tensor]]:
        """Those of one name; then the one that is left of each, if there is one."""
        said = {name: one for name, one in _named(outputs).items() if one.is_floating_point()}
        wanted = _named(targets)
        both = [] if self.in_order else [name for name in said if name in wanted]
        rest = [[one for name, one in ones.items() if name not in both] for ones in (said, wanted)]
        if len(said) != len(wanted) or (len(rest[0]) > 1 and not self.in_order):
            raise _not_comparable(f"targets {', '.join(wanted) or 'none'} for outputs {', '.join(said)}")
        return [(said[name], wanted[name]) for name in both] + list(zip(*rest, strict=True))


def _named(tree: Any) -> dict[str, Tensor]:
    return {name: leaf for name, leaf in named_leaves(tree, "") if isinstance(leaf, Tensor)}


def _softmax(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return outputs.softmax(1), targets


def _sigmoid(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return outputs.sigmoid(), targets


def _of_each_token(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return _softmax(*classes_first(outputs, targets))


def _of_the_next_token(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return _softmax(*of_the_next(outputs, targets))


def _of_places(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Places in a text; those behind its end do not count."""
    return outputs.softmax(1), targets.where(targets < outputs.shape[1], IGNORED)


UNDER = {
    "cross-entropy": LinearError(_softmax), "binary-cross-entropy": LinearError(_sigmoid),
    "each-token": LinearError(_of_each_token), "next-token": LinearError(_of_the_next_token),
    "paired-cross-entropy": LinearError(_of_places, in_order=True),
}  # fmt: skip
"""Losses of logits: the linear error is that of the probabilities."""


def linear_error_under(loss: Loss) -> LinearError:
    """Return the linear error that stands in for a loss; of probabilities where that is one of logits.

    >>> from shrinknet.task.losses import find_loss
    >>> linear_error_under(find_loss("squared-error")).after is None
    True
    """
    if not isinstance(loss.of, TorchLoss):
        return UNDER.get(loss.name, LinearError())
    after = _softmax if loss.compares_classes else _sigmoid if loss.of.accuracy == "threshold" else None
    return LinearError(after, loss.of.options.get("ignore_index", IGNORED))
