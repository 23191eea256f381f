"""Open an .onnx file from a stranger: its operators become torch's, and the answers are compared before anything else.

The file is protobuf, which is data. It is read here alone: what stands in other files is taken from plain files of its
own folder, operators of nobody's are refused by name, and ONNX Runtime sees only what was looked through.
`docs/security.md` says what is promised.
"""

import inspect
import keyword
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.graph import CodeGen

from shrinknet.core.errors import BadInputError, first_line
from shrinknet.core.quiet import quiet
from shrinknet.graph.names import is_tensor_name
from shrinknet.graph.trace import export_program
from shrinknet.graph.widths import EXAMPLE_BATCH
from shrinknet.loading.onnx_operators import TENSORS, Known, Node, Value, run, tensor_of
from shrinknet.task.trees import Inputs, inputs_of, tensors_of

LARGEST_FILE = 2**31 - 1
"""Bytes of a file with all that stands beside it: what one message of protobuf can hold."""

MOST_NODES = 100_000
"""Operators of a network once its functions are written out."""

OPEN_SIZE = 32
"""What an axis other than the samples' is given in the example where the file leaves it open."""

OLDEST, OWN_DOMAINS = 7, {"", "ai.onnx"}

ROUNDING = 1e-4
"""By how much of the largest output torch and the file's runtime may differ; 100 times as much in half precision."""

RECURRENT = {"LSTM": ([0, 2, 3, 1], nn.LSTM), "GRU": ([1, 0, 2], nn.GRU), "RNN": ([0], nn.RNN)}
"""Torch's order of the gates by their places in ONNX's, and the layer."""

MOVING = {"Expand", "Identity", "Reshape", "Slice", "Transpose", "Unsqueeze", "Squeeze", "Gather", "Split", "Tile"}
"""Operators that give 0 where they are given 0."""

NUMBERS_AT = {"Resize": (1, 2, 3), "Upsample": (1,), "Clip": (1, 2), "Pad": (1, 2, 3), "Dropout": (1, 2)}
"""Inputs that are settings, not weights."""


def open_onnx(path: Path, example: Callable[[nn.Module], Any]) -> tuple[nn.Module, Inputs]:
    """Return the network in an .onnx file as a graph of torch's, with a free number of samples, and an example.

    Args:
        path: the file; tensors outside it lie in its own folder.
        example: what the user said of the input's shape, given the network.

    Raises:
        BadInputError: the extra is not installed, the file is damaged or unsafe, operators are unknown, or the network
            does not compute what the file's own runtime computes.

    Cost: the file four times in memory while it is opened, an export, and a few passes in each of both.
    """
    try:
        with quiet():
            import onnx  # noqa: F401
    except ImportError as error:
        do = "Run: pip install 'shrinknet[onnx-in]'."
        raise BadInputError("spec", "an .onnx file only where its extra is installed", repr(str(path)), do) from error
    try:
        with quiet():
            proto = _written_out(_looked_through(path))
            network = OnnxNetwork(proto)
    except BadInputError:
        raise
    except Exception as error:  # a damaged file shows itself in many types
        raise _refused(path, f"which cannot be read ({type(error).__name__}: {first_line(error)})") from error
    given = example(network)
    rows = inputs_of([given], {}) if isinstance(given, Tensor) else inputs_of(network.example(), {})
    try:
        model = _called_by_name(export_program(network, rows).module(check_guards=False), network.outputs)
    except BadInputError as error:
        raise _not_followed(path, error) from error
    _check_answers(path, proto, network, model, rows)
    return model, rows


def _called_by_name(model: nn.Module, outputs: list[str]) -> nn.Module:
    """The graph as a function whose arguments are the file's inputs, by place or by name."""
    assert isinstance(model, GraphModule)
    model._forward_pre_hooks.clear()  # the check that inputs stand in the example's form
    returned = model.graph.output_node()
    leaves = list(returned.args[0])  # type: ignore[arg-type]
    returned.args = (leaves[0] if len(leaves) == 1 else dict(zip(outputs, leaves, strict=True)),)
    model.graph.set_codegen(CodeGen())
    model.recompile()
    return model


