"""Open a .pt2 file from a stranger: torch never sees the archive that came.

Each member is read once, by one reader, and a clean archive of our own is what `torch.export.load` opens: the program
written anew (`pt2_schema.py`), tensors as plain bytes of the length that their sizes need, and sample inputs made here.
Pickles, compiled libraries and everything else that a file may bring along stay behind. `docs/security.md` says what
is promised.
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE as DTYPES
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import PT2ArchiveWriter
from torch.utils._pytree import tree_unflatten, treespec_loads

from shrinknet.core.errors import BadInputError
from shrinknet.core.quiet import quiet
from shrinknet.loading.archive import Archive, UnreadableArchiveError, opened
from shrinknet.loading.pt2_schema import RefusedError, cleaned_program, cleaned_table

PROGRAM = "models/model.json"
TABLES = {
    "data/weights": "data/weights/model_weights_config.json",
    "data/constants": "data/constants/model_constants_config.json",
}
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
PLAIN = {"archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id", SAMPLE_INPUTS}
"""Members that every file has and that are never read."""

LARGEST_SAMPLE = 2**28
"""Elements of the example of all inputs that is made for a program."""

MOST_SPREAD = 2**28
"""Elements that all tensors of a table together may have beyond those they hold: a stride of 0 repeats one for ever."""


Opened = tuple[ExportedProgram, nn.Module]
"""A program, and the network that it describes."""


def open_pt2(path: Path) -> Opened:
    """Return the program and the network in a .pt2 file, without running anything that the file brings along.

    Raises:
        BadInputError: it is no such file, is damaged, or holds something that a network does not need.

    Cost: memory for the tensors twice while it is opened.
    """
    try:
        with opened(path) as archive:
            content = clean_archive(archive)
    except RefusedError as error:
        do = "Get it from someone you trust and say `trust_pickle=True`, or export the model yourself."
        raise BadInputError("spec", "a .pt2 file that holds data only", f"a file {error}", do) from error
    except UnreadableArchiveError as error:
        raise _no_pt2(path, str(error)) from error
    return opened_by_torch(path, io.BytesIO(content))


def opened_by_torch(path: Path, content: Any) -> Opened:
    """Return the program and the network that torch finds in a file or its content.

    Guards are Python text that torch would run, and fix shapes that we recompute: they are never built.

    Raises:
        BadInputError: torch cannot open it.
    """
    try:
        with quiet():
            program = torch.export.load(content)
            return program, program.module(check_guards=False)
    except Exception as error:  # torch reports a damaged archive in many types
        raise _no_pt2(path, f"which torch cannot open ({type(error).__name__})") from error


def _no_pt2(path: Path, why: str) -> BadInputError:
    allowed = "a .pt2 file written by torch.export.save"
    return BadInputError("spec", allowed, f"{str(path)!r}, {why}", "Save it again.")


def clean_archive(archive: Archive) -> bytes:
    """Return the content of a new archive with what a network needs of one that came.

    Raises:
        RefusedError: a member is nothing that a network needs, or does not pass its check.
    """
    members = _by_place(archive)
    program = _checked("a program", cleaned_program, archive, members, PROGRAM)
    tables = {
        folder: _checked("a table of tensors", cleaned_table, archive, members, name) for folder, name in TABLES.items()
    }
    wanted = dict[str, bytes]()
    for folder, table in tables.items():
        wanted |= _tensors(archive, members, folder, table)
    if extra := sorted(members.keys() - wanted.keys() - PLAIN - {PROGRAM, *TABLES.values()}):
        raise RefusedError(f"whose member {members[extra[0]]!r} is nothing that a network needs")
    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        writer.write_string(PROGRAM, json.dumps(program))
        for folder, table in tables.items():
            writer.write_string(TABLES[folder], json.dumps(table))
        for name, content in wanted.items():
            writer.write_bytes(name, content)
        writer.write_bytes(SAMPLE_INPUTS, _sample_inputs(program))
    return buffer.getvalue()


def _by_place(archive: Archive) -> dict[str, str]:
    """The members by their place below the archive's one folder."""
    places = {name.partition("/")[2]: name for name in archive.sizes}
    if len(places) < len(archive.sizes) or len({name.partition("/")[0] for name in archive.sizes}) != 1:
        raise RefusedError("which has members in more than one folder")
    return places


