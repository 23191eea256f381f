"""Whether outputs and targets fit each other, and which transposition would make them."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

from torch import Tensor

from shrinknet.core.errors import BadInputError

MOST_AXES = 5
"""Orders of more axes are too many to try."""


def transposition(outputs: Any, targets: Any) -> str:
    """Return a sentence that names the transposition by which targets or outputs would fit; empty where none does.

    What fits are targets of the outputs' shape, or classes for outputs with the class axis second.

    >>> import torch
    >>> transposition(torch.zeros(2, 3, 8, 9), torch.zeros(2, 8, 9, 3))
    ' Targets fit as targets.permute(0, 3, 1, 2).'
    >>> transposition(torch.zeros(2, 9, 5), torch.zeros(2, 9).long())
    " Outputs fit as outputs.movedim(-1, 1): say `loss='each-token'` for classes along the last axis."
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return ""
    said, wanted = tuple(outputs.shape[1:]), tuple(targets.shape[1:])
    if wanted not in (said, said[1:]):
        if not targets.is_floating_point() and wanted == said[:-1]:
            return " Outputs fit as outputs.movedim(-1, 1): say `loss='each-token'` for classes along the last axis."
        for fitting in (said, said[1:]):
            if (order := _order(wanted, fitting)) is not None:
                return f" Targets fit as targets.permute(0, {', '.join(str(axis + 1) for axis in order)})."
    return ""


def check_alike(name: str, outputs: Tensor, targets: Tensor) -> None:
    """Raise BadInputError where a loss that compares numbers would stretch outputs and targets to each other.

    >>> import torch
    >>> check_alike("MSELoss", torch.zeros(6, 1), torch.zeros(6))
    Traceback (most recent call last):
    shrinknet.core.errors.BadInputError: targets must be of the outputs' shape [N, 1] for MSELoss. Got [N]. Give targets.view_as(outputs): torch would compare each with all.
    """  # noqa: E501
    said, given = outputs.shape[1:], targets.shape[1:]
    if said == given:
        return
    do = transposition(outputs, targets).strip() or "Give a target for each output."
    if [size for size in said if size > 1] == [size for size in given if size > 1]:
        do = "Give targets.view_as(outputs): torch would compare each with all."
    raise BadInputError("targets", f"of the outputs' shape {of_rows(said)} for {name}", of_rows(given), do)


def of_rows(shape: Sequence[int]) -> str:
    """Return the shape of rows.

    >>> of_rows((3, 4))
    '[N, 3, 4]'
    """
    return f"[{', '.join(['N', *map(str, shape)])}]"


def _order(shape: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...] | None:
    """The first order of axes in which a shape becomes another one."""
    if sorted(shape) != sorted(wanted) or len(shape) > MOST_AXES:
        return None
    return next(order for order in permutations(range(len(shape))) if [shape[axis] for axis in order] == [*wanted])
