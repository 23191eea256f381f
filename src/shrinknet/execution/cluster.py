"""Workers on a Ray cluster, or on a small one of this machine."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import torch

from shrinknet.core.errors import BadInputError, WorkerError
from shrinknet.execution.processes import MOST_DEATHS, unimportable
from shrinknet.execution.shards import Job, Result

SECONDS_TO_ANSWER = 20


def connect(address: str | None, workers: int) -> Any:
    """Return Ray, connected to the cluster at an address, or to one of this machine that it starts.

    Raises:
        BadInputError: Ray is not installed, or the cluster does not answer.
    """
    try:
        ray = import_module("ray")
    except ImportError as error:
        do = "Install it: pip install 'shrinknet[ray]'."
        raise BadInputError("executor", "one that is installed", "ray, which is not", do) from error
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no network access that nobody asked for
    try:
        _knock(address)
        if address is None:
            ray.init(num_cpus=workers, **quiet)
        else:
            del quiet["include_dashboard"]
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises half a dozen types for a cluster that is not there
        got = f"{address!r} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'})"
        do = "Start one with 'ray start --head', or leave `address` out for one on this machine."
        raise BadInputError("address", "that of a Ray cluster that answers", got, do) from error
    return ray


def _knock(address: str | None) -> None:
    """Find out in seconds that nobody is there: Ray itself would go on asking for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()


class RayWorkers:
    """Actors on a cluster; one that dies is started again elsewhere, and its shard done again.

    Args:
        ray: Ray, connected.
        job: what the workers do; it and its batches lie in the object store.
        workers: how many there are.
        threads: how many threads each uses.
    """

    def __init__(self, ray: Any, job: Job, workers: int, threads: int) -> None:
        self.ray = ray
        actor = ray.remote(max_restarts=-1, max_task_retries=MOST_DEATHS, num_cpus=1)(_Worker)
        self._job = ray.put(job)  # held, since an actor that is started again asks for it again
        self.actors = [actor.remote(self._job, threads) for _ in range(workers)]

    def results(self, shards: Mapping[int, Any]) -> Iterator[tuple[int, Result]]:
        """Yield the number and the result of each shard as it is finished."""
        waiting, idle = list(shards.items())[::-1], list(self.actors)
        running: dict[Any, tuple[int, Any]] = {}
        while waiting or running:
            while waiting and idle:
                number, shard = waiting.pop()
                actor = idle.pop()
                running[actor.run.remote(shard)] = (number, actor)
            (done, *_), _ = self.ray.wait(list(running), num_returns=1)
            number, actor = running.pop(done)
            yield number, self._result(done)
            idle.append(actor)

    def _result(self, reference: Any) -> Result:
        exceptions = import_module("ray.exceptions")
        try:
            return self.ray.get(reference)  # type: ignore[no-any-return]
        except exceptions.RayTaskError as error:
            cause = error.cause if getattr(error, "cause", None) is not None else error
            if isinstance(cause, ImportError | AttributeError):
                raise unimportable(cause) from error
            raise cause from error
        except exceptions.ActorDiedError as error:
            if "ModuleNotFoundError" in str(error) or "ImportError" in str(error):
                raise unimportable(error) from error
            raise WorkerError(
                f"Workers must live to finish a shard. Got {MOST_DEATHS} deaths on one. Look for 'out of memory' in "
                f"the cluster's log; give less `memory`, or fewer `workers`."
            ) from error

    def close(self) -> None:
        """Let the workers go."""
        for actor in self.actors:
            self.ray.kill(actor)


class _Worker:
    def __init__(self, job: Job, threads: int) -> None:
        torch.set_num_threads(threads)
        self.job, self.state = job, None

    def run(self, shard: Any) -> Result:
        if self.state is None:
            self.state = self.job.set_up()
        return self.job.run(self.state, shard)
