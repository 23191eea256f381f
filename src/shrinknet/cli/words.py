"""The library's sentences in the words of the command line: arguments of Python become flags.

A sentence of the library names an argument as Python does: before its "must" as `compensate`, `compensate='mean'` or
`options['sparsity']`, and anywhere else between backticks. Typed in a shell, these are `--compensate`,
`--compensate mean` and `--set sparsity`.
"""

import re
import shlex
import sys
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from shrinknet.cli.asked import flags_of_classes

PLACES = {"spec": "MODEL", "folder": "RUN", "run": "RUN", "history": "RUN", "histories": "RUN", "name": "NAME"}
"""What is typed without a flag."""

OTHER_NAMES = {
    "artefact": "to",
    "batch_size": "batch",
    "learning_rate": "rate",
    "weight_decay": "decay",
    "options": "set",
    "ratio": "ratios",
    **flags_of_classes(),
}
"""What a verb calls otherwise than Python does, where it has nothing of Python's name."""

NAMED = re.compile(r"(\w+)(?:=([^`]*)|\[([^`]*)\])?")
HEAD = re.compile(r"\w+(=\S+|\[\S+\])?(( and | for |, )\w+(=\S+|\[\S+\])?)*(?= must )")
MARKED = re.compile(r"`([^`]*)`")


def said(text: str) -> str:
    """Return a sentence of the library in the words of the verb that was typed."""
    from shrinknet.cli.main import app  # not above: main imports the verbs, which speak through this module

    verbs = get_command(app)
    assert isinstance(verbs, TyperGroup)
    return in_flags(text, verbs, sys.argv[1:])


def in_flags(text: str, verbs: TyperGroup, typed: Sequence[str]) -> str:
    """Return a sentence of the library with the flags of the verb that was typed (or of another, if it has none).

    Args:
        text: the sentence.
        verbs: all verbs.
        typed: what was typed after `shrinknet`.
    """
    own = _flags(_typed_verb(verbs, typed))
    if (head := HEAD.match(text)) is not None:
        parts = re.split(r"( and | for |, )", head[0])
        text = "".join(_in_flags(part, own) for part in parts) + text[head.end() :]
    names = {named[1] for one in MARKED.findall(text) if (named := NAMED.fullmatch(one)) is not None}
    flags = own if names <= own.keys() else _flags_of_all(verbs) | own
    return MARKED.sub(lambda marked: _in_flags(marked[1], flags, otherwise=marked[0]), text)


def _in_flags(code: str, flags: Mapping[str, str], otherwise: str | None = None) -> str:
    """`name`, `name=value` or `name['key']` as it is typed; something else as it stands."""
    named = NAMED.fullmatch(code)
    if named is None or named[1] not in flags:
        return code if otherwise is None else otherwise
    flag, value = flags[named[1]], named[2] or named[3]
    try:
        given = None if value is None else literal_eval(value)
    except (ValueError, SyntaxError):
        return code if otherwise is None else otherwise
    if given is None or given is True:
        return flag
    return " ".join(f"{flag} {shlex.quote(str(one))}" for one in (given if isinstance(given, list) else [given]))


def _flags(verb: Any) -> dict[str, str]:
    """What each argument of Python is called where this verb is typed."""
    flags = {str(one.name): one.opts[0] for one in verb.params if isinstance(one, TyperOption)}
    return PLACES | {name: flags[other] for name, other in OTHER_NAMES.items() if other in flags} | flags


def _flags_of_all(verbs: TyperGroup) -> dict[str, str]:
    return {name: flag for verb in _all(verbs) for name, flag in _flags(verb).items()}


def _typed_verb(verbs: TyperGroup, typed: Sequence[str]) -> Any:
    verb: Any = verbs
    for word in typed:
        if isinstance(verb, TyperGroup):
            verb = verb.commands.get(word, verb)
    return verb


def _all(verb: Any) -> Iterator[Any]:
    """A verb, or the verbs of a group."""
    if isinstance(verb, TyperGroup):
        for one in verb.commands.values():
            yield from _all(one)
    else:
        yield verb
