"""A data role: rows of inputs and targets that come in batches, always the same, always in the same order.

Inputs and targets are trees of tensors (see `trees`); `unpack` says what a batch means (see `unpacking`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
)

from shrinknet.core.errors import BadInputError
from shrinknet.task.parts import PARTS, Part, as_part, is_at_once, is_numbers
from shrinknet.task.samplers import batch_size_of, rows_of
from shrinknet.task.trees import Inputs, joined, named_leaves, of_each, same, split
from shrinknet.task.unpacking import Unpack, by_place

ALIGNMENT = 64
"""Bytes: a cache line, and the longest vectors that processors have."""

ROWS_READ_TWICE = 32
"""So many rows of a data set are read twice, to see whether they are the same."""

Source = object
"""All rows at once, as a batch of a training loop has them (a tuple, a mapping, a tensor); a Dataset; a DataLoader."""


class Origin:
    """Where batches come from: what is kept of them is found by it, and freed with it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples and their targets, on the network's device and (floating inputs) in its dtype.

    `number` counts the batches of one `origin`: each time the same rows come, they come under the same two.
    """

    inputs: Inputs
    targets: Any
    number: int = 0
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.inputs.device

    def first(self, count: int) -> "Batch":
        """Return the first rows."""
        inputs, targets = of_each((self.inputs, self.targets), lambda tensor: tensor[:count])
        return Batch(inputs, targets)

    def split(self, size: int) -> "Iterator[Batch]":
        """Yield the rows, so many at a time."""
        for inputs, targets in split((self.inputs, self.targets), size):
            yield Batch(inputs, targets)


class Table(Dataset[Part]):
    """Rows that are all in memory."""

    def __init__(self, inputs: Inputs, targets: Any) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: Any) -> Part:
        return of_each(self.inputs, lambda tensor: tensor[rows]), of_each(self.targets, lambda tensor: tensor[rows])


@dataclass(frozen=True, slots=True)
class Data:
    """The rows of one role (calibration, validation or test); `answers`, a row for each, take the place of targets.

    A lone tensor of targets that are no floating numbers comes as int64, which the built-in losses index with; one of
    truth values stays as it is where it `keeps_truth`. Trees of targets keep their types.
    """

    role: str
    dataset: Dataset[Any]
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    loader: DataLoader[Any] | None = None
    unpack: Unpack = by_place
    answers: Any = None
    keeps_truth: bool = False
    _in_memory: list[Batch] = field(default_factory=list, init=False, compare=False, repr=False)
    _origin: Origin = field(default_factory=Origin, init=False, compare=False, repr=False)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def _as_targets(self, targets: Any) -> Any:
        is_lone = isinstance(targets, Tensor) and not targets.is_floating_point()
        is_kept = self.keeps_truth and is_lone and targets.dtype == torch.bool
        return targets.long() if is_lone and not is_kept else targets

    def batches(self) -> Iterator[Batch]:
        """Yield the rows in their order, `batch_size` at a time; shuffling loaders are read unshuffled."""
        if self._in_memory:
            yield from self._in_memory
            return
        is_in_memory, batches = type(self.dataset) is Table, list[Batch]()
        for number, (inputs, targets) in enumerate(self._raw_batches()):
            moved = of_each(inputs, self._moved), of_each(self._as_targets(targets), self._moved)
            batch = Batch(*moved, number, self._origin)
            is_in_memory = is_in_memory and inputs.device == self.device
            if is_in_memory:
                batches.append(batch)
            yield batch
        if is_in_memory:
            self._in_memory[:] = batches

    def checked_batches(self) -> Iterator[Batch]:
        """Yield the same batches, each looked through (one look is enough: a task takes it).

        Raises:
            BadInputError: a number is NaN or infinite, and the message names the row; rows are others each time, cannot
                be read, or lose whole numbers in the network's precision.
        """
        start = 0
        self._check_raw()
        for batch in self.batches():
            self._check_finite(batch, start)
            start += len(batch)
            yield batch
        if start != len(self):
            do = "Leave no row out where rows are put together."
            raise BadInputError(self.role, "as many rows as the data set has", f"{start} of {len(self)}", do)

    def _check_raw(self) -> None:
        """Rows are the same each time; whole numbers keep their value in the network's precision."""
        some = replace(self, batch_size=min(ROWS_READ_TWICE, self.batch_size))
        first = next(some._raw_batches())
        if type(self.dataset) is not Table:
            self._check_rows()
            again = next(some._raw_batches())
            for name, one, other in zip(PARTS, first, again, strict=True):
                if not same(one, other):
                    got = f"other {name} the second time"
                    do = "Turn off what is random in the data set, such as augmentation."
                    raise BadInputError(self.role, "rows that are the same each time", got, do)
        for place, (name, leaf) in enumerate(self._named(*first)):
            if isinstance(leaf, Tensor) and _is_finer(leaf.dtype, self.dtype):
                self._check_whole_numbers(place, name)

    def _check_rows(self) -> None:
        """Rows are no lists of numbers: torch's own way of putting rows together makes a list of columns of these."""
        row = self.dataset[0]
        if _own_collate(self.loader) is not None or not isinstance(row, Mapping):
            return
        for key, value in row.items():
            if isinstance(value, list) and is_numbers(value):
                raise BadInputError(
                    self.role,
                    "rows of tensors, arrays and numbers, which a DataLoader puts together",
                    f"rows whose {key!r} is a list of numbers, of which it makes a list of columns",
                    "Make it a tensor (a Hugging Face data set does with_format('torch')), or give a DataLoader with a "
                    "collate_fn of its own.",
                )

    def _named(self, inputs: Inputs, targets: Any) -> Iterator[tuple[str, Any]]:
        """Each leaf of inputs and targets, with what a message calls it."""
        yield from named_leaves(inputs, f"{self.role} inputs")
        yield from named_leaves(targets, f"{self.role} targets")

    def _check_whole_numbers(self, place: int, argument: str) -> None:
        """A column that holds whole numbers alone (ids, counts) must not be rounded in silence."""
        is_whole, rounded = dict[torch.Size, Tensor](), dict[torch.Size, Tensor]()
        for rows in (list(self._named(*pair))[place][1] for pair in self._raw_batches()):
            shape, values = rows.shape[1:], rows.reshape(len(rows), -1)
            cast_back = values.to(self.dtype).to(values.dtype)
            is_whole[shape] = is_whole.get(shape, True) & (values == values.round()).all(0)
            lost = torch.where(values != cast_back, values, 0)  # 0 loses nothing
            rounded[shape] = torch.where(lost.any(0), _largest(lost), rounded.get(shape, torch.zeros(())))
        for shape, found in is_whole.items():
            columns = (found & (rounded[shape] != 0)).nonzero().flatten().tolist()
            if columns:
                value, dtype = rounded[shape][columns[0]], str(self.dtype).removeprefix("torch.")
                got = f"{value.item():.17g} in column {columns[0]}"
                allowed = f"whole numbers that the network's {dtype} holds, where a column has no others"
                got = f"{got}, which {dtype} rounds to {value.to(self.dtype).item():.17g}"
                do = f"Use the network in a finer precision; where rounding is meant, give the data in {dtype}."
                raise BadInputError(argument, allowed, got, do)

    def permuted(self, seed: int) -> "Data":
        """Return the same rows in an order drawn from a seed."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self)))
        return self._with(self.dataset, order)

    def chosen(self, rows: Tensor) -> "Data":
        """Return rows by their numbers, some of them several times."""
        return self._with(self.dataset, rows)

    def rows(self, start: int, stop: int) -> "Data":
        """Return some rows that follow one another."""
        return self._with(self.dataset, torch.arange(start, stop))

    def spread(self, most: int) -> Batch:
        """Return so many rows, spread evenly over all (files are often sorted by class)."""
        places = torch.linspace(0, len(self) - 1, min(most, len(self)), dtype=torch.float64).long()
        return next(replace(self._with(self.dataset, places), batch_size=len(places)).batches())

    def whole(self) -> Batch:
        """Return all rows as one batch."""
        return joined_batches(list(self.batches()))

    def _with(self, dataset: Dataset[Any], rows: Tensor) -> "Data":
        chosen = Table(*dataset[rows]) if type(dataset) is Table else Subset(dataset, rows.tolist())
        return replace(self, dataset=chosen, answers=of_each(self.answers, lambda tensor: tensor[rows]))

    def _raw_batches(self) -> Iterator[Part]:
        """Inputs and targets as they are given, or answers in the place of targets."""
        start = 0
        for inputs, targets in self._given():
            rows = slice(start, start + len(inputs))
            yield inputs, targets if self.answers is None else of_each(self.answers, itemgetter(rows))
            start = rows.stop

    def _given(self) -> Iterator[Part]:
        if type(self.dataset) is Table:
            yield from split((self.dataset.inputs, self.dataset.targets), self.batch_size)
        else:
            loader = DataLoader(self.dataset, self.batch_size, shuffle=False, collate_fn=_own_collate(self.loader))
            yield from self._pairs(loader)

    def _pairs(self, loader: DataLoader[Any]) -> Iterator[Part]:
        """What a data set gives, as inputs and targets."""
        try:
            for item in loader:
                yield as_part(self.role, item, self.unpack)
        except (ValueError, TypeError, AttributeError, RuntimeError, KeyError, IndexError) as error:
            if isinstance(error, BadInputError):
                raise
            got = f"rows that cannot be read so ({type(error).__name__}: {error})"
            do = "Return (inputs, targets) from the dataset, or give a DataLoader with a collate_fn of its own."
            raise BadInputError(self.role, "rows that a DataLoader puts together", got, do) from error

    def _moved(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to(self.device)
        return aligned(tensor.to(self.dtype) if tensor.is_floating_point() else tensor)

    def _check_finite(self, batch: Batch, start: int) -> None:
        for name, tensor in self._named(batch.inputs, batch.targets):
            if not isinstance(tensor, Tensor):
                continue
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                is_finite = tensor.isfinite().reshape(len(tensor), -1).all(1)
                row = start + int((~is_finite).nonzero()[0])
                raise BadInputError(name, "finite numbers", f"NaN or infinity in row {row}", "Clean or drop that row.")


def joined_batches(batches: Sequence[Batch]) -> Batch:
    """Return the rows of several batches as one."""
    return Batch(joined([one.inputs for one in batches]), joined([one.targets for one in batches]))


def aligned(tensor: Tensor) -> Tensor:
    """Return a tensor that lies row by row and begins where vectors may begin: the same numbers give the same bits.

    >>> aligned(torch.arange(9.0)[1:]).data_ptr() % ALIGNMENT
    0
    >>> aligned(torch.zeros(3, 4).T).is_contiguous()
    True
    """
    plain = tensor.reshape(-1).view(tensor.shape)  # also where an axis of length 1 has another stride
    is_plain = plain.data_ptr() % ALIGNMENT == 0 and not plain.is_inference()
    return plain if is_plain else plain.clone()


def as_data(
    role: str, source: Source, batch_size: int, device: torch.device, dtype: torch.dtype, unpack: Unpack = by_place
) -> Data:
    """Make a role's data from all rows at once, a Dataset or a DataLoader.

    A DataLoader's rows are those of its sampler (see `samplers`); its `collate_fn` puts them together. `unpack` takes
    what comes apart: all rows at once, or a batch.

    Raises:
        BadInputError: the source is none of these, holds no row, or its tensors differ in rows; or its rows are others
            each time.
    """
    loader = source if isinstance(source, DataLoader) else None
    if loader is not None:
        batch_size, source = batch_size_of(loader) or batch_size, loader.dataset
    if type(source) is TensorDataset:
        source = Table(*as_part(role, source.tensors, unpack))
    if loader is None and is_at_once(source):
        source = Table(*as_part(role, source, unpack))
    is_read_by_row = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    is_odd = isinstance(source, IterableDataset | str) or (loader is None and isinstance(source, list))
    if is_odd or not is_read_by_row:
        do = "Wrap your arrays as torch.from_numpy(...); read what only comes once into tensors."
        if isinstance(source, list):
            do = "Give a list of rows as DataLoader(rows, 64), all inputs and all targets as a tuple."
        raise BadInputError(
            role,
            "all rows at once, such as a pair of tensors (inputs, targets), a Dataset with a length, or a DataLoader",
            type(source).__name__,
            do,
        )
    dataset = cast("Dataset[Any]", source)
    rows = None if loader is None else rows_of(role, loader)
    if (len(cast(Sized, dataset)) if rows is None else len(rows)) == 0:
        raise BadInputError(role, "at least one row", "an empty split", "Give this role some rows.")
    data = Data(role, dataset, batch_size, device, dtype, loader, unpack)
    if rows is None:
        return data
    if _own_collate(loader) is not None:
        return replace(data, dataset=Subset(dataset, rows))
    return data if rows == list(range(len(cast(Sized, dataset)))) else data._with(dataset, torch.tensor(rows))


def _own_collate(loader: DataLoader[Any] | None) -> Callable[..., Any] | None:
    """How a loader puts rows together, where that is not torch's own way."""
    collate = None if loader is None else loader.collate_fn
    return None if collate in (default_collate, default_convert) else collate


def _is_finer(one: torch.dtype, other: torch.dtype) -> bool:
    """Whether a type of floating numbers tells numbers apart that another one does not."""
    return one.is_floating_point and torch.finfo(one).eps < torch.finfo(other).eps


def _largest(values: Tensor) -> Tensor:
    """The value of the largest size in each column."""
    return values.gather(0, values.abs().argmax(0, keepdim=True))[0]
