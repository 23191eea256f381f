"""Goals and guards as flags: one for each that has a name, and `--goal`, `--guard` for the user's own."""

from collections.abc import Iterator, Mapping
from inspect import cleandoc, isclass
from typing import Any, ClassVar

from shrinknet.core.errors import BadInputError, ShrinknetError
from shrinknet.core.named import made_by
from shrinknet.core.options import About, Options, Said
from shrinknet.core.registry import Registry
from shrinknet.search import goals, guards


class Asked(Options):
    """What was typed of goals or guards: a flag for each of the registry's, and one for those of the user's own."""

    registry: ClassVar[Registry[Any]]

    def __init__(self, **typed: Any) -> None:
        object.__setattr__(self, "typed", typed)

    @classmethod
    def said(cls) -> Iterator[Said]:
        """Yield the flags."""
        what = cls.registry.what
        for name, kind in cls.registry.ours().items():
            hint, default = (tuple[str, ...], ()) if kind.is_repeated else (str | None, None)
            yield Said(name.replace("-", "_"), hint, default, About(cleandoc(kind.__doc__).partition("\n")[0]))
        own = f"A {what} of your own or of an installed package: package.module:Class=VALUE (may be repeated)."
        yield Said(what, tuple[str, ...], (), About(own))

    def made(self) -> Iterator[Any]:
        """Yield the goals or guards that were asked for.

        Raises:
            BadInputError: a value cannot be read.
        """
        given: Mapping[str, Any] = self.typed  # type: ignore[attr-defined]
        for name, kind in self.registry.ours().items():
            texts = given[name.replace("-", "_")]
            yield from map(kind.typed, [texts] if isinstance(texts, str) else texts or ())
        what = self.registry.what
        for pair in given[what]:
            name, equals, text = pair.partition("=")
            yield _read(what, self.registry.find(name), pair, text if equals else None)


def _read(what: str, kind: Any, pair: str, text: str | None) -> Any:
    """A goal or guard of the user's own: the class with the value that was typed, or as it is where none was."""
    if text is None:
        do = f"Write --{what} package.module:Class=VALUE."
        return made_by(what, pair, kind, "a class", do) if isclass(kind) else kind
    try:
        return kind.typed(text)
    except ShrinknetError:
        raise
    except Exception as error:  # the user's own code
        got = f"{pair!r}, which said: {type(error).__name__}: {error}"
        raise BadInputError(what, "a class and a value that it can read", got, "Try it in Python.") from error


class GoalFlags(Asked):
    """Goals as they are typed."""

    registry = goals.BY_NAME


class GuardFlags(Asked):
    """Guards as they are typed."""

    registry = guards.BY_NAME


def flags_of_classes() -> dict[str, str]:
    """Return the option by which the command line calls each goal and guard: `FlashBytes` is `flash`."""
    registries = (goals.BY_NAME, guards.BY_NAME)
    return {kind.__name__: name.replace("-", "_") for one in registries for name, kind in one.ours().items()}
