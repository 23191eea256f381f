"""Shards: the parts that the work of one ranking falls into, the same for any number of workers."""

import hashlib
import io
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shrinknet.core.disk import writing
from shrinknet.core.folder import RunFolder

log = logging.getLogger(__name__)

Result = dict[str, NDArray[np.float64]]


@runtime_checkable
class Job(Protocol):
    """What every worker does: set up once, then one shard after another. It travels to the workers."""

    def set_up(self) -> Any:
        """Return what shards need: the network, rebuilt where the worker is."""

    def run(self, state: Any, shard: Any) -> Result:
        """Return what one shard gives."""


@runtime_checkable
class Executor(Protocol):
    """Somebody who runs shards, in any order, and replaces workers that die."""

    def results(self, shards: Mapping[int, Any]) -> Iterator[tuple[int, Result]]:
        """Yield the number and the result of each shard as it is finished."""

    def close(self) -> None:
        """Let the workers go."""


class Finished:
    """The results of finished shards, on disk, so that a driver that was killed goes on from them.

    Args:
        folder: where they are kept.
        key: what the ranking is of: results of another one are deleted.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self.folder = folder / hashlib.sha256(key).hexdigest()[:16]
        if folder.exists():
            for other in folder.iterdir():
                if other != self.folder:
                    shutil.rmtree(other, ignore_errors=True)

    def load(self) -> dict[int, Result]:
        """Return the results by the number of their shard."""
        found: dict[int, Result] = {}
        for path in sorted(self.folder.glob("*.npz")):
            with np.load(path, allow_pickle=False) as file:
                names, *values = (file[f"arr_{place}"] for place in range(len(file.files)))
                found[int(path.stem)] = dict(zip(names.tolist(), values, strict=True))
        return found

    def keep(self, number: int, result: Result) -> None:
        """Write one result, whole or not at all."""
        content = io.BytesIO()
        np.savez(content, np.array(list(result), np.str_), *result.values())  # names are a user's: "file" is one too
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        RunFolder(self.folder).write(f"{number:06d}.npz", content.getvalue())

    def clear(self) -> None:
        """Delete all: the ranking is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # somebody else's files lie there too
            self.folder.parent.rmdir()


def in_order(
    executor: Executor, shards: Sequence[Any], finished: Finished | None, told: Callable[[int, int], None]
) -> list[Result]:
    """Return the result of each shard, in the order of the shards, whoever ran it and when."""
    results = {} if finished is None else finished.load()
    if results:
        log.warning("Going on: %d of %d shards were finished before.", len(results), len(shards))
    missing = {number: shard for number, shard in enumerate(shards) if number not in results}
    for number, result in executor.results(missing) if missing else ():
        results[number] = result
        if finished is not None:
            finished.keep(number, result)
        told(len(results), len(shards))
    return [results[number] for number in range(len(shards))]
