"""Flags from records of options: a verb's parameter that is such a record stands for a flag for each of its options."""

import inspect
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from shrinknet.core.options import Options, Said


def spread(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb whose parameters that are records of options are typed as one flag for each option.

    >>> from dataclasses import dataclass
    >>> from shrinknet.core.options import option
    >>> @dataclass(frozen=True)
    ... class Training(Options):
    ...     epochs: int = option(10, "How often the rows are seen.")
    >>> @spread
    ... def train(name: str, options: Training) -> None:
    ...     print(name, options.epochs)
    >>> train(name="net", epochs=3)
    net 3
    """
    hints = get_type_hints(verb, include_extras=True)
    records = {name: hint for name, hint in hints.items() if inspect.isclass(hint) and issubclass(hint, Options)}
    parameters = list[inspect.Parameter]()
    for one in inspect.signature(verb).parameters.values():
        if one.name in records:
            parameters.extend(_flags(records[one.name]))
        else:
            parameters.append(one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY))

    def typed(**given: Any) -> None:
        made = {
            name: record(**{one.name: given.pop(one.name) for one in _flags(record)})
            for name, record in records.items()
        }
        verb(**given, **made)

    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {one.name: one.annotation for one in parameters}
    typed.__doc__, typed.__name__ = verb.__doc__, verb.__name__
    return typed


def _given(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _flags(record: type[Options]) -> Iterator[inspect.Parameter]:
    """The flags of a record, as parameters of a verb."""
    for one in record.said():
        if one.about.flag != "":
            kind, default = _typed(one)
            told = typer.Option(f"--{(one.about.flag or one.name).replace('_', '-')}", help=_help(one))
            yield inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, told]
            )


def _typed(option: Said) -> tuple[Any, Any]:
    """What is typed for an option, and its default: text where it is parsed, and where its values are words."""
    default, kinds = option.default, option.kinds
    if isinstance(default, tuple):
        return list[str], list(default)
    is_text = option.about.parse is not None or get_origin(kinds[0]) is Literal or kinds[0] is object
    kind = str if is_text else kinds[0]
    return (kind | None if NoneType in kinds else kind), (default if default is None or not is_text else str(default))


def _help(option: Said) -> str:
    choices = get_args(option.hint) if get_origin(option.hint) is Literal else ()
    help = option.about.help
    return f"{', '.join(choices[:-1])} or {choices[-1]}. {help}" if choices else help
