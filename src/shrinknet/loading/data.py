"""Data from what a user types: an .npz file, or a factory of datasets."""

import logging
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.core.named import find_named, is_import_path, made_by
from shrinknet.loading.archive import Archive, UnreadableArchiveError, opened
from shrinknet.loading.models import existing
from shrinknet.task.data import Source

ROLES = ("calibration", "validation", "test")
SHARES = (0.6, 0.2, 0.2)
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
TAKEN = {np.dtype(kind) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")}
"""What torch has a type for: no extended floats, text, dates or complex numbers."""

logger = logging.getLogger(__name__)


def load_data(spec: str, seed: int = 0) -> dict[str, Source]:
    """Load the three roles of data.

    An .npz file has `inputs` [N, ...] (or an array for each argument of the network's `forward`, by its name),
    `targets` [N] or [N, ...] (none where the loss is of the network's own answers) and optionally `split` [N] (0
    calibration, 1 validation, 2 test); without it the rows are divided 60/20/20 by a shuffle with that seed, and the
    log says so.
    `package.module:factory` returns a mapping from roles to data, or a tuple in that order.

    Raises:
        BadInputError: nothing is there, it is of another format or damaged, or a role gets no row.
    """
    if is_import_path(spec):
        return _from_factory(spec)
    return _from_npz(existing("data", spec), seed)


def load_training(spec: str) -> Source:
    """Load rows to train on: of an .npz file those of split 0, or all where it has no `split`; of a factory's roles
    the calibration rows.

    Raises:
        BadInputError: as `load_data`.
    """
    if is_import_path(spec):
        return _from_factory(spec)["calibration"]
    given, split = _given(existing("data", spec), lambda count: np.zeros(count, np.int64))
    return _rows(given, split, 0, "training")


def _from_factory(spec: str) -> dict[str, Source]:
    made = made_by("data", spec, find_named("data", spec))
    if isinstance(made, tuple | list) and 1 <= len(made) <= len(ROLES):
        made = dict(zip(ROLES, made, strict=False))
    if not isinstance(made, dict) or "calibration" not in made:
        allowed = "a factory of a mapping or tuple of calibration, validation and test data"
        raise BadInputError("data", allowed, type(made).__name__, "Return {'calibration': (inputs, targets), ...}.")
    made = {role: source for role, source in made.items() if source is not None or role == "calibration"}
    for role in made.keys() - set(ROLES):
        raise BadInputError("data", "a factory of known roles", repr(role), did_you_mean(str(role), ROLES))
    return made


def _from_npz(path: Path, seed: int) -> dict[str, Source]:
    given, split = _given(path, lambda count: _shuffled_split(count, seed))
    return {role: _rows(given, split, number, role) for number, role in enumerate(ROLES)}


def _given(path: Path, otherwise: Callable[[int], Any]) -> tuple[dict[str, Any], Any]:
    """The arrays of a file but its split, and that: found `otherwise` for so many rows, where it has none."""
    arrays = _arrays(path)
    given = {name: array for name, array in arrays.items() if name != "split"}
    if not given.keys() - {"targets"}:
        raise BadInputError(
            "data",
            "an .npz file with arrays 'inputs' and 'targets', or one for each argument of the network beside 'targets'",
            f"{str(path)!r} with {sorted(arrays)}",
            "Save it with np.savez(path, inputs=..., targets=...).",
        )
    count = len(given.get("targets", next(iter(given.values()))))
    if odd := next((name for name, array in given.items() if len(array) != count), None):
        do = "Give one target for each row."
        raise BadInputError("data", "as many targets as inputs", f"{len(given[odd])} {odd} and {count} targets", do)
    split = arrays["split"] if "split" in arrays else otherwise(count)
    if split.shape != (count,) or not np.isin(split, range(len(ROLES))).all():
        got = f"shape {list(split.shape)} with values {np.unique(split)[:5].tolist()}"
        do = "Number calibration rows 0, validation rows 1, test rows 2."
        raise BadInputError("data", "an array 'split' of 0, 1 and 2, one for each row", got, do)
    return given, split


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of a file: the sizes in every header are held against the archive's before one is unpacked."""
    if not zipfile.is_zipfile(path):
        raise _unreadable(path, "which is no .npz archive")
    try:
        with opened(path) as archive:
            names = {name.removesuffix(".npy"): name for name in archive.sizes}
            if len(names) < len(archive.sizes):
                raise UnreadableArchiveError("which has two arrays of one name")
            for name, member in names.items():
                _check_header(archive, name, member)
            arrays = {name: _array(archive, member) for name, member in names.items()}
    except UnreadableArchiveError as error:
        raise _unreadable(path, str(error)) from error
    return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}


def _check_header(archive: Archive, name: str, member: str) -> None:
    with archive.open(member) as file:
        version = npy.read_magic(file)
        if version not in HEADERS:
            raise UnreadableArchiveError(f"whose {name!r} has a header of version {version}")
        shape, _, dtype = HEADERS[version](file)
        start = file.tell()
    if dtype.hasobject:
        raise UnreadableArchiveError("which holds a pickle")
    if not shape or dtype.newbyteorder("=") not in TAKEN:
        raise UnreadableArchiveError(f"whose {name!r} is {dtype} of shape {list(shape)}")
    claimed, held = math.prod(shape) * dtype.itemsize, archive.sizes[member] - start
    if min(shape) < 0 or claimed != held:
        raise UnreadableArchiveError(f"whose {name!r} claims {claimed:,} bytes and holds {held:,}")


def _array(archive: Archive, name: str) -> Any:
    with archive.open(name) as file:
        return npy.read_array(file, allow_pickle=False)


def _unreadable(path: Path, why: str) -> BadInputError:
    return BadInputError("data", "an .npz file of plain arrays", f"{str(path)!r}, {why}", "Save it with np.savez.")


def _shuffled_split(num_rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    order = np.random.default_rng(seed).permutation(num_rows)
    bounds = np.cumsum([round(share * num_rows) for share in SHARES[:-1]])
    split = np.full(num_rows, len(ROLES) - 1, np.int64)
    split[order[: bounds[0]]], split[order[bounds[0] : bounds[1]]] = 0, 1
    counts = ", ".join(f"{int((split == number).sum())} {role}" for number, role in enumerate(ROLES))
    logger.warning("No 'split' in the data: rows divided 60/20/20 by a shuffle with seed %d (%s).", seed, counts)
    return split


def _rows(arrays: Mapping[str, Any], split: Any, number: int, role: str) -> Source:
    chosen = np.flatnonzero(split == number)
    if len(chosen) == 0:
        got = f"an empty split: no row has split {number} ({role})"
        do = "Give each role some rows."
        raise BadInputError("data", "rows for each of calibration, validation and test", got, do)
    rows = {name: torch.from_numpy(array[chosen]) for name, array in arrays.items()}
    if "inputs" in rows and rows.keys() <= {"inputs", "targets"}:
        return rows["inputs"] if len(rows) == 1 else (rows["inputs"], rows["targets"])
    return rows
