"""What can go wrong, in one sentence pattern: the argument, what is allowed, what came, what to do.

Sentences name arguments as Python does, between backticks but for the one they begin with: "compensate must be none
where workers score. Got 'mean'. Use `executor='serial'`." The command line makes flags of them (`cli/words.py`).
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

PAGES = "docs/errors/"
"""Where the pages lie in the repository; the site's address goes in front once there is one."""


class ShrinknetError(Exception):
    """The root of every error that shrinknet raises on purpose.

    Attributes:
        page: the page of the documentation that says where it comes from and what mends it.
    """

    page: ClassVar[str] = PAGES + "index.md"

    def __init_subclass__(cls) -> None:
        """A class of this module has a page of its own; one of somebody else's, that of the class it is made of."""
        if cls.__module__ == __name__:
            words = re.findall("[A-Z][a-z]+", cls.__name__.removesuffix("Error"))
            cls.page = f"{PAGES}{'-'.join(words).lower()}.md"

    def __init__(self, *given: object) -> None:
        super().__init__(*given)
        self.add_note(f"See {self.page}.")  # below the sentence, in tracebacks and on the command line


class BadInputError(ShrinknetError, ValueError):
    """Something the user gave cannot be used; the command line ends with exit status 2.

    >>> raise BadInputError("step", "a whole number of at least 1", 0, "Leave it out to remove one at a time.")
    Traceback (most recent call last):
    shrinknet.core.errors.BadInputError: step must be a whole number of at least 1. Got 0. Leave it out to remove one at a time.
    """  # noqa: E501

    def __init__(self, argument: str, allowed: str, got: object, do: str) -> None:
        ValueError.__init__(self, argument, allowed, str(got), do)  # all text, to be pickled; no note: `do` says it all
        self.argument, self.allowed, self.got, self.do = argument, allowed, str(got), do

    def __str__(self) -> str:
        return f"{self.argument} must be {self.allowed}. Got {self.got}. {self.do}"


class UnfollowedOperatorError(ShrinknetError):
    """Neurons cannot be followed through an operator, and the caller needed them to be."""


class NothingToRemoveError(ShrinknetError):
    """Every neuron of the network is frozen; the message lists why."""


class FixedWidthError(ShrinknetError):
    """The user's own Python code fixes a width, so only the exported form of the smaller network exists."""


class VerificationError(ShrinknetError):
    """The cut network does not compute what the masked network computed."""


class ExportError(ShrinknetError):
    """An exporter cannot take the network, or its file does not compute what the network computes."""


class RunFolderError(ShrinknetError):
    """A run folder holds something else than the caller expects."""


class WorkerError(ShrinknetError):
    """Workers died again and again; what they finished is kept."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says that is not empty.

    >>> first_line(ValueError("\\nno such row\\nlook there"))
    'no such row'
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean 'x'?" for the closest known name, or the list of what there is.

    >>> did_you_mean("taylor2", ["taylor-1", "taylor-2", "random"])
    "Did you mean 'taylor-2'?"
    >>> did_you_mean("zzz", ["a", "b"])
    'There are: a, b.'
    """
    known = sorted(known)
    return closest(name, known) or f"There are: {', '.join(known)}."


def closest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean 'x'?" for the closest known name; nothing where none is close.

    >>> closest("taylor2", ["taylor-1", "taylor-2"]), closest("zzz", ["a", "b"])
    ("Did you mean 'taylor-2'?", '')
    """
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else ""
