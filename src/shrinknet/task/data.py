"""A data role: rows of inputs and targets that come in batches, always the same, always in the same order."""

from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
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
from shrinknet.task.samplers import batch_size_of, rows_of

ALIGNMENT = 64
"""Bytes: a cache line, and the longest vectors that processors have."""

ROWS_READ_TWICE = 32
"""So many rows of a data set are read twice, to see whether they are the same."""

Source = object
"""A pair (inputs, targets) of tensors or arrays, a Dataset, or a DataLoader; anything else ends in a sentence."""


class Origin:
    """Where batches come from: what is kept of them is found by it, and freed with it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples and their targets, on the network's device and (floating inputs) in its dtype.

    `number` counts the batches of one `origin`: each time the same rows come, they come under the same two.
    """

    inputs: Tensor
    targets: Tensor
    number: int = 0
    origin: Origin = field(default_factory=Origin, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class Data:
    """The rows of one role (calibration, validation or test)."""

    role: str
    dataset: Dataset[tuple[Tensor, Tensor]]
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    loader: DataLoader[tuple[Tensor, Tensor]] | None = None
    _in_memory: list[Batch] = field(default_factory=list, init=False, compare=False, repr=False)
    _origin: Origin = field(default_factory=Origin, init=False, compare=False, repr=False)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self) -> Iterator[Batch]:
        """Yield the rows in their order, `batch_size` at a time; shuffling loaders are read unshuffled."""
        if self._in_memory:
            yield from self._in_memory
            return
        is_in_memory, batches = type(self.dataset) is TensorDataset, list[Batch]()
        for number, (inputs, targets) in enumerate(self._raw_batches()):
            batch = Batch(self._moved(inputs), self._moved(_as_targets(targets)), number, self._origin)
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
        if type(self.dataset) is not TensorDataset:
            again = next(some._raw_batches())
            for name, one, other in zip(PARTS, first, again, strict=True):
                if not torch.equal(one, other):
                    raise BadInputError(
                        self.role, "rows that are the same each time", f"other {name} the second time",
                        "Turn off what is random in the data set, such as augmentation.",
                    )  # fmt: skip
        for place, name in enumerate(PARTS):
            if _is_finer(first[place].dtype, self.dtype):
                self._check_whole_numbers(place, f"{self.role} {name}")

    def _check_whole_numbers(self, place: int, argument: str) -> None:
        """A column that holds whole numbers alone (ids, counts) must not be rounded in silence."""
        is_whole, rounded = dict[torch.Size, Tensor](), dict[torch.Size, Tensor]()
        for rows in (pair[place] for pair in self._raw_batches()):
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
                raise BadInputError(
                    argument, f"whole numbers that the network's {dtype} holds, where a column has no others",
                    f"{got}, which {dtype} rounds to {value.to(self.dtype).item():.17g}",
                    f"Use the network in a finer precision; where rounding is meant, give the data in {dtype}.",
                )  # fmt: skip

    def permuted(self, seed: int) -> "Data":
        """Return the same rows in an order drawn from a seed."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self)))
        return self._with(self.dataset, order)

    def rows(self, start: int, stop: int) -> "Data":
        """Return some rows that follow one another."""
        return self._with(self.dataset, torch.arange(start, stop))

    def spread(self, most: int) -> Batch:
        """Return so many rows, spread evenly over all (files are often sorted by class)."""
        places = torch.linspace(0, len(self) - 1, min(most, len(self)), dtype=torch.float64).long()
        return next(replace(self._with(self.dataset, places), batch_size=len(places)).batches())

    def whole(self) -> Batch:
        """Return all rows as one batch."""
        batches = list(self.batches())
        return Batch(torch.cat([one.inputs for one in batches]), torch.cat([one.targets for one in batches]))

    def _with(self, dataset: Dataset[tuple[Tensor, Tensor]], rows: Tensor) -> "Data":
        if type(dataset) is TensorDataset:
            chosen: Dataset[Any] = TensorDataset(*(tensor[rows] for tensor in dataset.tensors))
        else:
            chosen = Subset(dataset, rows.tolist())
        return replace(self, dataset=chosen)

    def _raw_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        if type(self.dataset) is TensorDataset:
            pairs = zip(*(tensor.split(self.batch_size) for tensor in self.dataset.tensors), strict=True)
            yield from cast(Iterator[tuple[Tensor, Tensor]], pairs)
        else:
            loader = DataLoader(self.dataset, self.batch_size, shuffle=False, collate_fn=_own_collate(self.loader))
            yield from self._pairs(loader)

    def _pairs(self, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        """What a data set gives, as pairs of tensors."""
        try:
            for item in loader:
                yield _as_pair(self.role, item)
        except (ValueError, TypeError, AttributeError, RuntimeError, KeyError, IndexError) as error:
            if isinstance(error, BadInputError):
                raise
            raise BadInputError(
                self.role,
                "rows of one tensor of inputs and one of targets",
                f"rows that cannot be read so ({type(error).__name__}: {error})",
                "Return (inputs, targets) from the dataset.",
            ) from error

    def _moved(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to(self.device)
        return aligned(tensor.to(self.dtype) if tensor.is_floating_point() else tensor)

    def _check_finite(self, batch: Batch, start: int) -> None:
        for name, tensor in (("inputs", batch.inputs), ("targets", batch.targets)):
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                row = start + int(
                    torch.nonzero(~tensor.isfinite().flatten(1).all(1) if tensor.dim() > 1 else ~tensor.isfinite())[0]
                )
                raise BadInputError(
                    f"{self.role} {name}",
                    "finite numbers",
                    f"NaN or infinity in row {row}",
                    "Clean or drop that row.",
                )


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


def as_data(role: str, source: Source, batch_size: int, device: torch.device, dtype: torch.dtype) -> Data:
    """Make a role's data from a pair of tensors, a Dataset or a DataLoader.

    A DataLoader's rows are those of its sampler (see `samplers`); its `collate_fn` puts them together.

    Raises:
        BadInputError: the source is none of these, holds no row, or inputs and targets differ in number; or its rows
            are others each time.
    """
    loader = source if isinstance(source, DataLoader) else None
    if loader is not None:
        batch_size, source = batch_size_of(loader) or batch_size, loader.dataset
    if isinstance(source, tuple) and not isinstance(source, PackedSequence) and len(source) == 2:
        source = cast("Dataset[tuple[Tensor, Tensor]]", TensorDataset(*_as_pair(role, source)))
    if type(source) is TensorDataset and len(source.tensors) != 2:
        got = f"a TensorDataset of {len(source.tensors)} tensors"
        raise BadInputError(role, "pairs (inputs, targets), a tensor each", got, SEVERAL["inputs"])
    if type(source) is TensorDataset:
        source = cast("Dataset[tuple[Tensor, Tensor]]", TensorDataset(*_as_pair(role, source.tensors)))
    if not isinstance(source, Dataset) or isinstance(source, IterableDataset) or not hasattr(source, "__len__"):
        raise BadInputError(
            role,
            "a pair of tensors (inputs, targets), a Dataset with a length, or a DataLoader",
            type(source).__name__,
            "Wrap your arrays as torch.from_numpy(...); read what only comes once into tensors.",
        )
    rows = None if loader is None else rows_of(role, loader)
    if (len(source) if rows is None else len(rows)) == 0:
        raise BadInputError(role, "at least one row", "an empty split", "Give this role some rows.")
    data = Data(role, source, batch_size, device, dtype, loader)
    if rows is None:
        return data
    if _own_collate(loader) is not None:
        return replace(data, dataset=Subset(source, rows))
    return data if rows == list(range(len(source))) else data._with(source, torch.tensor(rows))


def _own_collate(loader: DataLoader[Any] | None) -> Callable[..., Any] | None:
    """How a loader puts rows together, where that is not torch's own way."""
    collate = None if loader is None else loader.collate_fn
    return None if collate in (default_collate, default_convert) else collate


