"""An option is said once: its type, its default, what it means, and what it may be.

A record of options is a frozen dataclass that inherits from `Options` and whose fields are made by `option`. From it
follow the signature in Python (`taking`), the flags of the command line (`cli/flags.py`), what `config.json` says of a
run (`recorded`), and how that is read back (`read`).
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import wraps
from types import NoneType, UnionType
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from shrinknet.core.errors import BadInputError, closest

P = ParamSpec("P")
R = TypeVar("R")
First = TypeVar("First")
Record = TypeVar("Record")
O = TypeVar("O", bound="Options")  # noqa: E741


@dataclass(frozen=True)
class About:
    """What is known of an option beside its name, type and default.

    Attributes:
        help: what it means, in one sentence.
        flag: what the command line calls it (without its dashes), where that is not its name; "" where it has none.
        least, below: a number is at least the one, and below the other.
        do: what to do where a value cannot be used.
        parse: given the argument's name and a value, what the value means, such as 2048 for "2 KiB".
        written: what `config.json` says of a value.
        is_recorded: whether `config.json` says it at all.
        is_later: whether `config.json` leaves the default out: an older version did not know the option.
    """

    help: str
    flag: str | None = None
    least: int | float | None = None
    below: int | float | None = None
    do: str = "Leave it out."
    parse: Callable[[str, Any], Any] | None = None
    written: Callable[[Any], Any] | None = None
    is_recorded: bool = True
    is_later: bool = False


@dataclass(frozen=True)
class Said:
    """An option: its name, its type, its default, and what is known of it."""

    name: str
    hint: Any
    default: Any
    about: About

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that its value may have."""
        return get_args(self.hint) if get_origin(self.hint) in (Union, UnionType) else (self.hint,)


def option(default: Any, help: str, **about: Any) -> Any:
    """Return a field of a record of options; see `About`."""
    return field(default=default, metadata={"about": About(help, **about)})


@dataclass(frozen=True)
class Options:
    """A record of options. Each value is parsed and checked when the record is made.

    Raises:
        BadInputError: a value cannot be used.

    >>> @dataclass(frozen=True)
    ... class Training(Options):
    ...     epochs: int = option(10, "How often the rows are seen.", least=1)
    ...     optimizer: Literal["adam", "sgd"] = option("adam", "What takes the steps.")
    >>> Training(optimizer="sdg")
    Traceback (most recent call last):
    shrinknet.core.errors.BadInputError: optimizer must be one of adam, sgd. Got 'sdg'. Did you mean 'sgd'?
    """

    __no_type_check__ = True  # whoever checks types at run time leaves values to us: we have a sentence for each

    def __post_init__(self) -> None:
        for one in self.said():
            object.__setattr__(self, one.name, checked(one, getattr(self, one.name)))

    @classmethod
    def said(cls) -> Iterator[Said]:
        """Yield what is said of each option."""
        for one in fields(cls):
            if "about" in one.metadata:
                yield Said(one.name, one.type, one.default, one.metadata["about"])


def checked(option: Said, value: Any) -> Any:
    """Return what a value means.

    Raises:
        BadInputError: it cannot be used.
    """
    about = option.about
    if value is None and NoneType in option.kinds:
        return None
    if about.parse is not None:
        return about.parse(option.name, value)
    allowed, fits, do = _allowed(option.kinds[0], about)
    if not fits(value):
        raise BadInputError(option.name, allowed, repr(value), do(value))
    return value


def _allowed(kind: Any, about: About) -> tuple[str, Callable[[Any], bool], Callable[[Any], str]]:
    """What a value of some type must be, in words and as a test, and what to do otherwise."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)

        def nearest(value: Any) -> str:
            return closest(str(value), choices) or about.do

        return f"one of {', '.join(choices)}", choices.__contains__, nearest
    if kind is bool:
        return "True or False", lambda value: isinstance(value, bool), lambda value: about.do
    if kind not in (int, float):
        return "", lambda value: True, lambda value: about.do
    limits = (("at least", about.least), ("below", about.below))
    bounds = [f"{words} {limit:g}" for words, limit in limits if limit is not None]
    words = f"{'a whole number' if kind is int else 'a number'}{' of ' * bool(bounds)}{' and '.join(bounds)}"

    def fits(value: Any) -> bool:
        is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return (
            is_number and (about.least is None or value >= about.least) and (about.below is None or value < about.below)
        )

    return words, fits, lambda value: about.do


def recorded(options: Options) -> dict[str, Any]:
    """Return what `config.json` says of options."""
    found = {}
    for one in options.said():
        about, value = one.about, getattr(options, one.name)
        if about.is_recorded and not (about.is_later and value == one.default):
            found[one.name] = about.written(value) if about.written is not None else value
    return found


def read(record: type[O], content: Mapping[str, Any]) -> O:
    """Return the options that `config.json` says; what it does not say has its default.

    Raises:
        BadInputError: a value cannot be used.
    """
    names = [one.name for one in record.said() if one.about.is_recorded]
    return record(**{name: content[name] for name in names if name in content})


def taking(record: Callable[P, Record]) -> Callable[[Callable[[First, Record], R]], Callable[Concatenate[First, P], R]]:
    """Let a function of (something, a record of options) be called with the options themselves.

    >>> @dataclass(frozen=True)
    ... class Length(Options):
    ...     most: int = option(3, "The most that is kept.", least=0)
    >>> @taking(Length)
    ... def shortened(text: str, options: Length) -> str:
    ...     return text[: options.most]
    >>> shortened("abcdef", most=2), str(inspect.signature(shortened))
    ('ab', '(text: str, most: int = 3) -> str')
    """
    ours = inspect.signature(record).parameters.values()

    def decorate(function: Callable[[First, Record], R]) -> Callable[Concatenate[First, P], R]:
        its = inspect.signature(function)
        first, _ = its.parameters.values()
        signature = its.replace(parameters=[first, *ours])

        @wraps(function)
        def call(*args: Any, **named: Any) -> R:
            given = signature.bind(*args, **named).arguments
            options: Any = record
            return function(given.pop(first.name), options(**given))

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate
