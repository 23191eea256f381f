"""The verbs: each is imported when it is typed, so that help and completion cost no more than reading its file."""

import ast
from collections import UserDict
from importlib import import_module
from pkgutil import get_data
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from shrinknet.core.units import names_in

VERBS = names_in(
    "demo, inspect, rank, prune, cut, recover, export, verify, report, reproduce, sparsify, bench, analyse"
)
"""One file of this package each, with a function `command`; where it has verbs of its own, these are its `app`."""


class Verbs(TyperGroup):
    """Verbs by name; what lists them needs their names and docstrings alone."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Imported(dict.fromkeys(VERBS))

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what the help says of a verb, or None where there is none."""
        return TyperCommand(cmd_name, help=_docstring(cmd_name)) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb itself, imported."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found and self.commands[str(name)], rest


class _Imported(UserDict[str, Any]):
    """Verbs by name, each imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        if self.data[name] is None:
            module, one = import_module(f"{__package__}.{name}"), typer.Typer()
            if hasattr(module, "app"):
                one.add_typer(module.app, name=name)
            else:
                one.command(name)(module.command)
            self.data[name] = get_group(one).commands[name]
        return self.data[name]


def _docstring(verb: str) -> str | None:
    """What a verb's function `command` says of itself; its file is read, not run."""
    tree = ast.parse(get_data(str(__package__), f"{verb}.py") or b"")
    functions = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef)}
    return ast.get_docstring(functions["command"])