def _as_pair(role: str, item: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets as tensors of as many rows.

    Raises:
        BadInputError: they are something else; the message says what to do.
    """
    if isinstance(item, Mapping) or not isinstance(item, tuple | list) or len(item) != 2:
        raise BadInputError(role, "pairs (inputs, targets), a tensor each", _named(item), SEVERAL["inputs"])
    inputs, targets = (
        _as_tensor(f"{role} {name}", part, SEVERAL[name]) for name, part in zip(PARTS, item, strict=True)
    )
    if len(inputs) != len(targets):
        raise BadInputError(
            role,
            "as many targets as inputs",
            f"{len(inputs)} inputs and {len(targets)} targets",
            "Give one target for each row of inputs.",
        )
    return inputs, _as_targets(targets)


PARTS = ("inputs", "targets")

SEVERAL = {
    "inputs": "Several inputs go side by side into one tensor, and a module around the network takes them apart.",
    "targets": "Several targets go side by side into one tensor, and a loss of your own takes them apart.",
}


def _as_tensor(argument: str, value: Any, several: str) -> Tensor:
    """One plain tensor of rows."""
    do = _remedy(value, several)
    if do is None:
        try:
            tensor = torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value)
        except (ValueError, TypeError, RuntimeError) as error:
            do = f"Make it one with torch.as_tensor, which said: {str(error).splitlines()[0]}"
        else:
            if tensor.dim() > 0:
                return tensor
            do = "Samples lie along the first axis."
    raise BadInputError(argument, "one tensor with a row for each sample", _named(value), do)


def _remedy(value: Any, several: str) -> str | None:
    """What to do with something that is no plain tensor; None where it may be one."""
    if isinstance(value, Tensor):
        if value.is_nested:
            return "Pad it with torch.nested.to_padded_tensor."
        if value.is_quantized:
            return "Give it with dequantize()."
        return None if value.layout == torch.strided else "Give it with to_dense()."
    if isinstance(value, PackedSequence):
        return "Pad the sequences to one length, as pad_packed_sequence does, and let the network take that."
    if hasattr(value, "to_numpy"):
        return "Write torch.tensor(frame.to_numpy())."
    if hasattr(value, "toarray"):
        return "Write torch.tensor(matrix.toarray())."
    if value is None:
        return "Give one for each row (a network that rebuilds its inputs has these as targets)."
    has_parts = isinstance(value, tuple | list) and any(hasattr(part, "shape") for part in value)
    return several if has_parts or isinstance(value, Mapping) or hasattr(value, "keys") else None


def _named(value: Any) -> str:
    """A value in a few words.

    >>> _named((torch.zeros(2), torch.zeros(2))), _named({"ids": 1, "mask": 2}), _named(torch.zeros(()))
    ('a tuple of 2', "a dict of 'ids', 'mask'", 'a Tensor of shape []')
    """
    kind = type(value).__name__
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        return f"a {kind} of shape {list(value.shape)}" if value.layout == torch.strided else f"a sparse {kind}"
    if hasattr(value, "keys"):
        return f"a {kind} of {', '.join(map(repr, list(value.keys())[:8]))}"
    return f"a {kind} of {len(value)}" if isinstance(value, tuple | list) else f"a {kind}"


def _is_finer(one: torch.dtype, other: torch.dtype) -> bool:
    """Whether a type of floating numbers tells numbers apart that another one does not."""
    return one.is_floating_point and torch.finfo(one).eps < torch.finfo(other).eps


def _largest(values: Tensor) -> Tensor:
    """The value of the largest size in each column."""
    return values.gather(0, values.abs().argmax(0, keepdim=True))[0]


def _as_targets(targets: Tensor) -> Tensor:
    """Classes of any integer type as int64, which the losses index with."""
    return targets if targets.is_floating_point() else targets.long()
