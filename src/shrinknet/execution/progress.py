"""What a long run tells while it runs. The library only tells; the command line draws."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Protocol, TypeVar, runtime_checkable

from shrinknet.records import Step

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


class Silence:
    """Nobody wants to know."""

    def ranking(self, done: int, total: int) -> None:
        """Say nothing."""

    def step(self, step: Step, fraction: float) -> None:
        """Say nothing."""


def told(items: Iterable[Item], total: int, progress: Progress) -> Iterator[Item]:
    """Yield the items and tell after each how many are done."""
    for done, item in enumerate(items, start=1):
        yield item
        progress.ranking(done, total)


def num_batches(data: Sized, batch_size: int) -> int:
    """Return in how many batches some rows come.

    >>> num_batches(range(10), 4)
    3
    """
    return -(-len(data) // batch_size)
