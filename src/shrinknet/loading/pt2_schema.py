"""The program inside a .pt2 file, written anew: JSON of torch's own schema, in which every text is on a list.

`torch.export.load` turns texts of that JSON into code in four ways: sizes are evaluated by sympy, operators are looked
up by dotted names, types of containers are imported, and names become Python source. Here every value must be of the
type that torch's schema gives it, and every text must pass the check for its field; a field without one is refused.
"""

import json
import keyword
import re
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch._export.serde import schema
from torch._export.serde.union import _Union as TorchUnion

from shrinknet.core.units import names_in
from shrinknet.graph.names import is_tensor_name
from shrinknet.loading.archive import UnreadableArchiveError
from shrinknet.loading.expression import is_symbol, plain_expression

SYMBOLIC = re.compile(
    r"torch\.sym_(int|float|not|max|min|sum|sqrt|ite)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
REGIONS = {f"torch.ops.higher_order.wrap_with_{region}" for region in ("autocast", "set_grad_enabled")}
"""Operators that run a part of the graph in another mode."""

COMPUTED_WITH = {"Tensor", "int", "float", "bool", "number", "complex", "Device", "Generator"}
CHOOSING = names_in("""
    UPLO, approximate, assert_msg, device_type, driver, equation, indexing, interpolation, mode, norm, ord, p,
    pad_mode, padding, padding_side, reduce, rounding_mode, side
""")
"""The arguments whose text chooses among variants of an operator: no other text is for one that only computes."""

ASSERTING = names_in("""
    _assert_async, _assert_scalar, _assert_tensor_metadata, sym_constrain_range, sym_constrain_range_for_size
""")

UNCHECKED = {"_reshape_alias", "_nested_view_from_buffer", "_nested_view_from_jagged", "set_"}
"""Operators that lay a tensor over memory without asking whether there is enough of it, or over another's."""

CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}

LARGEST_PROGRAM = 2**26
"""Bytes of JSON, which take thirty times as much once they are read; ten thousand operators need a third of it."""


class RefusedError(UnreadableArchiveError):
    """A program holds what is refused; the message says what it does."""


def cleaned_program(content: bytes) -> dict[str, Any]:
    """Return the program of a `models/model.json` as JSON of our own: known fields, checked texts, no guards, no notes.

    Raises:
        RefusedError: it is no JSON of torch's schema, or holds a text that is on no list.
    """
    program: dict[str, Any] = cleaned(schema.ExportedProgram, parsed(content))
    program["guards_code"] = []  # Python source that torch would run; they fix shapes that we find out ourselves
    graph = program["graph_module"]
    graph["metadata"], graph["treespec_namedtuple_fields"] = {}, {}
    graph["module_call_graph"] = [entry for entry in graph["module_call_graph"] if not entry["fqn"]]
    return program


def cleaned_table(content: bytes) -> dict[str, Any]:
    """Return a table of tensors (`model_weights_config.json`, `model_constants_config.json`) as JSON of our own.

    Raises:
        RefusedError: it is no JSON of torch's schema, or asks for anything but plain tensors of fixed size.
    """
    table: dict[str, Any] = cleaned(schema.PayloadConfig, parsed(content))
    for name, entry in table["config"].items():
        if entry["use_pickle"] or entry["tensor_meta"] is None:
            raise RefusedError(f"asks for a pickle ({name!r})")
        meta = entry["tensor_meta"]
        if any("as_int" not in size for size in (*meta["sizes"], *meta["strides"], meta["storage_offset"])):
            raise RefusedError(f"has no fixed size for {name!r}")
    return table


def parsed(content: bytes) -> Any:
    """Return what a text of JSON says.

    Raises:
        RefusedError: it is none, is nested too deeply, or is too long.
    """
    if len(content) > LARGEST_PROGRAM:
        raise RefusedError(f"has {len(content):,} bytes of JSON, more than {LARGEST_PROGRAM:,}")
    try:
        return json.loads(content)
    except RecursionError as error:
        raise RefusedError("is nested too deeply") from error
    except ValueError as error:  # also of bytes that are no text, and numbers of thousands of digits
        raise RefusedError(f"is no JSON ({error})") from error


def cleaned(kind: Any, value: Any, field: str = "") -> Any:
    """Return a value of JSON, written anew from what a type of torch's schema has room for.

    Args:
        kind: a class of torch's schema, a list, mapping or optional of one, or a plain type.
        value: what the JSON says there.
        field: where it stands, as `Class.field`; by it the check of a text is found.

    Raises:
        RefusedError: the value is of another type, or a text does not pass its check.
    """
    try:
        return _cleaned(kind, value, field)
    except RecursionError as error:
        raise RefusedError("is nested too deeply") from error


