"""`package.module:name`: something of the user's own, found by its import path."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shrinknet.core.errors import BadInputError, did_you_mean


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
        raise BadInputError(
            argument,
            "package.module:name that can be imported",
            f"{text!r} ({error})",
            "Run from the folder that holds the module, or install it.",
        ) from error
    if not hasattr(module, name):
        names = [known for known in vars(module) if not known.startswith("_")]
        raise BadInputError(argument, f"a name in {module_name}", repr(name), did_you_mean(name, names))
    return getattr(module, name)


def made_by(argument: str, spec: str, factory: Callable[[], Any]) -> Any:
    """Call a factory of the user's own.

    Raises:
        BadInputError: it fails; the message says how.
    """
    try:
        return factory()
    except Exception as error:  # any error of the user's own code
        raise BadInputError(
            argument,
            "a factory that can be called without arguments",
            f"{spec!r}, which said: {type(error).__name__}: {error}",
            "Try it in Python.",
        ) from error
