"""`package.module:name`: something of the user's own, found by its import path."""

import importlib
import sys
from collections.abc import Callable
from inspect import isclass, signature
from pathlib import Path
from typing import Any

from shrinknet.core.errors import BadInputError, ShrinknetError, did_you_mean


def is_import_path(text: str) -> bool:
    """Whether a text reads package.module:name.

    >>> is_import_path("mine.nets:build"), is_import_path("net.pt2")
    (True, False)
    """
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def find_named(argument: str, text: str) -> Any:
    """Import what an import path names; modules of the current folder are found first.

    Raises:
        BadInputError: there is no such module, or nothing of that name in it.
    """
    module_name, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        do = "Run from the folder that holds the module, or install it."
        raise BadInputError(argument, "package.module:name that can be imported", f"{text!r} ({error})", do) from error
    if not hasattr(module, name):
        names = [known for known in vars(module) if not known.startswith("_")]
        raise BadInputError(argument, f"a name in {module_name}", repr(name), did_you_mean(name, names))
    return getattr(module, name)


def import_path(one: object) -> str | None:
    """Return the `package.module:name` by which a function, class or object is found again; None where none is.

    An object is found by its class where it is as any other of it: it has no state and no constructor of its own.

    >>> import_path(find_named), import_path(lambda outputs, targets: outputs)
    ('shrinknet.core.named:find_named', None)
    """
    kind = type(one)
    if getattr(one, "__dict__", None) == {} and (kind.__init__, kind.__new__) == (object.__init__, object.__new__):
        one = kind
    module, name = getattr(one, "__module__", None), getattr(one, "__qualname__", "")
    is_found = module not in (None, "__main__") and getattr(sys.modules.get(str(module)), name, None) is one
    return f"{module}:{name}" if is_found else None


def made_by(
    argument: str, spec: str, factory: Callable[[], Any], what: str = "a factory", do: str = "Try it in Python."
) -> Any:
    """Call a factory of the user's own.

    Raises:
        BadInputError: it fails; the message says how.
    """
    try:
        return factory()
    except ShrinknetError:
        raise
    except Exception as error:  # any error of the user's own code
        said = f"{spec!r}, which said: {type(error).__name__}: {error}"
        raise BadInputError(argument, f"{what} that can be called without arguments", said, do) from error


def as_object(argument: str, one: Any, **options: object) -> Any:
    """Return an object as it is, and of a class one that is made: with those of the options that it takes, no others.

    Raises:
        BadInputError: the class wants arguments.

    >>> as_object("shape", 3), as_object("shape", dict)
    (3, {})
    """
    if not isclass(one):
        return one
    taken = {name: options[name] for name in signature(one).parameters.keys() & options.keys()} if options else {}
    return made_by(argument, one.__qualname__, lambda: one(**taken), "a class", "Give an object of it.")
