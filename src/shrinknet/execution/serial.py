"""One shard after another, in this process."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results in the order of the items.

    >>> list(ordered_map(len, ["a", "bb"]))
    [1, 2]
    """
    for item in items:  # not `map`, which ends in silence where the function raises StopIteration
        yield function(item)