def _checked(what: str, check: Any, archive: Archive, members: dict[str, str], name: str) -> Any:
    if name not in members:
        raise RefusedError(f"which lacks {what} ({name})")
    try:
        return check(archive.read(members[name]))
    except RefusedError as error:
        raise RefusedError(f"whose member {members[name]!r} {error}") from error


def _tensors(archive: Archive, members: dict[str, str], folder: str, table: dict[str, Any]) -> dict[str, bytes]:
    """The bytes of every tensor in a table, each long enough for the sizes that it claims."""
    contents, spread = dict[str, bytes](), 0
    for name, entry in table["config"].items():
        place = f"{folder}/{entry['path_name']}"
        if place not in members:
            raise RefusedError(f"which lacks the tensor {name!r}")
        meta = entry["tensor_meta"]
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        offset, dtype = meta["storage_offset"]["as_int"], DTYPES.get(meta["dtype"])
        if dtype is None or len(sizes) != len(strides) or min(0, offset, *sizes, *strides) < 0:
            raise RefusedError(f"whose tensor {name!r} has no size that a tensor can have")
        steps = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        needed = 0 if 0 in sizes else (offset + 1 + steps) * dtype.itemsize
        length = archive.sizes[members[place]]
        if needed > length or (length == 0 and math.prod(sizes) > 0) or (length and length % dtype.itemsize):
            raise RefusedError(f"whose tensor {name!r} claims {needed:,} bytes of {length:,}")
        spread += max(0, math.prod(sizes) - length // dtype.itemsize)
        if spread > MOST_SPREAD:
            raise RefusedError(f"whose tensor {name!r} repeats {length:,} bytes over {math.prod(sizes):,} elements")
        if place not in contents:
            contents[place] = archive.read(members[place])
    return contents


def _sample_inputs(program: dict[str, Any]) -> bytes:
    """An example of the inputs, made from the sizes that the program gives them; nothing where they are not tensors."""
    graph, signature = (program["graph_module"][key] for key in ("graph", "signature"))
    roots = [entry["signature"] for entry in program["graph_module"]["module_call_graph"] if entry.get("signature")]
    names = [
        spec["user_input"]["arg"].get("as_tensor", {}).get("name")
        for spec in signature["input_specs"]
        if "user_input" in spec
    ]
    metas = [graph["tensor_values"].get(name) for name in names]
    if not roots or None in metas or any("constant_input" in spec for spec in signature["input_specs"]):
        return b""
    shapes = [_shape(meta) for meta in metas]
    spec = treespec_loads(roots[0]["in_spec"])
    if spec.num_leaves != len(shapes) or sum(map(math.prod, shapes)) > LARGEST_SAMPLE:
        return b""
    leaves = [_sample(shape, DTYPES[meta["dtype"]]) for shape, meta in zip(shapes, metas, strict=True)]
    buffer = io.BytesIO()
    torch.save(tree_unflatten(leaves, spec), buffer)
    return buffer.getvalue()


def _shape(meta: dict[str, Any]) -> list[int]:
    """The sizes of an input; without end where one is not known, so that no example is made."""
    sizes = [_hint(size) for size in meta["sizes"]]
    is_known = meta["dtype"] in DTYPES and all(size is not None and size >= 0 for size in sizes)
    return [size or 0 for size in sizes] if is_known else [LARGEST_SAMPLE + 1]


def _sample(shape: list[int], dtype: torch.dtype) -> Tensor:
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return torch.linspace(-1, 1, math.prod(shape)).to(dtype).view(shape)


def _hint(size: dict[str, Any]) -> int | None:
    if "as_int" in size:
        return int(size["as_int"])
    hint = (size["as_expr"].get("hint") or {}).get("as_int")
    return None if hint is None else int(hint)
