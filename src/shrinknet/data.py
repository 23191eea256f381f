"""A data role: rows of inputs and targets that come in batches, always the same, always in the same order."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from shrinknet.errors import BadInputError

ALIGNMENT = 64
"""Bytes: a cache line, and the longest vectors that processors have."""

Source = tuple[Tensor, Tensor] | Dataset[tuple[Tensor, Tensor]] | DataLoader[tuple[Tensor, Tensor]]


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
        is_in_memory, batches = isinstance(self.dataset, TensorDataset), list[Batch]()
        for number, (inputs, targets) in enumerate(self._raw_batches()):
            batch = Batch(self._moved(inputs), self._moved(_as_targets(targets)), number, self._origin)
            is_in_memory = is_in_memory and inputs.device == self.device
            if is_in_memory:
                batches.append(batch)
            yield batch
        if is_in_memory:
            self._in_memory[:] = batches

    def checked_batches(self) -> Iterator[Batch]:
        """Yield the same batches, each looked through for NaN and infinity (one look is enough: a task takes it).

        Raises:
            BadInputError: there is one; the message names the row.
        """
        start = 0
        try:
            for batch in self.batches():
                self._check_finite(batch, start)
                start += len(batch)
                yield batch
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, BadInputError):
                raise
            raise BadInputError(
                self.role,
                "rows of one tensor of inputs and one of targets",
                f"rows that cannot be read so ({type(error).__name__}: {error})",
                "Return (inputs, targets) from the dataset.",
            ) from error

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

    def _with(self, dataset: Dataset[tuple[Tensor, Tensor]], rows: Tensor) -> "Data":
        if isinstance(dataset, TensorDataset):
            chosen: Dataset[Any] = TensorDataset(*(tensor[rows] for tensor in dataset.tensors))
        else:
            chosen = Subset(dataset, rows.tolist())
        return replace(self, dataset=chosen)

    def _raw_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        if isinstance(self.dataset, TensorDataset):
            pairs = zip(*(tensor.split(self.batch_size) for tensor in self.dataset.tensors), strict=True)
            yield from cast(Iterator[tuple[Tensor, Tensor]], pairs)
        else:
            collate = self.loader.collate_fn if self.loader is not None else None
            yield from DataLoader(self.dataset, batch_size=self.batch_size, shuffle=False, collate_fn=collate)

    def _moved(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device)
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
    """Return a tensor that begins where vectors may begin: products of the same numbers have the same bits then.

    >>> aligned(torch.arange(9.0)[1:]).data_ptr() % ALIGNMENT
    0
    """
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def as_data(role: str, source: Source, batch_size: int, device: torch.device, dtype: torch.dtype) -> Data:
    """Make a role's data from a pair of tensors, a Dataset or a DataLoader.

    Raises:
        BadInputError: the source is none of these, holds no row, or inputs and targets differ in number.
    """
    loader = source if isinstance(source, DataLoader) else None
    if loader is not None:
        source, batch_size = loader.dataset, loader.batch_size or batch_size
    if isinstance(source, tuple) and len(source) == 2:
        inputs, targets = (torch.as_tensor(part) for part in source)
        if len(inputs) != len(targets):
            raise BadInputError(
                role,
                "as many targets as inputs",
                f"{len(inputs)} inputs and {len(targets)} targets",
                "Give one target for each row of inputs.",
            )
        source = cast("Dataset[tuple[Tensor, Tensor]]", TensorDataset(inputs, _as_targets(targets)))
    if isinstance(source, TensorDataset) and len(source.tensors) == 2:
        source = cast(
            "Dataset[tuple[Tensor, Tensor]]", TensorDataset(source.tensors[0], _as_targets(source.tensors[1]))
        )
    if not isinstance(source, Dataset) or not hasattr(source, "__len__"):
        raise BadInputError(
            role,
            "a pair of tensors (inputs, targets), a Dataset with a length, or a DataLoader",
            type(source).__name__,
            "Wrap your arrays as torch.from_numpy(...).",
        )
    if len(source) == 0:
        raise BadInputError(role, "at least one row", "an empty split", "Give this role some rows.")
    return Data(role, source, batch_size, device, dtype, loader)


def _as_targets(targets: Tensor) -> Tensor:
    """Classes of any integer type as int64, which the losses index with."""
    return targets if targets.is_floating_point() else targets.long()
