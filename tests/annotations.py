"""Annotations are checked at each call, and by `jaxtyping` itself only where it has to be: the checks cost a fifth of that.

`--jaxtyping-packages` decorates every function, closures too each time they are made, by `jaxtyping.jaxtyped`. That binds
the arguments at each call, checks them twice, and makes two functions for it by `exec`: for shapes, which are to agree
between arguments and result. Where no annotation has a shape, the type checker alone checks the same annotations; and a
closure is checked by what was made for the first one of the same code.
"""

import functools
import inspect
from collections.abc import Callable
from types import CellType, CodeType, FunctionType
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf
from jaxtyping import AbstractArray, TypeCheckError

whole = jaxtyping.jaxtyped
SAME_ERROR = BeartypeConf(violation_type=TypeCheckError)
"""What jaxtyping raises, which is a `TypeError`."""
CALLED = "__beartype_func"
"""The keyword by which a function that beartype made has the one that it calls."""
_made: dict[CodeType, FunctionType] = {}
"""What checks the closures of each code."""


def jaxtyped(function: Any = None, *, typechecker: Callable) -> Any:
    """Check a function's annotations, as jaxtyping's own decorator does."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not isinstance(function, FunctionType):
        return whole(function, typechecker=typechecker)
    if (made := _made.get(function.__code__)) and made.__annotations__ == function.__annotations__:
        return _calling(made, function)
    if inspect.isgeneratorfunction(function) or any(map(_has_shape, function.__annotations__.values())):
        return whole(function, typechecker=typechecker)
    if "<locals>" not in function.__qualname__ or function.__defaults__ or function.__kwdefaults__:
        return typechecker(function, conf=SAME_ERROR)
    made = typechecker(_hollow(function), conf=SAME_ERROR)
    if CALLED not in (made.__kwdefaults__ or {}):  # nothing to check
        return function
    _made[function.__code__] = made
    return _calling(made, function)


def _hollow(closure: FunctionType) -> FunctionType:
    """The same without what it closes over, which would be kept."""
    cells = tuple(CellType() for _ in closure.__closure__ or ())
    hollow = FunctionType(closure.__code__, closure.__globals__, closure.__name__, None, cells)
    hollow.__qualname__, hollow.__annotations__ = closure.__qualname__, dict(closure.__annotations__)
    return hollow


def _has_shape(annotation: Any) -> bool:
    """Whether a shape stands in it; what is only the name of a type may have one."""
    if isinstance(annotation, str) or (inspect.isclass(annotation) and issubclass(annotation, AbstractArray)):
        return True
    return any(map(_has_shape, annotation if isinstance(annotation, list) else get_args(annotation)))


def _calling(checked: FunctionType, function: FunctionType) -> FunctionType:
    """The same checks in front of another closure of the same code."""
    again = FunctionType(checked.__code__, checked.__globals__, function.__name__)
    functools.update_wrapper(again, function)
    again.__kwdefaults__ = {**checked.__kwdefaults__, CALLED: function}
    return again


jaxtyping.jaxtyped = jaxtyped
