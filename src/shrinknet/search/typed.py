"""What goals and guards have in common: they can be typed, and say themselves in words."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from inspect import isclass, signature
from typing import Any, ClassVar, TypeVar

from shrinknet.core.errors import BadInputError, ShrinknetError
from shrinknet.core.named import as_object
from shrinknet.core.records import Costs, Measures
from shrinknet.core.units import parse_count, parse_number

READ = {int: parse_count, float: parse_number}


class Typed:
    """A goal or guard, which can be typed: `--flash 64KiB`, or `--goal package.module:Class=64KiB`.

    Attributes:
        name: the flag, where it has one of its own; the flag's help is the first line of the docstring.
        is_repeated: whether that flag may be typed again and again.
    """

    name: ClassVar[str]
    is_repeated: ClassVar[bool] = False

    @classmethod
    def typed(cls, text: str) -> Any:
        """Return what a text stands for: it is the one value that the class wants, a number where it says so.

        Raises:
            BadInputError: it is no number, or the class wants none or several.
        """
        known = list(signature(cls, eval_str=True).parameters.values())
        wanted = [one for one in known if one.default is one.empty] or known
        if len(wanted) != 1:
            names = " and ".join(one.name for one in wanted) or "none"
            do = "Let its classmethod typed(text) return what a text means."
            raise BadInputError(cls.__name__, "a class of one value where it is typed", names, do)
        read = READ.get(wanted[0].annotation)
        return cls(text if read is None else read(cls.__name__, text))  # type: ignore[call-arg]

    def __str__(self) -> str:
        """What it wants, in words."""
        return type(self).__name__ if type(self).__repr__ is object.__repr__ else repr(self)


One = TypeVar("One")


def all_of(argument: str, given: Any, base: type[One]) -> tuple[One, ...]:
    """Return goals or guards as they were given; a class that wants no value stands for its object.

    Raises:
        BadInputError: it is no list, or something in it has not that base.
    """
    if not isinstance(given, list | tuple):
        do = "Write it as goals=[FlashBytes('64 KiB')], in brackets."
        raise BadInputError(argument, f"a list of {argument}", repr(given), do)
    made = tuple(as_object(argument, one) if isclass(one) and issubclass(one, base) else one for one in given)
    if wrong := [one for one in made if not isinstance(one, base)]:
        allowed = f"a list of {argument}, each of a class with the base shrinknet.{base.__name__}"
        do = f"CONTRIBUTING.md says how to add a {base.__name__.lower()}."
        raise BadInputError(argument, allowed, repr(wrong[0]), do)
    return made


def check_asked(argument: str, ones: Iterable[object], ask: Callable[[Any], object]) -> None:
    """Ask goals or guards something of the untouched network, before anything is scored.

    Raises:
        BadInputError: the user's own code fails.
    """
    for one in ones:
        try:
            ask(one)
        except ShrinknetError:
            raise
        except Exception as error:  # the user's own code
            got = f"{type(one).__name__}, which said: {type(error).__name__}: {error}"
            do = f"It reads {_listed(Measures)}; of costs {_listed(Costs)}."
            raise BadInputError(argument, "ones that the untouched network answers", got, do) from error


def _listed(record: Any) -> str:
    return ", ".join(field.name for field in fields(record))
