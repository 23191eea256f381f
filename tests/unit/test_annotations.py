"""The checks of annotations: what jaxtyping's own decorator refuses is refused, by whichever way it is looked at."""

import gc
import weakref
from collections.abc import Callable, Iterator

import annotations
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from shrinknet.core.units import counted

KINDS = {"quick": annotations.jaxtyped(typechecker=beartype), "whole": annotations.whole(typechecker=beartype)}


@pytest.fixture(params=KINDS)
def checked(request) -> Callable:
    return KINDS[request.param]


def plain(count: int, names: tuple[str, ...] = ()) -> list[int]:
    return [count] if count else ["nothing"]


def shaped(one: Float[Tensor, " row"], other: dict[str, Float[Tensor, " row"]]) -> Float[Tensor, " row"]:
    return torch.cat([one, *other.values()]) if len(one) == 1 else one


def named(count: "int") -> "str":
    return str(count) if count else 0


def made(count: int) -> Iterator[int]:
    yield from range(count)


def unannotated(count):
    return count


def closure(held: object) -> Callable:
    def inner(count: int) -> int:
        return held if count else count

    return inner


def defaulting(value: int) -> Callable:
    def inner(count: int = value) -> int:
        return count

    return inner


ROW = torch.ones(3)
TAKEN = {
    "plain": (plain, (1,), [1]),
    "shaped": (shaped, (ROW, {"a": ROW}), ROW),
    "named": (named, (1,), "1"),
    "closure": (closure(7), (1,), 7),
    "a default": (defaulting(7), (), 7),
    "nothing to check": (unannotated, ("x",), "x"),
}
REFUSED = {
    "an argument": (plain, ("1",)),
    "an element": (plain, (1, (2,))),
    "a result": (plain, (0,)),
    "shapes of two arguments": (shaped, (ROW, {"a": ROW[:2]})),
    "the shape of a result": (shaped, (ROW[:1], {"a": ROW[:1]})),
    "a named argument": (named, (1.0,)),
    "a named result": (named, (0,)),
    "a generator's argument": (made, ("1",)),
    "a closure's argument": (closure(7), ("1",)),
    "a closure's result": (closure("seven"), (1,)),
    "a default": (defaulting(7), ("1",)),
}


@pytest.mark.parametrize("what", TAKEN)
def test_what_fits_is_taken(what: str, checked) -> None:
    function, given, expected = TAKEN[what]
    assert checked(function)(*given) is expected or checked(function)(*given) == expected


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what: str, checked) -> None:
    function, given = REFUSED[what]
    with pytest.raises(TypeCheckError):
        checked(function)(*given)


def test_each_closure_of_one_code_is_called_itself_and_none_is_kept() -> None:
    class Held:
        pass

    def closure(held: Held) -> Callable:
        def inner() -> Held:
            return held

        return KINDS["quick"](inner)

    first, second = Held(), Held()
    one, other = closure(first), closure(second)
    assert (one(), other()) == (first, second)
    gone = weakref.ref(first)
    del first, one
    gc.collect()
    assert gone() is None


def test_closures_of_one_code_with_other_annotations_are_checked_by_their_own() -> None:
    def of(kind: type) -> Callable:
        def inner(value: kind) -> None:
            pass

        return KINDS["quick"](inner)

    of(int)(1)
    of(str)("one")
    with pytest.raises(TypeCheckError):
        of(str)(1)


def test_the_product_is_checked(request) -> None:
    if not request.config.getoption("--jaxtyping-packages"):
        pytest.skip("started without --jaxtyping-packages")
    with pytest.raises(TypeCheckError):
        counted("one", "point")
