"""What Python and torch keep once for the whole process: threads take turns where it is changed."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

_ONE_AT_A_TIME = RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Let no other thread in here: where a network is traced or exported, where a model stands in eval mode."""
    with _ONE_AT_A_TIME:
        yield


@contextmanager
def leaving_out(category: type[Warning], words: str = "") -> Iterator[None]:
    """Leave warnings of a category out that begin with some words (a regular expression)."""
    with alone(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", words, category)
        yield
