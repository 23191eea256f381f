"""Whether a loss of one sample depends on the others of its batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shrinknet.task.losses import Loss
from shrinknet.task.per_sample import OF_CANDIDATES
from shrinknet.task.trees import joined, num_rows, of_each

RELATIVE = 1e-6
"""How far losses may differ that are the same but for rounding, in float64, as a share of the largest one."""

ROUNDINGS = 64
"""The same in other precisions, in roundings."""


def couples_samples(loss: Loss, outputs: Any, targets: Any) -> bool:
    """Whether the loss of some rows is anything else than the losses of parts of them, put together.

    Asked of the rows' own outputs, of those of their neighbours, of outputs near to each other and of smaller ones: a
    loss may be 0 where a network is right. The parts are halves and two unequal ones; and all of these are put in one
    batch, as candidates are. What a loss cannot say of a part couples too.

    Cost: some evaluations of the loss.

    >>> from shrinknet.task.losses import find_loss
    >>> couples_samples(find_loss(lambda o, t: (o - t).abs()), torch.randn(5), torch.zeros(5))
    False
    >>> couples_samples(find_loss(lambda o, t: (o - t).norm().expand(5)), torch.randn(5), torch.zeros(5))
    True
    """
    if loss.of in OF_CANDIDATES:
        return False
    outputs = loss.read(outputs)
    near = _floats(outputs, lambda one: one.lerp(one.mean(0, keepdim=True), 0.9))
    neighbours, smaller = of_each(outputs, lambda one: one.roll(1, 0)), _floats(outputs, lambda one: one / 2)
    wholes = [(given, targets) for given in (outputs, neighbours, near, smaller)]
    wholes = [whole for whole in wholes if _said(loss, whole) is not None]
    cuts = {num_rows(outputs) // 2, num_rows(outputs) // 3} - {0}
    partitions = [wholes, *([_part(whole, 0, cut), _part(whole, cut, None)] for whole in wholes for cut in cuts)]
    return not wholes or not all(_falls_apart(loss, parts) for parts in partitions)


Rows = tuple[Any, Any]
"""Outputs and targets of some rows."""


def _floats(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tree with each tensor of floating numbers changed."""
    return of_each(tree, lambda one: change(one) if one.is_floating_point() else one)


def _part(rows: Rows, start: int, stop: int | None) -> Rows:
    part: Rows = of_each(rows, lambda one: one[start:stop])
    return part


def _falls_apart(loss: Loss, parts: Sequence[Rows]) -> bool:
    """Whether the loss of all parts at once is the losses of the parts, put together."""
    whole, apart = _said(loss, joined(parts)), [_said(loss, part) for part in parts]
    if whole is None or any(part is None for part in apart):
        return False
    together = torch.cat([part for part in apart if part is not None])
    precision = torch.finfo(whole.dtype).eps
    allowed = RELATIVE if whole.dtype == torch.float64 else ROUNDINGS * precision
    return bool((whole - together).abs().max() <= allowed * together.abs().max())


def _said(loss: Loss, rows: Rows) -> Tensor | None:
    """The losses of some rows, in float64 where the loss can; None where it has nothing to say."""
    for given in (_floats(rows, Tensor.double), rows):
        try:
            losses = loss.of(*given).reshape(num_rows(given[0]))
        except Exception:  # a function of the user's own, which may know batches of one size alone, or one precision
            continue
        return losses if bool(losses.isfinite().all()) else None
    return None
