"""One way to find a criterion, a loss, an exporter ... by its name: our own, another package's, or the user's."""

import logging
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract, isclass
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeGuard, TypeVar

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.core.named import as_object, find_named, import_path, is_import_path

log = logging.getLogger(__name__)


T = TypeVar("T")


class Named:
    """What has a name: that of its class, where the class says no other."""

    name: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = cls.__name__


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Things of one kind, each found by its name.

    There are three sources: the modules of one of our packages; the entry points of installed packages; and, for
    whoever writes `package.module:Name`, any module that can be imported. Nothing is imported before it is asked for.
    An installed package cannot take the place of something of ours: its entry point of the same name is left out.

    Attributes:
        argument: what callers name by it, such as "criterion".
        package: where ours are, such as "shrinknet.criteria": a package of small files, or one module.
        group: the entry points by which other packages add theirs, such as "shrinknet.criteria".
        found_in: what a module holds of them.
        own: makes one of what the user's import path names; None where it is none.
        what: one of them in words, such as "criterion".
        base: the class that theirs inherit from, such as "shrinknet.Criterion", if it is so.
    """

    argument: str
    package: str
    group: str
    found_in: Callable[[ModuleType], Iterable[T]]
    own: Callable[[object], T | None]
    what: str
    base: str = ""

    def ours(self) -> dict[str, T]:
        """Return those that we bring, by name.

        Cost: imports the package's files.
        """
        known = {_name(one): one for module in self._modules() for one in self.found_in(module)}
        return dict(sorted(known.items()))

    def names(self) -> tuple[str, ...]:
        """Return the names of ours and of those that installed packages add, which are not imported for that."""
        return tuple(sorted({*self.ours(), *self._added(self.ours())}))

    def find(self, name: object) -> T:
        """Return the one of that name, or the one that `package.module:Name` names; one that is one already as it is.

        Raises:
            BadInputError: there is none, or what is named is of another kind.
        """
        if not isinstance(name, str) and (own := self.own(name)) is not None:
            return own
        ours = self.ours()
        if isinstance(name, str) and name in ours:
            return ours[name]
        added = self._added(ours)
        if isinstance(name, str) and name in added:
            return self._loaded(added[name])
        if isinstance(name, str) and is_import_path(name):
            return self._own(name, find_named(self.argument, name))
        raise self.unknown(name, [*ours, *added])

    def made(self, name: object, **options: object) -> Any:
        """Return the one of that name; where that is a class, an object of it, made with the options that it takes.

        Raises:
            BadInputError: there is none, or the class wants other arguments.
        """
        return as_object(self.argument, self.find(name), **options)

    def text_of(self, one: Any) -> str:
        """Return the text by which one is found again: its name here, or its import path; its name if there is none."""
        if isinstance(one, str):
            return one
        kind = one if isclass(one) else type(one)
        return _name(one) if self.ours().get(_name(one)) is kind else import_path(one) or _name(one)

    def unknown(self, name: object, known: Iterable[str]) -> BadInputError:
        """Return the error of a name that is none of those known."""
        do = f"{did_you_mean(str(name), known)} One of your own is package.module:Name; in Python the object itself."
        return BadInputError(self.argument, f"the name of {_a(self.what)}", repr(name), do)

    def _added(self, ours: Container[str]) -> dict[str, EntryPoint]:
        """What installed packages add, by name."""
        points = entry_points(group=self.group)
        for point in points:
            if point.name in ours:
                log.warning("%r is left out: there is a %s %r already.", point.value, self.what, point.name)
        return {point.name: point for point in points if point.name not in ours}

    def _modules(self) -> Iterator[ModuleType]:
        package = import_module(self.package)
        inside = sorted(module.name for module in iter_modules(getattr(package, "__path__", ())))
        yield package
        yield from (import_module(f"{self.package}.{name}") for name in inside)

    def _own(self, name: str, found: object) -> T:
        own = self.own(found)
        if own is None:
            lacking = self.base and f" without the base {self.base}"
            do = f"CONTRIBUTING.md says how to add {_a(self.what)}."
            raise BadInputError(self.argument, f"the name of {_a(self.what)}", f"{name!r}, which is none{lacking}", do)
        return own

    def _loaded(self, point: EntryPoint) -> T:
        try:
            found = point.load()
        except Exception as error:  # another package's code
            allowed = f"the name of {_a(self.what)} whose package can be imported"
            got = f"{point.name!r} ({type(error).__name__}: {error})"
            do = f"Mend or remove the package of {point.value!r}."
            raise BadInputError(self.argument, allowed, got, do) from error
        return self._own(point.value, found)


def registry_of_classes(base: type[T], argument: str, package: str, group: str, what: str) -> Registry[type[T]]:
    """Return a registry of the subclasses of a class, named by their attribute `name`; an object of one will do, too.

    Args:
        base: the class, which is none of them itself; nor is what is abstract.
        argument, package, group, what: see `Registry`.
    """

    def is_one(found: object) -> TypeGuard[type[T]]:
        return isclass(found) and issubclass(found, base) and found is not base

    def found_in(module: ModuleType) -> Iterator[type[T]]:
        here = (one for one in vars(module).values() if is_one(one) and one.__module__ == module.__name__)
        return (one for one in here if hasattr(one, "name") and not isabstract(one))

    def own(found: object) -> Any:
        if is_one(found) and isabstract(found):
            lacking = " and ".join(sorted(found.__abstractmethods__))  # type: ignore[attr-defined]
            allowed, got = f"{_a(what)} with all that it needs", f"{found.__qualname__}, which lacks {lacking}"
            raise BadInputError(argument, allowed, got, f"CONTRIBUTING.md says how to add {_a(what)}.")
        return found if is_one(found) or isinstance(found, base) else None

    return Registry(argument, package, group, found_in, own, what, f"shrinknet.{base.__name__}")


def _name(one: Any) -> str:
    return str(one.name)


def _a(what: str) -> str:
    """`what` with its article.

    >>> _a("exporter"), _a("loss")
    ('an exporter', 'a loss')
    """
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