def _cleaned(kind: Any, value: Any, field: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _cleaned(parts[0], value, field)
    if origin is list:
        return [_cleaned(parts[0], item, field) for item in _typed(list, value, field)]
    if origin is dict:
        items = _typed(dict, value, field).items()
        return {_checked(key, f"{field} keys"): _cleaned(parts[1], item, field) for key, item in items}
    if is_dataclass(kind):
        return _cleaned_record(kind, _typed(dict, value, field))
    if issubclass(kind, IntEnum):
        return kind(_typed(int, value, field)).value if value in list(kind) else _wrong(value, field)
    if kind is str:
        return _checked(_typed(str, value, field), field)
    if kind is float:
        return value if value in ("Infinity", "-Infinity", "NaN") else float(_typed((int, float), value, field))
    return _typed(kind, value, field)


def _cleaned_record(kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Fields that torch's schema does not know are left out, as torch leaves them out."""
    name, kinds = kind.__name__, _kinds(kind)
    if issubclass(kind, TorchUnion):
        (chosen,) = given if len(given) == 1 else _wrong(given, name)
        return {chosen: _cleaned(kinds.get(chosen) or _wrong(chosen, name), given[chosen], f"{name}.{chosen}")}
    needed = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    if missing := sorted(needed - given.keys()):
        raise RefusedError(f"lacks {name}.{missing[0]}")
    record = {one: _cleaned(kinds[one], given[one], f"{name}.{one}") for one in kinds if one in given}
    return WHOLE.get(name, dict)(record)


@cache
def _kinds(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, globalns=vars(schema))


def _typed(kind: Any, value: Any, field: str) -> Any:
    wanted = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        _wrong(value, field)
    return value


def _wrong(value: Any, field: str) -> Any:
    raise RefusedError(f"has {str(value)[:40]!r} for {field or 'a program'}")


def _checked(text: Any, field: str) -> str:
    """A text, after the check for its field."""
    check = TEXTS.get(field)
    if check is None:
        raise RefusedError(f"asks for something that no network needs ({field.removesuffix(' keys')})")
    if not isinstance(text, str):
        _wrong(text, field)
    found = check(text)
    return text if found is True else found if isinstance(found, str) else _wrong(text, field)


def is_name(text: str) -> bool:
    """Whether a text may stand as a name in Python source.

    >>> is_name("input_ids"), is_name("x): import os #"), is_name("class")
    (True, False, False)
    """
    return re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII) is not None and not keyword.iskeyword(text)


def is_key(text: str) -> bool:
    """Whether a text may be the key of an input or output: a name, or a number (maps of features are numbered).

    >>> is_key("logits"), is_key("0"), is_key("0]")
    (True, True, False)
    """
    return is_name(text) or re.fullmatch(r"[0-9]+", text) is not None


def is_value(text: str) -> bool:
    """Whether a text may be the name of a value: in the source of a graph, `self` is the graph."""
    return is_name(text) and text != "self"


def is_operator(target: str) -> bool:
    """Whether a text names an operator that only computes.

    That is arithmetic on sizes, a region of another mode, or an ATen operator which returns something and takes
    tensors, numbers and flags; its texts may only choose among variants ("tanh" of `gelu`).

    >>> is_operator("torch.ops.aten.relu.default"), is_operator("torch.ops.aten.from_file.default")
    (True, False)
    """
    if SYMBOLIC.fullmatch(target) or target in REGIONS:
        return True
    found = ATEN.fullmatch(target)
    packet = None if found is None else getattr(torch.ops.aten, found[1], None)
    overload = None if packet is None or found is None else getattr(packet, found[2], None)
    if found is None or not isinstance(overload, torch._ops.OpOverload) or found[1] in UNCHECKED:
        return False
    if not torch._C._dispatch_has_kernel(overload.name()):  # one of TorchScript's, which no export holds
        return False
    arguments = overload._schema.arguments
    computes = all(_kind_of(one.type) in COMPUTED_WITH or _chooses(one) for one in arguments)
    return computes and (bool(overload._schema.returns) or found[1] in ASSERTING)


def _kind_of(kind: Any) -> str:
    """The type inside lists and optionals."""
    return str(kind).replace("Optional[", "").replace("List[", "").rstrip("]")


def _chooses(argument: Any) -> bool:
    return _kind_of(argument.type) == "str" and argument.name in CHOOSING


def _tree(text: str) -> str:
    """A tree of containers, written anew."""
    found = parsed(text.encode(errors="replace"))
    if not (isinstance(found, list) and len(found) == 2 and found[0] == 1):
        _wrong(text, "a tree of inputs or outputs")
    return json.dumps([1, _branch(found[1])])


def _branch(given: Any) -> dict[str, Any]:
    kind, context, children = (_typed(dict, given, "a tree").get(key) for key in ("type", "context", "children_spec"))
    if kind is not None and kind not in CONTAINERS:
        raise RefusedError(f"asks for a container of the type {kind!r}")
    has_keys = kind in ("builtins.dict", "collections.OrderedDict")
    keys = parsed(_typed(str, context, "a tree").encode()) if has_keys else None
    if has_keys and not (isinstance(keys, list) and all(isinstance(key, str) and is_key(key) for key in keys)):
        _wrong(context, "the keys of a tree")
    branches = [_branch(child) for child in _typed(list, children, "a tree")]
    return {"type": kind, "context": None if kind is None else json.dumps(keys), "children_spec": branches}


def _notes(node: dict[str, Any]) -> dict[str, Any]:
    """Of a node's notes only the modules that it came from are kept, where torch can read them back and a terminal can
    show them."""
    stack = node["metadata"].get("nn_module_stack", "")
    whole = stack.isprintable() and all(
        re.fullmatch(r"[^,()\[\]]*,[^,()\[\]]*,[\w.]*", item) for item in stack.split(";")
    )
    node["metadata"] = {"nn_module_stack": stack} if stack and whole else {}
    return node


WHOLE: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"Node": _notes}

