"""Which rows a DataLoader gives: those of its sampler, in an order that is always the same."""

from collections.abc import Iterable, Sized
from itertools import chain, islice
from typing import Any, cast

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from shrinknet.core.errors import BadInputError

Order = tuple[list[int], bool]
"""Rows, and whether the sampler gives them in another order each time."""

MOST_TIMES = 100
"""A sampler that gives more rows than so many times the data set is taken for one without end."""

REMEDY = "Name the rows that are meant, each once: torch.utils.data.Subset(dataset, indices)."


def rows_of(role: str, loader: DataLoader[Any]) -> list[int]:
    """Return the rows that a loader gives.

    A sampler that shuffles gives its rows in the order of their numbers (`SubsetRandomSampler` in that of its indices).
    `drop_last` leaves out the rows that never come: the last few of a fixed order, none of a shuffled one.

    Args:
        role: whose data they are, for errors.
        loader: a loader of a data set with a length.

    Raises:
        BadInputError: the rows are others each time, or drawn more than once: by weight, with replacement, as one
            process's share of many.

    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> rows = TensorDataset(torch.arange(5), torch.arange(5))
    >>> rows_of("calibration", DataLoader(rows, 2, drop_last=True)), rows_of("calibration", DataLoader(rows, 2, True))
    ([0, 1, 2, 3], [0, 1, 2, 3, 4])
    >>> rows_of("calibration", DataLoader(rows, 2, sampler=SubsetRandomSampler([3, 1])))
    [3, 1]
    """
    batches = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    num_rows = len(cast(Sized, loader.dataset))
    if type(batches) is BatchSampler:
        rows, is_shuffled = _of_sampler(role, batches.sampler, num_rows)
        if batches.drop_last and not is_shuffled:
            rows = rows[: len(rows) - len(rows) % batches.batch_size]
    elif loader.batch_sampler is None:
        raise _refused(role, "a DataLoader with batch_size=None", "Give the Dataset itself, or a batch_size.")
    else:
        rows, _ = _of_own(role, batches, num_rows, in_batches=True)
    for row in rows:
        if not isinstance(row, int) or not 0 <= row < num_rows:
            raise _refused(role, f"a sampler that gives row {row!r} of {num_rows}", REMEDY)
    return rows


def batch_size_of(loader: DataLoader[Any]) -> int | None:
    """Return how many rows a loader's batches have; None where a batch sampler of one's own decides."""
    batches = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    return batches.batch_size if type(batches) is BatchSampler else None


def _of_sampler(role: str, sampler: Any, num_rows: int) -> Order:
    if type(sampler) is SequentialSampler:
        return list(range(len(sampler.data_source))), False
    if type(sampler) is SubsetRandomSampler:
        return [_number(row) for row in sampler.indices], True
    if type(sampler) is RandomSampler:
        if sampler.replacement or sampler.num_samples != len(sampler.data_source):
            raise _refused(role, "a RandomSampler with replacement or num_samples", REMEDY)
        return list(range(len(sampler.data_source))), True
    if isinstance(sampler, WeightedRandomSampler | DistributedSampler):
        raise _refused(role, f"a {type(sampler).__name__}", REMEDY)
    return _of_own(role, sampler, num_rows, in_batches=False)


def _of_own(role: str, sampler: Iterable[Any], num_rows: int, *, in_batches: bool) -> Order:
    """The rows of a sampler of the user's own: the same each time, or in another order."""
    first, again = (_drawn(sampler, MOST_TIMES * num_rows + 1, in_batches=in_batches) for _ in range(2))
    if len(first) > MOST_TIMES * num_rows:
        raise _refused(role, f"a {type(sampler).__name__} that does not end", REMEDY)
    if first == again:
        return first, False
    if sorted(first) == sorted(again):
        return sorted(first), True
    raise _refused(role, f"a {type(sampler).__name__} that gives other rows each time", REMEDY)


def _drawn(sampler: Iterable[Any], most: int, *, in_batches: bool) -> list[int]:
    rows = chain.from_iterable(sampler) if in_batches else sampler
    return [_number(row) for row in islice(rows, most)]


def _number(row: Any) -> Any:
    """A row's number as a plain whole number, also where a sampler gives numpy's or torch's."""
    return int(row) if hasattr(row, "__index__") else row


def _refused(role: str, got: str, do: str) -> BadInputError:
    return BadInputError(role, "data whose rows are the same each time, each as often as it is meant", got, do)
