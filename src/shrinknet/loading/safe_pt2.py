"""Look through a .pt2 file before torch opens it: `torch.export.load` runs code that a crafted file brings along.

Four ways in are closed. (1) Members that torch would unpickle (sample inputs, "use_pickle" tensors, custom objects)
must pass the restricted unpickler, and none may ask for more. (2) Compiled members (shared libraries) are refused.
(3) Symbolic sizes are text that sympy evaluates: they may hold arithmetic on symbols and nothing else. (4) Operators
are found by dotted names under `torch`: only ATen operators and plain arithmetic are let through.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from shrinknet.errors import BadInputError

PLAIN_MEMBERS = re.compile(
    r"(archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|models/model\.json|data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|data/(weights|constants)/model_(weights|constants)_config\.json)"
)
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
OPERATORS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_(int|float|not|max|min|sum|sqrt|ite)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
EXPRESSION_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.keyword,
    ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
EXPRESSION_NAMES = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilToInt|FloorToInt|TruncToInt"
    r"|IntTrueDiv|Eq|Ne|Lt|Le|Gt|Ge|[suz]\d+|batch|int_oo|oo"
)


def refuse_unsafe(path: Path) -> None:
    """Refuse a .pt2 file that could run code when torch opens it.

    Raises:
        BadInputError: it is no such file, is damaged, or holds something that torch would execute.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                _check_member(archive, name, name.partition("/")[2])
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError) as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(
            "MODEL",
            "a .pt2 file written by torch.export.save",
            f"{str(path)!r}, which cannot be read ({error})",
            "Save it again.",
        ) from error


def _refuse(name: str, why: str) -> BadInputError:
    return BadInputError(
        "MODEL",
        "a .pt2 file that holds data only",
        f"a file whose member {name!r} {why}",
        "Get it from someone you trust and say --trust-pickle, or export the model yourself.",
    )


def _check_member(archive: zipfile.ZipFile, name: str, inner: str) -> None:
    if inner == SAMPLE_INPUTS:
        _check_sample_inputs(archive.read(name), name)
    elif not PLAIN_MEMBERS.fullmatch(inner):
        raise _refuse(name, "is nothing that a network needs")
    elif inner.endswith("_config.json"):
        _check_tensor_table(json.loads(archive.read(name)), name)
    elif inner == "models/model.json":
        _check_program(json.loads(archive.read(name)), name)


def _check_sample_inputs(content: bytes, name: str) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # any failure here would make torch fall back to unrestricted unpickling
        raise _refuse(name, "is a pickle that asks for more than tensors") from error


def _check_tensor_table(table: dict[str, Any], name: str) -> None:
    for entry in table["config"].values():
        if entry.get("use_pickle"):
            raise _refuse(name, "asks for a pickle")
        if not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise _refuse(name, f"asks for the custom object {entry['path_name']!r}")


def _check_program(program: dict[str, Any], name: str) -> None:
    for key, value in _entries(program):
        if key == "target" and isinstance(value, str) and not OPERATORS.fullmatch(value):
            raise _refuse(name, f"calls {value!r}")
        if key == "expr_str" and not is_plain_expression(str(value)):
            raise _refuse(name, f"evaluates {value!r}")
        if key == "treespec_namedtuple_fields" and value:
            raise _refuse(name, "asks for classes of its own")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value, at every depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _entries(item)
    elif isinstance(value, list):
        for item in value:
            yield from _entries(item)


def is_plain_expression(text: str) -> bool:
    """Whether a symbolic size is arithmetic on symbols.

    >>> is_plain_expression("2*Symbol('s77', positive=True, integer=True)")
    True
    >>> is_plain_expression("__import__('os').system('true')")
    False
    """
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    return all(
        isinstance(node, EXPRESSION_NODES)
        and (not isinstance(node, ast.Name) or EXPRESSION_NAMES.fullmatch(node.id) is not None)
        and (not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node.value.isidentifier())
        for node in ast.walk(tree)
    )