def _refused(path: Path, why: str) -> BadInputError:
    return BadInputError("spec", "an .onnx file of a network", f"{str(path)!r}, {why}", "Export it again.")


class NodeError(Exception):
    """An operator of a file that cannot be run."""

    def __init__(self, node: Node, error: Exception) -> None:
        super().__init__(f"whose operator {node.kind} {node.name!r} cannot be run here ({first_line(error)})")


def _not_followed(path: Path, error: BadInputError) -> BadInputError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, NodeError):
        cause = cause.__cause__ or cause.__context__
    why = f"which torch cannot follow ({error.got})" if cause is None else str(cause)
    do = "Export it again with a free axis of samples, or say the shape of one sample: `example_input`."
    return BadInputError("spec", "an .onnx file for any number of samples", f"{str(path)!r}, {why}", do)


def _looked_through(path: Path) -> Any:
    """The file with every tensor in it, and nothing in it that is no network of known form."""
    import onnx

    if path.stat().st_size > LARGEST_FILE:
        raise _refused(path, f"which has more than {LARGEST_FILE:,} bytes")
    proto = onnx.load_model_from_string(path.read_bytes())
    _take_in(path, proto)
    opset = max((one.version for one in proto.opset_import if one.domain in OWN_DOMAINS), default=0)
    if not OLDEST <= opset <= onnx.defs.onnx_opset_version():
        read = f"{OLDEST} to {onnx.defs.onnx_opset_version()}"
        raise _refused(path, f"which speaks version {opset} of ONNX's operators, and {read} are read")
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
            raise _refused(path, f"whose tensor {tensor.name!r} stands in {where}")
        start, size = int(said.get("offset", 0)), place.stat().st_size
        length = int(said.get("length", size - start))
        left -= length
        if min(start, length, size - start - length, left) < 0:
            raise _refused(path, f"whose tensor {tensor.name!r} claims {length:,} bytes from {start:,} on of {size:,}")
        with place.open("rb") as file:
            file.seek(start)
            tensor.raw_data = file.read(length)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _written_out(proto: Any) -> Any:
    """The file with its functions, its own and those of ONNX, in the operators that they are made of.

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
            f"{node.domain + '.' if node.domain else ''}{node.op_type} {_name(node)!r}" for node in unknown
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


def _name(node: Any) -> str:
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


class OnnxNetwork(nn.Module):
    """The operators of a file, one after the other; float tensors of at least one axis are parameters.

    Attributes:
        rows: the number of samples that the file is written for; None where it leaves it open.
    """

    def __init__(self, proto: Any) -> None:
        super().__init__()
        from onnx import numpy_helper

        graph = proto.graph
        arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._shapes = [(one.name, one.type.tensor_type) for one in graph.input if one.name not in arrays]
        for node in graph.node:
            if node.op_type == "Constant":
                arrays[node.output[0]] = _constant(node)
            elif node.op_type == "ConstantOfShape" and node.input[0] in arrays:
                arrays[node.output[0]] = _filled(node, arrays[node.input[0]])
        self.outputs = [one.name for one in graph.output]
        self.rows = _rows(self._shapes)
        opset = max(one.version for one in proto.opset_import if one.domain in OWN_DOMAINS)
        nodes = [_node(one, opset, self.rows) for one in graph.node if one.output[0] not in arrays]
        self.nodes = list(_with_own_vectors(nodes, arrays))
        self._known = dict[str, Known]()
        self._names = dict[str, str]()
        self._layers = dict[str, nn.Module]()
        self._zero = _zeros(self.nodes, arrays)
        self._place(arrays)
        names = _arguments([name for name, _ in self._shapes])
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        signature = inspect.Signature(parameters)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._run(list(signature.bind(*args, **kwargs).arguments.values()))

        forward.__signature__ = signature  # type: ignore[attr-defined]  # names of arguments are read off it
        self.forward = forward

    @property
    def inputs(self) -> list[str]:
        """The names of the file's inputs."""
        return [name for name, _ in self._shapes]

    def example(self) -> list[Tensor]:
        """Return a few rows that differ, for each input; the same where asked again."""
        random = np.random.default_rng(0)
        count = EXAMPLE_BATCH if self.rows is None else EXAMPLE_BATCH * self.rows
        made = []
        for name, kind in self._shapes:
            axes = [one.dim_value or OPEN_SIZE for one in kind.shape.dim]
            if not kind.HasField("shape") or not axes:
                allowed = "an .onnx file whose inputs have an axis of samples"
                raise BadInputError("spec", allowed, f"one with an input {name!r} that has none", "Export it again.")
            made.append(_sample(random, (count, *axes[1:]), kind.elem_type))
        return made

    def _place(self, arrays: dict[str, Known]) -> None:
        """Put constants where they belong: parameters, buffers, recurrent layers, numbers that sizes are made of."""
        readers = [(node, place, name) for node in self.nodes for place, name in enumerate(node.inputs) if name]
        settings = {name for node, place, name in readers if place in NUMBERS_AT.get(node.kind, ())}
        settings -= {name for node, place, name in readers if place not in NUMBERS_AT.get(node.kind, ())}
        averages = {name for node, place, name in readers if node.kind == "BatchNormalization" and place > 2}
        states = {name for node, place, name in readers if node.kind in RECURRENT and place in (5, 6)}
        states -= {name for node, place, name in readers if node.kind not in RECURRENT}
        within = {name for node, place, name in readers if node.kind in RECURRENT and place in (1, 2, 3)}
        first = {name: node for node, _, name in reversed(readers)}
        for node in self.nodes:
            if node.kind in RECURRENT:
                path = self._free(node.path, "weight_ih_l0")
                self._layers[node.name] = _recurrent(node, [self._constant(name, arrays) for name in node.inputs])
                self.set_submodule(path, self._layers[node.name])
        for name, array in arrays.items():
            is_state = name in self._zero and name in states
            is_read = name in first and not is_state and not (name in within and first[name].kind in RECURRENT)
            if not is_read and name not in self.outputs:
                continue
            if array.dtype.kind != "f" or array.ndim == 0 or name in settings:
                self._known[name] = array
                continue
            tensor = torch.from_numpy(array.copy())
            path, leaf = self._home(name, first.get(name))
            owner = self._owner(path)
            if name in averages:
                owner.register_buffer(leaf, tensor)
            else:
                owner.register_parameter(leaf, nn.Parameter(tensor))
            self._names[name] = f"{path}.{leaf}" if path else leaf

    def _constant(self, name: str, arrays: dict[str, Known]) -> Any:
        """A constant, or what is computed of constants alone (the exporters turn recurrent weights round)."""
        if name in arrays or not name:
            return arrays.get(name)
        node = next((node for node in self.nodes if name in node.outputs), None)
        if node is None or node.kind in RECURRENT or node.kind == "Shape":
            return None
        inputs = [self._constant(one, arrays) for one in node.inputs]
        if any(one is None for one, given in zip(inputs, node.inputs, strict=True) if given):
            return None
        made = run(node, inputs)
        made = made[node.outputs.index(name)] if isinstance(made, tuple) else made
        return made.detach().numpy() if isinstance(made, Tensor) else made

    def _home(self, name: str, reader: Node | None) -> tuple[str, str]:
        """The module and the name of a parameter: its own in the file, else its reader's."""
        path, _, leaf = name.rpartition(".")
        taken = set(self._names.values())
        if path and is_tensor_name(name) and "::" not in name and name not in taken:
            return path, leaf
        place = reader.inputs.index(name) if reader is not None else 0
        leaf = ("weight", "bias", "running_mean", "running_var")[max(place - 1, 0)] if place < 5 else "weight"
        return self._free((reader.path if reader is not None else "layer"), leaf), leaf

    def _free(self, path: str, leaf: str) -> str:
        """A path at which there is no such tensor yet, and no tensor on the way."""
        taken, tried, number = dict(self.named_parameters()) | dict(self.named_buffers()), path, 1
        while f"{tried}.{leaf}" in taken or not is_tensor_name(f"{tried}.{leaf}") or self._is_taken(tried, taken):
            number += 1
            tried = f"{path if is_tensor_name(path + '.x') else 'layer'}_{number}"
        return tried

    def _is_taken(self, path: str, taken: dict[str, Tensor]) -> bool:
        parts = path.split(".")
        return any(".".join(parts[: end + 1]) in taken for end in range(len(parts)))

    def _owner(self, path: str) -> nn.Module:
        owner: nn.Module = self
        for part in path.split(".") if path else ():
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        return owner

    def _run(self, given: Sequence[Tensor]) -> Any:
        tensors = dict(self.named_parameters(remove_duplicate=False)) | dict(self.named_buffers())
        values: dict[str, Value] = {"": None, **self._known}
        values |= {name: tensors[path] for name, path in self._names.items()}
        values |= dict(zip(self.inputs, given, strict=True))
        for node in self.nodes:
            if node.kind not in RECURRENT and any(name not in values for name in node.inputs):
                continue  # made of a recurrent layer's weights, which stand in the layer
            try:
                made = self._made(node, [values.get(name) for name in node.inputs])
            except Exception as error:
                raise NodeError(node, error) from error
            made = made if isinstance(made, tuple) else (made,)
            values |= dict(zip(node.outputs, made, strict=False))
        answers = [tensor_of(values[name]) for name in self.outputs]
        return answers[0] if len(answers) == 1 else dict(zip(self.outputs, answers, strict=True))

    def _made(self, node: Node, inputs: list[Value]) -> Any:
        return self._recur(node, inputs) if node.kind in RECURRENT else run(node, inputs)

    def _recur(self, node: Node, inputs: list[Value]) -> tuple[Any, ...]:
        """Outputs [steps, directions, rows, width] as ONNX has them, and the last states."""
        layer: Any = self._layers[node.name]
        x = inputs[0]
        assert isinstance(x, Tensor)
        states = [
            None if name in self._zero else tensor_of(state).expand(-1, x.shape[1], -1)
            for name, state in zip(node.inputs[5:7], inputs[5:7], strict=True)
        ]
        given = [state for state in states if state is not None]
        x = x.flip(0) if node.get("direction") == "reverse" else x
        out, last = layer(x, None if not given else tuple(given) if node.kind == "LSTM" else given[0])
        out = out.reshape(*out.shape[:2], 1 + int(layer.bidirectional), layer.hidden_size).transpose(1, 2)
        out = out.flip(0) if node.get("direction") == "reverse" else out
        return (out, *last) if node.kind == "LSTM" else (out, last)


