"""How scoring is done: what it may use, and what it may leave out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, get_ident
from typing import Any

import torch

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.core.units import parse_bytes

DEFAULT_MEMORY = 2 * 2**30

SHARE_OF_ONE_PASS = 8
"""A batch is cut down until the values of its forward pass take at most this part of the memory."""

EXECUTORS = ("serial", "processes", "ray")


@dataclass(frozen=True, slots=True)
class Scoring:
    """How scoring is done: what it may use, and what it may leave out.

    Args:
        memory: bytes (or text such as "2 GiB") for the values of forward passes and of the candidates that are
            replayed from them, beside the model and the data.
        confidence: race for the neurons that go next, and decide with this confidence before all data are seen
            (`ablation` only); None scores every neuron on all of the data.
        screen: ablate only so many neurons, the cheapest by `taylor-2` (`ablation` only); None ablates all.
        compile: compile the loop over the last hidden layer's neurons. It takes seconds once, and pays after minutes.
        tf32: let a GPU round products to 19 bits.
        executor: "serial", "processes" (on this machine) or "ray" (on a cluster).
        workers: how many workers there are; None takes one for each core. Their number changes no bit.
        threads: how many threads each worker uses; their number may change the last bits.
        address: where the Ray cluster is; None starts one on this machine.
        keeps_passes: keep forward passes from one ranking to the next (a single ranking has no use for that).

    Raises:
        BadInputError: one of them cannot be used.

    >>> Scoring(memory="1 GiB").memory
    1073741824
    """

    memory: int | str = DEFAULT_MEMORY
    confidence: float | None = None
    screen: int | None = None
    compile: bool = False
    tf32: bool = False
    executor: str = "serial"
    workers: int | None = None
    threads: int = 1
    address: str | None = None
    keeps_passes: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", parse_bytes("memory", self.memory))
        if self.confidence is not None and not (_is_number(self.confidence) and 0.5 <= self.confidence < 1):
            allowed = "a number of at least 0.5 and below 1"
            raise BadInputError("confidence", allowed, repr(self.confidence), "Leave it out to use all of the data.")
        for argument, value in (("screen", self.screen), ("workers", self.workers), ("threads", self.threads)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise BadInputError(argument, "a whole number of at least 1", repr(value), "Leave it out.")
        if self.executor not in EXECUTORS:
            do = did_you_mean(str(self.executor), EXECUTORS)
            raise BadInputError("executor", "serial, processes or ray", repr(self.executor), do)
        if self.executor != "serial" and (self.confidence is not None or self.screen is not None):
            allowed = "serial where neurons race or are screened: one race has too little work for many workers"
            raise BadInputError("executor", allowed, repr(self.executor), "Leave it out.")
        if self.address is not None and self.executor != "ray":
            raise BadInputError(
                "address", "left out unless the executor is ray", repr(self.address), "Say `executor='ray'`."
            )

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Let a GPU compute products in whole 32-bit precision (or TF32, if asked for), then put back what was set.

        That belongs to the process: a thread that asks for something else waits until the others are done.
        """
        with _PRODUCTS.rounded(self.tf32):
            yield

    @property
    def kept_bytes(self) -> int:
        """How much of the memory is for passes that are kept."""
        return int(self.memory) // 2 if self.keeps_passes else 0

    @property
    def pass_bytes(self) -> int:
        """How much of the memory one batch's values may take."""
        return int(self.memory) // SHARE_OF_ONE_PASS


class _Products:
    """How a GPU rounds products: threads that want it alike share it, and the last one puts back what was set."""

    def __init__(self) -> None:
        self._turn, self._users, self._before = Condition(), list[tuple[int, bool]](), (False, False)

    @contextmanager
    def rounded(self, tf32: bool) -> Iterator[None]:
        mine = get_ident(), tf32
        with self._turn:
            self._turn.wait_for(lambda: all(who == mine[0] or other == tf32 for who, other in self._users))
            if not self._users:
                self._before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            self._users.append(mine)
            self._set(tf32, tf32)
        try:
            yield
        finally:
            with self._turn:
                self._users.remove(mine)
                self._set(*((self._users[-1][1],) * 2 if self._users else self._before))
                self._turn.notify_all()

    def _set(self, matmul: bool, cudnn: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


_PRODUCTS = _Products()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