LEFT_OUT = names_in("""
    Argument.as_string, Argument.as_strings, ConstantValue.as_string, Node.metadata, Node.metadata keys,
    GraphModule.metadata, GraphModule.metadata keys, GraphModule.treespec_namedtuple_fields keys,
    NamedTupleDef.field_names, ModuleCallEntry.fqn, ExportedProgram.guards_code
""")
"""Texts that are left out, or written as a quoted text."""

VALUES = names_in("""
    TensorArgument.name, SymIntArgument.as_name, SymFloatArgument.as_name, SymBoolArgument.as_name,
    GraphArgument.name, Node.name, Argument.as_string_to_argument keys, Graph.tensor_values keys,
    Graph.sym_int_values keys, Graph.sym_bool_values keys, Graph.sym_float_values keys,
    InputToConstantInputSpec.name, GradientToUserInputSpec.user_input_name, UserInputMutationSpec.user_input_name,
    ModuleCallSignature.forward_arg_names
""")
"""Names of values in the graph."""

TENSORS = names_in("""
    InputToParameterSpec.parameter_name, InputToBufferSpec.buffer_name, PayloadConfig.config keys,
    InputToTensorConstantSpec.tensor_constant_name, BufferMutationSpec.buffer_name,
    ParameterMutationSpec.parameter_name, GradientToParameterSpec.parameter_name
""")
"""Names of tensors of the network."""

TEXTS: dict[str, Callable[[str], bool | str]] = {
    **dict.fromkeys(LEFT_OUT, lambda text: True),
    **dict.fromkeys(VALUES, is_value),
    "ExportedProgram.opset_version keys": is_name,
    "ExportedProgram.range_constraints keys": is_symbol,
    **dict.fromkeys(TENSORS, is_tensor_name),
    "NamedArgument.name": lambda text: text == "" or text in keyword.kwlist or is_name(text),
    "Node.target": lambda text: is_operator(text) or _refused_operator(text),
    "SymExpr.expr_str": lambda text: plain_expression(text) or False,
    "ModuleCallSignature.in_spec": _tree,
    "ModuleCallSignature.out_spec": _tree,
    "Device.type": lambda text: text in {"cpu", "cuda", "mps", "xpu", "meta"},
    "ExportedProgram.verifiers": lambda text: text in {"TRAINING", "ATEN", ""},
    "ExportedProgram.torch_version": lambda text: re.fullmatch(r"[\w.+<=-]{1,60}", text) is not None,
    "PayloadMeta.path_name": lambda text: re.fullmatch(r"(weight|tensor)_\d+", text) is not None,
}
"""For each text in torch's schema: whether it may stand there, or the text that stands there in its place."""


def _refused_operator(target: str) -> bool:
    raise RefusedError(f"calls {target!r}")