def _with_own_vectors(nodes: list[Node], arrays: dict[str, Known]) -> Iterator[Node]:
    """Give each operator a vector of its own: exporters write equal ones once, and their neurons would be tied."""
    seen = set[str]()
    for node in nodes:
        inputs = list(node.inputs)
        for place, name in enumerate(node.inputs):
            array = arrays.get(name)
            if array is None or array.dtype.kind != "f" or array.ndim == 0 or array.size > max(array.shape):
                continue
            if name in seen:
                inputs[place] = f"{name}/{node.outputs[0]}/{place}"
                arrays[inputs[place]] = array
            seen.add(name)
        yield replace(node, inputs=tuple(inputs))


def _zeros(nodes: list[Node], arrays: dict[str, Known]) -> set[str]:
    """The values that are 0 whatever comes: recurrent layers that begin with one of them do not share a state."""
    found = {"", *(name for name, array in arrays.items() if not array.any())}
    for node in nodes:
        is_zero = node.kind in MOVING and bool(node.inputs) and node.inputs[0] in found
        if is_zero or (node.kind == "ConstantOfShape" and not np.any(node.get("value", 0))):
            found |= set(node.outputs)
    return found


def _node(one: Any, opset: int, rows: int | None) -> Node:
    attributes = {attribute.name: _attribute(attribute) for attribute in one.attribute}
    inputs, outputs = tuple(one.input), tuple(one.output)
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    return Node(one.op_type, _name(one), _path(one), inputs, outputs, attributes, opset, rows)


