"""Symbolic sizes: text that sympy evaluates. Only small arithmetic on symbols passes, and it is written anew."""

import ast
import re

SYNTAX = (ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.Compare, ast.cmpop)
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd)
NODES = (*SYNTAX, *ARITHMETIC, ast.BinOp, ast.UnaryOp)
"""No `^` among them, which sympy takes for a power."""

FUNCTIONS = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt"
    r"|TruncToInt|IntTrueDiv|PowByNatural|Eq|Ne|Lt|Le|Gt|Ge"
)
SYMBOL = re.compile(r"[sz]\d{1,6}|u\d{1,4}|z?u?f\d{1,4}|batch")
"""torch counts up to the number of each `u`, so it must not be large."""

INFINITE = {"int_oo", "oo"}
LONGEST, LARGEST_EXPONENT, DEEPEST_POWERS = 2000, 8, 2


def plain_expression(text: str) -> str | None:
    """Return arithmetic on symbols, written anew so that all its readers see the same; None for any other text.

    Powers have small exponents and stand inside one another twice at most, so that evaluating them ends.

    >>> plain_expression("2*Symbol('s77', positive=True, integer=True)")
    "2 * Symbol('s77', positive=True, integer=True)"
    >>> plain_expression("__import__('os').system('true')"), plain_expression("9**9**9"), plain_expression("9^9^9")
    (None, None, None)
    """
    if len(text) > LONGEST:
        return None
    try:
        tree = ast.parse(text, mode="eval")
        is_plain = all(isinstance(node, NODES) and _is_plain(node) for node in ast.walk(tree))
        return ast.unparse(tree) if is_plain else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def is_symbol(text: str) -> bool:
    """Whether a text is the name of one of torch's symbols.

    >>> is_symbol("s77"), is_symbol("u99999999999")
    (True, False)
    """
    return SYMBOL.fullmatch(text) is not None


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _is_plain_call(node)
    if isinstance(node, ast.Name):
        return FUNCTIONS.fullmatch(node.id) is not None or is_symbol(node.id) or node.id in INFINITE
    if isinstance(node, ast.Constant):
        return is_symbol(node.value) if isinstance(node.value, str) else isinstance(node.value, int | float)
    return not _is_power(node) or _is_small(node)


def _is_plain_call(call: ast.Call) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    texts = [one for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    is_named = name == "Symbol" and len(call.args) == len(texts) == 1
    return (
        FUNCTIONS.fullmatch(name) is not None and (is_named or not texts) and (not _is_power(call) or _is_small(call))
    )


def _is_power(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in {"Pow", "PowByNatural"}
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)


def _is_small(power: ast.AST) -> bool:
    exponent = power.right if isinstance(power, ast.BinOp) else power.args[-1] if isinstance(power, ast.Call) else None
    if isinstance(exponent, ast.Call) and len(exponent.args) == 1:  # Integer(2)
        exponent = exponent.args[0]
    if isinstance(exponent, ast.UnaryOp):  # the inverse
        exponent = exponent.operand
    is_small = isinstance(exponent, ast.Constant) and exponent.value in range(LARGEST_EXPONENT + 1)
    return is_small and sum(map(_is_power, ast.walk(power))) <= DEEPEST_POWERS
