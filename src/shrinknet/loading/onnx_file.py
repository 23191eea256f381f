"""An .onnx file from a stranger, looked through: tensors of its own folder, known operators, nothing else."""

from collections import Counter
from pathlib import Path
from typing import Any

from shrinknet.core.errors import BadInputError
from shrinknet.loading.onnx_operators import TENSORS
from shrinknet.loading.onnx_recurrent import RECURRENT

LARGEST_FILE = 2**31 - 1
"""Bytes of a file with all that stands beside it: what one message of protobuf can hold."""


MOST_NODES = 100_000
"""Operators of a network once its functions are written out."""


OLDEST, OWN_DOMAINS = 7, {"", "ai.onnx"}


def refused(path: Path, why: str) -> BadInputError:
    """Return the error of a file that cannot be used."""
    return BadInputError("spec", "an .onnx file of a network", f"{str(path)!r}, {why}", "Export it again.")


def looked_through(path: Path) -> Any:
    """Return the file with every tensor in it, and nothing in it that is no network of known form."""
    import onnx

    if path.stat().st_size > LARGEST_FILE:
        raise refused(path, f"which has more than {LARGEST_FILE:,} bytes")
    proto = onnx.load_model_from_string(path.read_bytes())
    _take_in(path, proto)
    opset = max((one.version for one in proto.opset_import if one.domain in OWN_DOMAINS), default=0)
    if not OLDEST <= opset <= onnx.defs.onnx_opset_version():
        read = f"{OLDEST} to {onnx.defs.onnx_opset_version()}"
        raise refused(path, f"which speaks version {opset} of ONNX's operators, and {read} are read")
    return proto


def _take_in(path: Path, proto: Any) -> None:
    """Read tensors that stand in other files: plain files of the same folder, and no further than they reach."""
    from onnx import TensorProto

    folder, left = path.parent.resolve(), LARGEST_FILE - path.stat().st_size
    for tensor in proto.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        place = folder / said.get("location", "")
        if place.is_symlink() or not place.resolve().is_relative_to(folder) or not place.is_file():
            where = f"{said.get('location')!r}, which is no plain file in its folder"
            raise refused(path, f"whose tensor {tensor.name!r} stands in {where}")
        start, size = int(said.get("offset", 0)), place.stat().st_size
        length = int(said.get("length", size - start))
        left -= length
        if min(start, length, size - start - length, left) < 0:
            raise refused(path, f"whose tensor {tensor.name!r} claims {length:,} bytes from {start:,} on of {size:,}")
        with place.open("rb") as file:
            file.seek(start)
            tensor.raw_data = file.read(length)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def written_out(proto: Any) -> Any:
    """Return the file with its functions, its own and those of ONNX, in the operators that they are made of.

    Raises:
        BadInputError: there are operators that nobody knows; all are named.
    """
    import onnx
    from onnx import inliner

    _check_size(proto)
    onnx.checker.check_model(proto)
    proto = inliner.inline_local_functions(proto)
    for _ in range(8):  # a function may be made of others
        unknown = [node for node in proto.graph.node if _is_unknown(node)]
        named = sorted({(node.domain, node.op_type) for node in unknown if node.domain in OWN_DOMAINS})
        for node in unknown:
            _fill_in(node, proto)
        before = Counter(node.op_type for node in unknown)
        if not named:
            break
        proto = inliner.inline_selected_functions(proto, named, inline_schema_functions=True)
        if Counter(node.op_type for node in proto.graph.node if _is_unknown(node)) == before:
            break
    if unknown := [node for node in proto.graph.node if _is_unknown(node)]:
        said = ", ".join(
            f"{node.domain + '.' if node.domain else ''}{node.op_type} {name_of(node)!r}" for node in unknown
        )
        do = "Export the network without these, or give it as a .pt2 file or a factory."
        raise BadInputError("spec", "an .onnx file of operators that are read", said, do)
    return proto


def _fill_in(node: Any, proto: Any) -> None:
    """Say the attributes that a node leaves out: functions are written out with those that it says."""
    from onnx import defs

    opset = max(one.version for one in proto.opset_import if one.domain in OWN_DOMAINS)
    if node.domain in OWN_DOMAINS and defs.has(node.op_type, opset):
        said = {one.name for one in node.attribute}
        known = defs.get_schema(node.op_type, opset).attributes
        node.attribute.extend(
            one.default_value for name, one in known.items() if name not in said and one.default_value.name
        )


def _is_unknown(node: Any) -> bool:
    known = node.domain in OWN_DOMAINS and (node.op_type in TENSORS or node.op_type in RECURRENT)
    return not known and (node.domain, node.op_type) != ("", "Constant")


def name_of(node: Any) -> str:
    """Return what a node is called."""
    return node.name or next(iter(node.output), "")


def _check_size(proto: Any) -> None:
    """Functions that call one another in a circle, or double at each step, are not written out."""
    bodies = {(one.domain, one.name): one.node for one in proto.functions}
    sizes = dict[tuple[str, str], int]()

    def size_of(nodes: Any, above: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            called = (node.domain, node.op_type)
            if called in above or len(above) > 50:
                raise ValueError(f"function {node.op_type!r} calls itself")
            if called in bodies and called not in sizes:
                sizes[called] = size_of(bodies[called], (*above, called))
            total += sizes.get(called, 1)
        return total

    if (total := size_of(proto.graph.node, ())) > MOST_NODES:
        raise ValueError(f"{total:,} operators, more than {MOST_NODES:,}")