def _attribute(attribute: Any) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        if value.data_location == TensorProto.EXTERNAL:
            raise ValueError(f"attribute {attribute.name!r} stands in another file")
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if attribute.type in (attribute.INTS, attribute.FLOATS) else value


def _constant(node: Any) -> Known:
    name, value = next((one.name, _attribute(one)) for one in node.attribute)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if name not in {"value", *kinds}:
        raise ValueError(f"a constant of a kind that is not read ({name})")
    return value if name == "value" else np.array(value, kinds[name])


def _filled(node: Any, shape: Known) -> Known:
    """A constant that is one number over and over: the size of the largest file, and no larger."""
    value = next((_attribute(one) for one in node.attribute), np.zeros(1, np.float32))
    if math.prod(shape.tolist()) * value.itemsize > LARGEST_FILE:
        raise ValueError(f"a constant of shape {shape.tolist()}")
    return np.full(shape.tolist(), value.item(), value.dtype)


def _rows(shapes: list[tuple[str, Any]]) -> int | None:
    firsts = [kind.shape.dim[0].dim_value for _, kind in shapes if kind.shape.dim]
    return max(firsts, default=0) or None


def _arguments(names: list[str]) -> list[str]:
    """Names of the file as names of arguments: what Python does not take is an underscore."""
    made = list[str]()
    for number, name in enumerate(names):
        word = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_")
        is_word = word.isidentifier() and not keyword.iskeyword(word) and word not in made
        made.append(word if is_word else f"argument_{number}")
    return made


