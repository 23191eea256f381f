"""shrinknet removes whole neurons from a trained network, in the order that costs the least, to fit a budget."""

import ast
import sys
from importlib import import_module
from importlib.util import find_spec
from pkgutil import get_data
from types import ModuleType
from typing import Any


def _homes() -> dict[str, str]:
    """The module of each public name, as `__init__.pyi` says it: type checkers and this module read the same list."""
    stub = ast.parse(get_data(__name__, "__init__.pyi") or b"")
    lines = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    return {one.name: str(line.module) for line in lines for one in line.names}


class _Lazy(ModuleType):
    """The package: what it names is imported when it is asked for, so that `import shrinknet` costs next to nothing."""

    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            vars(self)[name] = getattr(import_module(_HOMES[name]), name)
            return vars(self)[name]
        if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        """Python sets each module it imports on its package; the module `sparsify` must not hide the function."""
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *_HOMES})


_HOMES = _homes()
__all__ = [name for name in _HOMES if not name.startswith("_")]
sys.modules[__name__].__class__ = _Lazy
