"""ONNX: `.onnx` files, made by torch's exporter and run by ONNX Runtime."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from shrinknet.core.quiet import quiet
from shrinknet.export.base import Built, Exporter
from shrinknet.export.inference import Answer, InferenceGraph, by_torch, given_back, in_rows
from shrinknet.graph.call import DECOMPOSED
from shrinknet.graph.free import free_sizes, steps_left_open
from shrinknet.graph.operators import operator_name
from shrinknet.graph.rules.recurrent import projects
from shrinknet.surgery.remove import cut_copy
from shrinknet.task.trees import AnyInputs, Inputs

OPSET = 18


class Onnx(Exporter):
    """An `.onnx` file with a free batch size, opset 18."""

    name = "onnx"
    suffix = ".onnx"
    extra = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    leaves_free = True

    def build(self, network: InferenceGraph, inputs: Inputs, calibration: Sequence[Inputs], quantize: str) -> Built:
        """Export by torch's own exporter; weights stand in the file."""
        rows = in_rows(inputs)
        module = _in_pieces(network.flat)
        sizes = free_sizes(module, rows, network.trace.free)
        self._check_steps(network)
        try:
            with quiet(), steps_left_open(network.trace.free):
                program = torch.export.export(module, rows, dynamic_shapes=sizes)
                made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, external_data=False, verbose=False)
                assert made is not None
                if not network.is_lone:
                    _name(made.model.graph, network.inputs, network.outputs)
                content = made.model_proto.SerializeToString()
        except Exception as error:  # the exporter raises dozens of types, its internal ones among them
            raise self.refused(*_cause(error)) from error
        return Built(content, by_torch(network.module))

    def _check_steps(self, network: InferenceGraph) -> None:
        """Torch's exporter has a form of LSTM and GRU for any number of steps, none of plain layers and projections."""
        for node in network.module.graph.nodes if network.trace.free else ():
            if operator_name(node).startswith("rnn_") or projects(node):
                said = NotImplementedError("torch's exporter writes each step down")
                raise self.refused(f"{node.target} over a free number of steps", said)

    def answer(self, content: bytes) -> Answer:
        """Open the file by ONNX Runtime, on the CPU."""
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]

        def answer(inputs: AnyInputs) -> Tensor | tuple[Tensor, ...]:
            given = {name: one.numpy() for name, one in zip(names, in_rows(inputs), strict=True)}
            return given_back(map(torch.from_numpy, session.run(None, given)))

        return answer


ATTENTION, HEADS_RANK = "scaled_dot_product_attention", 4
"""Torch's exporter knows attention of values [rows, heads, places, width] alone."""


def _in_pieces(module: GraphModule) -> GraphModule:
    """Return a graph, or a copy in which what torch's exporter has no form of is written in smaller operators."""
    if not any(map(_pieces, module.graph.nodes)):
        return module
    copy = cut_copy(module, {})
    for node in copy.graph.nodes:
        node.target = _pieces(node) or node.target
    copy.recompile()
    return copy


def _pieces(node: Node) -> Callable[..., Any] | None:
    """Attention of another rank as products and a softmax, an LSTM with a projection step by step."""
    if projects(node):
        return DECOMPOSED["lstm"]
    is_attention = node.op == "call_function" and operator_name(node) == ATTENTION
    is_odd = is_attention and node.args[0].meta["val"].dim() != HEADS_RANK  # type: ignore[union-attr]
    return DECOMPOSED[ATTENTION] if is_odd else None


TRANSLATED = re.compile(r"target=torch\.ops\.([\w.]+)")
"""How torch's exporter names an operator that it could not translate."""


def _cause(error: Exception) -> tuple[str, Exception]:
    """Where an export failed, and the error that began it: the exporter's own says what to do for its authors."""
    where = "this network"
    while True:
        if found := TRANSLATED.search(str(error)):
            where = f"the operator {found[1]}"
        if not isinstance(error.__cause__, Exception):
            return where, error
        error = error.__cause__


def _name(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Call the inputs and outputs of an ONNX graph so; values within it that have such a name get another."""
    for node in graph:
        for value in node.outputs:
            value.name = f"{value.name}_within" if value.name in (*inputs, *outputs) else value.name
    for value, name in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
        value.name = name
