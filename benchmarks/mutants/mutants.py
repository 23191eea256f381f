"""Which small faults there are to make in some rooms, and a fair draw of them: by cosmic-ray's operators.

A *place* is a piece of source that some operator can change; at each place one change is chosen by chance. Places are
drawn by the hash of what they say, not by their line, so that an edit elsewhere leaves the draw as it was.

Left out, because no test should notice: type annotations, what is raised and asserted, log lines, `__repr__`, bodies of
protocols. Left out, because any test notices: operators that a place's types never have (`a << b` for `a + b` of
floats), and text that does not compile.
"""

import ast
import hashlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

PACKAGE = Path("src/shrinknet")
ROOMS = {
    "criteria": ("criteria",),
    "search": ("search",),
    "surgery": ("surgery",),
    "compensation": ("compensation",),
    "engine": ("engine",),
    "export/arena": ("export/arena.py",),
}
BINARY = {
    "Add": ("Sub", "Mul"), "Sub": ("Add",), "Mul": ("Add", "Div"), "Div": ("Mul",), "FloorDiv": ("Div", "Mul"),
    "Mod": ("FloorDiv",), "Pow": ("Mul",), "BitOr": ("BitAnd",), "BitAnd": ("BitOr",),
}  # fmt: skip
UNARY = ("Delete_USub", "Delete_Not", "Delete_Invert")
BY_HAND = "by hand"
SILENT = {"raise_stmt", "assert_stmt", "tfpdef", "import_name", "import_from"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    room: str
    path: str
    where: str
    line: int
    end: int
    operator: str
    occurrence: int
    before: str
    after: str

    @property
    def id(self) -> str:
        """A short name that stays where lines move."""
        return digest(self.path, self.where, self.before, self.after, self.operator)

    def applied(self, source: str) -> str:
        """Return a file's text with the change."""
        if self.operator == BY_HAND:
            assert self.before in source, f"{self.path} does not hold {self.before!r}"
            return source.replace(self.before, self.after, 1)
        return mutate_code(source, get_operator(self.operator)(), self.occurrence)


def digest(*words: object) -> str:
    """Return eight characters that stand for some words."""
    return hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Place:
    """A piece of source, and the operators that can change it, each with its number among all it can change."""

    path: str
    where: str
    line: int
    end: int
    said: str
    column: int
    changes: tuple[tuple[str, int], ...]

    def chance(self, seed: int) -> str:
        """Return what places are drawn by."""
        return digest(seed, self.path, self.where, self.said, self.column)


def places(root: Path, room: str) -> list[Place]:
    """Return every place of a room."""
    return [place for path in sorted(_files(root, room)) for place in _places(path, str(path.relative_to(root)))]


def drawn(root: Path, room: str, count: int, seed: int) -> list[Mutant]:
    """Draw so many places of a room, and one change at each."""
    found: dict[str, Mutant] = {}
    for place in sorted(places(root, room), key=lambda place: place.chance(seed)):
        if len(found) < count and (mutant := _changed(root, room, place, seed)) is not None:
            found[mutant.id] = mutant
    return list(found.values())


def named(root: Path) -> list[Mutant]:
    """Return the faults that are named in `named.toml`."""
    found = []
    for one in tomllib.loads((Path(__file__).parent / "named.toml").read_text())["mutant"]:
        text = (root / one["path"]).read_text()
        line = text[: text.index(one["before"])].count("\n") + 1
        place = one["path"], one["what"], line, line
        found.append(Mutant("named", *place, BY_HAND, 0, one["before"], one["after"]))
    return found


def _files(root: Path, room: str) -> Iterator[Path]:
    for name in ROOMS[room]:
        place = root / PACKAGE / name
        yield from [place] if place.is_file() else place.rglob("*.py")


def _places(path: Path, name: str) -> Iterator[Place]:
    source = path.read_text()
    nodes, lines = list(ast_nodes(get_ast(source))), source.splitlines()
    found: dict[tuple[int, int], list[Any]] = {}
    for operator in filter(is_meant, operator_names()):
        spans = [(node, *span) for node in nodes for span in get_operator(operator)().mutation_positions(node)]
        for occurrence, (node, start, end) in enumerate(spans):
            if not is_silent(node, start):
                found.setdefault(start, [node, end, []])[2].append((operator, occurrence))
    for (line, column), (node, end, changes) in found.items():
        said, where = lines[line - 1].strip(), ASTQuery(node).get_definition_name() or ""
        inset = len(lines[line - 1]) - len(lines[line - 1].lstrip())
        yield Place(name, where, line, end[0], said, column - inset, tuple(changes))


def _changed(root: Path, room: str, place: Place, seed: int) -> Mutant | None:
    """One change of a place, by chance; None where all of them leave the program as it was, or none."""
    source = (root / place.path).read_text()
    in_turn = sorted(enumerate(place.changes), key=lambda one: digest(place.chance(seed), one[0], one[1][0]))
    for _, (operator, occurrence) in in_turn:
        changed = mutate_code(source, get_operator(operator)(), occurrence)
        if changed is not None and _is_another(changed, source):
            before, after = _difference(source, changed, place.line)
            return Mutant(room, place.path, place.where, place.line, place.end, operator, occurrence, before, after)
    return None


def is_meant(operator: str) -> bool:
    """Whether an operator makes faults that a person could make."""
    name = operator.removeprefix("core/")
    kind, _, change = name.partition("_")
    was, _, becomes = change.partition("_")
    if kind == "ReplaceBinaryOperator":
        return becomes in BINARY.get(was, ())
    if kind == "ReplaceComparisonOperator":
        return ("Is" in was) == ("Is" in becomes)
    if kind == "ReplaceUnaryOperator":
        return change in UNARY
    return not name.startswith("Variable")


def is_silent(node: object, start: tuple[int, int]) -> bool:
    """Whether a node stands where no test should look."""
    below = node
    while node is not None:
        if node.type in SILENT or (node.type == "annassign" and start < _value_of(node)):
            return True
        if node.type == "funcdef" and (node.name.value == "__repr__" or below is node.annotation):
            return True
        if node.type == "classdef" and "Protocol" in getattr(node.get_super_arglist(), "get_code", str)():
            return True
        if node.type == "atom_expr" and node.get_code().lstrip().startswith(("log.", "logger.")):
            return True
        below, node = node, node.parent
    return False


def _value_of(annotated: object) -> tuple[int, int]:
    """Where the value begins behind `: annotation =`."""
    return annotated.children[-1].start_pos if len(annotated.children) > 2 else annotated.end_pos


def _is_another(changed: str, source: str) -> bool:
    try:
        return ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


def _difference(source: str, changed: str, line: int) -> tuple[str, str]:
    """The line as it was and as it is; a decorator that goes leaves nothing."""
    before, after = source.splitlines(), changed.splitlines()
    if len(before) != len(after):
        return before[line - 1].strip(), ""
    place = next(place for place, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
    return before[place].strip(), after[place].strip()
