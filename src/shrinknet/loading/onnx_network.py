"""The operators of an .onnx file as a module that torch can run, and trace."""

import inspect
import keyword
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shrinknet.core.errors import BadInputError, first_line
from shrinknet.graph.names import is_tensor_name
from shrinknet.graph.widths import EXAMPLE_BATCH
from shrinknet.loading.onnx_file import LARGEST_FILE, OWN_DOMAINS, name_of
from shrinknet.loading.onnx_recurrent import RECURRENT, recurrent
from shrinknet.loading.onnx_sizes import run
from shrinknet.loading.onnx_values import TYPES, Known, Node, Value, tensor_of

OPEN_SIZE = 32
"""What an axis other than the samples' is given in the example where the file leaves it open."""


MOVING = {"Expand", "Identity", "Reshape", "Slice", "Transpose", "Unsqueeze", "Squeeze", "Gather", "Split", "Tile"}
"""Operators that give 0 where they are given 0."""


NUMBERS_AT = {"Resize": (1, 2, 3), "Upsample": (1,), "Clip": (1, 2), "Pad": (1, 2, 3), "Dropout": (1, 2)}
"""Inputs that are settings, not weights."""


class NodeError(Exception):
    """An operator of a file that cannot be run."""

    def __init__(self, node: Node, error: Exception) -> None:
        super().__init__(f"whose operator {node.kind} {node.name!r} cannot be run here ({first_line(error)})")


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
                self._layers[node.name] = recurrent(node, [self._constant(name, arrays) for name in node.inputs])
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
        states = zip(node.inputs[5:7], inputs[5:7], strict=True)
        given = [tensor_of(state).expand(-1, x.shape[1], -1) for name, state in states if name not in self._zero]
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
    return Node(one.op_type, name_of(one), _path(one), inputs, outputs, attributes, opset, rows)


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
    return _as_path(name_of(node))


def _as_path(name: str) -> str:
    """A name as a path of modules, without the operator at its end and what is said twice.

    >>> _as_path("/encoder/encoder.0/fc/MatMul"), _as_path("Conv_7"), _as_path("/fc/Gemm")
    ('encoder.0.fc', 'Conv_7', 'fc')
    """
    parts = [re.sub(r"[^0-9A-Za-z_.\-]", "_", part).strip(".") for part in name.split("/") if part]
    parts = parts[:-1] if len(parts) > 1 else parts
    kept = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{part}.")]
    return ".".join(kept) or "layer"