def _sample(random: np.random.Generator, shape: tuple[int, ...], kind: int) -> Tensor:
    from shrinknet.loading.onnx_operators import TYPES

    if kind not in TYPES:
        raise ValueError(f"an input of type {kind}")
    if TYPES[kind].is_floating_point:
        return torch.from_numpy(random.standard_normal(shape)).to(TYPES[kind])
    return torch.from_numpy(random.integers(0, 2, shape)).to(TYPES[kind])


def _path(node: Any) -> str:
    """The module of torch's that a node comes from, as its exporters say it; else the node's name."""
    scopes = [one.value for one in node.metadata_props if one.key == "pkg.torch.onnx.name_scopes"]
    above = re.findall(r"'([^']*)'", scopes[0])[:-1] if scopes else []
    if above and is_tensor_name(f"{above[-1]}.weight"):
        return str(above[-1])
    return _as_path(_name(node))


def _as_path(name: str) -> str:
    """A name as a path of modules, without the operator at its end and what is said twice.

    >>> _as_path("/encoder/encoder.0/fc/MatMul"), _as_path("Conv_7"), _as_path("/fc/Gemm")
    ('encoder.0.fc', 'Conv_7', 'fc')
    """
    parts = [re.sub(r"[^0-9A-Za-z_.\-]", "_", part).strip(".") for part in name.split("/") if part]
    parts = parts[:-1] if len(parts) > 1 else parts
    kept = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{part}.")]
    return ".".join(kept) or "layer"


