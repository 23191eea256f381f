"""What a long run tells while it runs. The library only tells; the command line draws."""

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from shrinknet.core.records import Step

Item = TypeVar("Item")

Tell = Callable[[str, float], None]
"""Told what is under way, and which fraction is done."""


def tell_nobody(what: str, fraction: float) -> None:
    """Say nothing."""


@runtime_checkable
class Progress(Protocol):
    """Someone who wants to know how far a run is."""

    def ranking(self, done: int, total: int) -> None:
        """So many of the batches of the ranking under way are done."""

    def step(self, step: Step, fraction: float) -> None:
        """A step was taken; that fraction of the way to the goal is done."""

    def tell(self, what: str, fraction: float) -> None:
        """Something else is under way, and that fraction of it is done."""


class Silence:
    """Nobody wants to know."""

    def ranking(self, done: int, total: int) -> None:
        """Say nothing."""

    def step(self, step: Step, fraction: float) -> None:
        """Say nothing."""

    def tell(self, what: str, fraction: float) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Told(Generic[Item]):
    """Items that can be gone through again and again; somebody is told after each how many of them are done."""

    items: Iterable[Item]
    total: int
    progress: Progress

    def __iter__(self) -> Iterator[Item]:
        for done, item in enumerate(self.items, start=1):
            yield item
            self.progress.ranking(done, self.total)


def num_batches(data: Sized, batch_size: int) -> int:
    """Return in how many batches some rows come.

    >>> num_batches(range(10), 4)
    3
    """
    return -(-len(data) // batch_size)
