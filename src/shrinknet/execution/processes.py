"""Workers on this machine, each a process of its own."""

import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from typing import Any

import torch

from shrinknet.core.errors import BadInputError, WorkerError
from shrinknet.execution.shards import Job, Result

MOST_DEATHS = 3
"""So many times in a row may workers die with nothing finished in between."""


class Processes:
    """A pool of processes; one that dies is replaced, and its shard done again.

    Args:
        job: what the workers do.
        workers: how many there are.
        threads: how many threads each uses. It is the same for any number of workers, since threads change bits.
    """

    def __init__(self, job: Job, workers: int, threads: int) -> None:
        self.job, self.workers, self.threads = job, workers, threads
        self._pool: ProcessPoolExecutor | None = None
        try:
            self._pickled = pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise unimportable(error) from error

    def results(self, shards: Mapping[int, Any]) -> Iterator[tuple[int, Result]]:
        """Yield the number and the result of each shard as it is finished."""
        left, num_deaths = dict(shards), 0
        while left:
            try:
                for number, result in self._run(left):
                    del left[number]
                    num_deaths = 0
                    yield number, result
            except BrokenProcessPool as error:
                self._let_go(wait=False)  # the pool itself ends those that are left
                num_deaths += 1
                if num_deaths == MOST_DEATHS:
                    raise WorkerError(
                        f"Workers must live to finish a shard. Got {num_deaths} deaths with none finished. Look for "
                        f"'out of memory' in the system's log; give less `memory`, or fewer `workers`. A script begins "
                        f"its work below if __name__ == '__main__', as each worker reads it too."
                    ) from error

    def _run(self, shards: Mapping[int, Any]) -> Iterator[tuple[int, Result]]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a forked process must not use threads, nor a GPU
            self._pool = ProcessPoolExecutor(self.workers, context, _begin, (self._pickled, self.threads))
        futures: dict[Future[Result], int] = {self._pool.submit(_run, shard): n for n, shard in shards.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except (ImportError, AttributeError) as error:
            raise unimportable(error) from error

    def close(self) -> None:
        """Let the workers go, and see them leave: a driver that ends first may never tell them, and wait for them."""
        self._let_go(wait=True)

    def _let_go(self, wait: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait, cancel_futures=True)
            self._pool = None


def unimportable(error: BaseException) -> BadInputError:
    """Return the sentence for a worker that lacks the user's code."""
    lines = [line.strip() for line in str(error).splitlines() if "Error: " in line or "No module named" in line]
    allowed = "one whose workers can import what the run uses (a loss or criterion of your own)"
    do = "Install that package where the workers are, or put its folder into PYTHONPATH."
    return BadInputError("executor", allowed, lines[-1] if lines else f"{type(error).__name__}: {error}", do)


class _Worker:
    """What a worker's process holds: the job, set up with the first shard."""

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled

    @cached_property
    def ready(self) -> tuple[Job, Any]:
        """The job and its state; an error in setting up comes back as itself, not as a broken pool."""
        job = pickle.loads(self.pickled)  # noqa: S301  (what the driver, our own parent, handed over)
        return job, job.set_up()


_WORKER: _Worker | None = None  # a pool hands its processes functions alone


def _begin(pickled: bytes, threads: int) -> None:
    global _WORKER
    torch.set_num_threads(threads)
    threading.Thread(target=_leave_with_the_driver, daemon=True).start()
    _WORKER = _Worker(pickled)


def _leave_with_the_driver() -> None:
    """A worker whose driver was killed would wait for ever."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def _run(shard: Any) -> Result:
    """Run one shard."""
    assert _WORKER is not None
    job, state = _WORKER.ready
    return job.run(state, shard)
