"""How scoring is done: what it may use, and what it may leave out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, get_ident
from typing import Literal

from shrinknet.core.errors import BadInputError
from shrinknet.core.options import Options, option
from shrinknet.core.units import parse_bytes

SHARE_OF_ONE_PASS = 4
"""What is kept of one batch's pass takes at most this part of the memory."""

Executor = Literal["serial", "processes", "ray"]


@dataclass(frozen=True)
class Scoring(Options):
    """How scoring is done: what it may use, and what it may leave out.

    `memory` is for the values of forward passes and of the candidates that are replayed from them, beside the model and
    the data. `confidence`, `tie_loss` and `screen` are for `ablation` alone. The number of workers changes no bit; the
    number of threads may change the last ones. `keeps_passes` keeps forward passes from one ranking to the next: a
    single ranking has no use for that.

    Raises:
        BadInputError: one of them cannot be used.

    >>> Scoring(memory="1 GiB").memory
    1073741824
    """

    memory: int | str = option("2GiB", "What scoring may use beside model and data, such as 2GiB.", parse=parse_bytes)
    confidence: float | None = option(
        None,
        "Race for the next neurons, as sure as this, such as 0.99.",
        least=0.5,
        below=1,
        do="Leave it out to use all of the data.",
    )
    tie_loss: float = option(
        0.0,
        "A race calls candidates equal whose losses differ by no more than this.",
        least=0,
        do="Leave it out to tell all apart.",
        is_later=True,
    )
    screen: int | None = option(None, "Ablate only so many neurons, the cheapest by taylor-2.", least=1)
    compile: bool = option(False, "Compile the last hidden layer's loop: pays after minutes.")
    tf32: bool = option(False, "Let a GPU round products to 19 bits.")
    executor: Executor = option(
        "serial", "Who scores: this process, or workers here or on a cluster.", is_recorded=False
    )
    workers: int | None = option(
        None, "How many workers; one for each core where left out.", least=1, is_recorded=False
    )
    threads: int = option(1, "How many threads each worker uses.", least=1, is_recorded=False)
    address: str | None = option(
        None, "The Ray cluster, such as auto; one on this machine where left out.", is_recorded=False
    )
    keeps_passes: bool = option(False, "Keep forward passes from one ranking to the next.", flag="", is_recorded=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.executor != "serial" and (self.confidence is not None or self.screen is not None):
            allowed = "serial where neurons race or are screened: one race has too little work for many workers"
            raise BadInputError("executor", allowed, repr(self.executor), "Leave it out.")
        if self.tie_loss and self.confidence is None:
            do = "Say `confidence=0.99`."
            raise BadInputError("tie_loss", "left out unless neurons race", repr(self.tie_loss), do)
        if self.address is not None and self.executor != "ray":
            do = "Say `executor='ray'`."
            raise BadInputError("address", "left out unless the executor is ray", repr(self.address), do)

    @property
    def races(self) -> bool:
        """Whether the next neurons are found without ablating every neuron on every sample."""
        return self.confidence is not None or self.screen is not None

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
                self._before = _allowed()
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
        import torch

        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def _allowed() -> tuple[bool, bool]:
    import torch  # not above: the command line's help names these options without it

    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


_PRODUCTS = _Products()
