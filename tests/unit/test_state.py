"""State stands where it can be seen: the process remembers nothing of a network, and frozen records stay as made."""

import ast
from collections.abc import Iterator
from pathlib import Path

import shrinknet as sn

SOURCE = Path(sn.__file__).parent
TREES = {str(path.relative_to(SOURCE)): ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")}

TABLES = {"_kinds", "_attributes_of_modules", "_attributes_of_graphs", "_decompositions", "published"}
"""What may be cached for the process: tables of torch's own code, and a file of the package."""


RULES = {"graph/call.py", "loading/onnx_operators.py"}
"""Where a table is filled by the functions below it, while they are imported."""


def found(kind: type) -> Iterator[tuple[str, ast.AST]]:
    return ((name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kind))


def test_only_tables_are_cached_for_the_process() -> None:
    cached = {
        function.name
        for _, function in found(ast.FunctionDef)
        if any(
            ast.unparse(one).split("(")[0].split(".")[-1] in {"cache", "lru_cache"} for one in function.decorator_list
        )
    }
    assert cached == TABLES


def test_no_module_holds_what_remembers() -> None:
    for name, tree in TREES.items():
        made = [node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value]
        assert not [node for node in made if ast.unparse(node).startswith("Weak")], name
        assert not [node for node in made if ast.unparse(node) in {"{}", "dict()"}] or name in RULES, name


def test_nothing_is_found_by_the_place_where_it_lies() -> None:
    """`copy.deepcopy` alone asks for that: its memo goes by `id`."""
    assert {name for name, call in found(ast.Call) if ast.unparse(call.func) == "id"} == {"surgery/remove.py"}


def test_a_frozen_record_is_what_it_was_made() -> None:
    for name, function in found(ast.FunctionDef):
        if function.name not in {"__init__", "__post_init__"}:
            assert "object.__setattr__" not in ast.unparse(function), (name, function.name)