def _recurrent(node: Node, constants: list[Any]) -> nn.Module:
    """A recurrent layer of torch's with the weights of the file, whose gates stand in another order.

    Raises:
        NotImplementedError: it does what torch's does not.
    """
    order, layer = RECURRENT[node.kind]
    odd = {"clip", "input_forget", "layout", "activation_alpha", "activation_beta"} & {
        name for name, value in node.attributes.items() if value
    }
    usual = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[node.kind]
    activations = node.get("activations") or usual
    activations = [one.decode() if isinstance(one, bytes) else one for one in activations]
    directions = 2 if node.get("direction") == "bidirectional" else 1
    if node.kind == "RNN" and activations == ["Relu"] * directions:
        usual = ["Relu"]
    if activations not in (usual, usual * directions):
        odd.add("activations")
    if node.kind == "GRU" and not node.get("linear_before_reset", 0):
        odd.add("linear_before_reset=0")
    if len(node.inputs) > 4 and node.inputs[4]:
        odd.add("sequence_lens")
    if len(node.inputs) > 7:
        odd.add("peepholes")
    weights = constants[1:4]
    if odd or any(one is None for one in weights[:2]):
        got = ", ".join(sorted(odd)) or "weights that the inputs decide"
        allowed = "an .onnx file of recurrent layers as torch has them"
        raise BadInputError("spec", allowed, f"{node.kind} {node.name!r} with {got}", "Export it without.")
    biases = weights[2] if len(weights) > 2 else None
    width = weights[1].shape[-1]
    more = {"nonlinearity": "relu"} if usual == ["Relu"] else {}
    made: Any = layer(weights[0].shape[-1], width, bias=biases is not None, bidirectional=directions == 2, **more)

    def turned(array: Known) -> Tensor:
        return torch.from_numpy(array.reshape(len(order), width, *array.shape[1:])[order].reshape(array.shape).copy())

    for direction, ending in enumerate(("_l0", "_l0_reverse")[:directions]):
        for name, array in _parts(weights[0][direction], weights[1][direction], biases, direction):
            getattr(made, name + ending).data = turned(array)
    layer_made: nn.Module = made.eval()
    return layer_made


def _parts(own: Known, back: Known, biases: Known | None, direction: int) -> Iterator[tuple[str, Known]]:
    yield "weight_ih", own
    yield "weight_hh", back
    if biases is not None:
        yield from zip(("bias_ih", "bias_hh"), np.split(biases[direction], 2), strict=True)


def _check_answers(path: Path, proto: Any, network: OnnxNetwork, model: nn.Module, rows: Inputs) -> None:
    """Compare with the file's own runtime, on rows that differ.

    Raises:
        BadInputError: the answers differ by more than `ROUNDING` of the largest.
    """
    given = tensors_of(rows)
    with torch.no_grad():
        made = [one.detach().numpy() for one in tensors_of(model(*given))]
    try:
        with quiet():
            answers = _answers(proto, network, [one.numpy() for one in given])
    except Exception as error:
        raise _refused(path, f"which its own runtime does not run ({first_line(error)})") from error
    for name, own, other in zip(network.outputs, answers, made, strict=True):
        allowed = (100 if own.dtype == np.float16 else 1) * ROUNDING * max(1.0, float(np.abs(own).max(initial=0)))
        worst = float(np.abs(own.astype(np.float64) - other).max(initial=0)) if own.shape == other.shape else np.inf
        if not worst <= allowed:
            must = "an .onnx file whose rows are answered one by one, as its own runtime does"
            shapes = f"shape {list(own.shape)}, here {list(other.shape)}"
            got = f"an output {name!r} of {str(path)!r} that differs by {worst:.2g} ({shapes})"
            raise BadInputError("spec", must, got, "Export it again with a free axis of samples.")


def _answers(proto: Any, network: OnnxNetwork, given: list[Known]) -> list[Known]:
    """What the file's own runtime answers: for as many rows at once as the file is written for."""
    answer = _runtime(proto)
    count, step = len(given[0]), network.rows or len(given[0])
    parts = [
        answer({name: one[start : start + step] for name, one in zip(network.inputs, given, strict=True)})
        for start in range(0, count, step)
    ]
    return [np.concatenate(ones) for ones in zip(*parts, strict=True)]


def _runtime(proto: Any) -> Callable[[dict[str, Known]], list[Known]]:
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(proto)
        return lambda given: list(evaluator.run(None, given))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda given: list(session.run(None, given))
