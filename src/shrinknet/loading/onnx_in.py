"""Open an .onnx file from a stranger: its operators become torch's, and the answers are compared before anything else.

The file is protobuf, which is data. It is read here alone: what stands in other files is taken from plain files of its
own folder, operators of nobody's are refused by name, and ONNX Runtime sees only what was looked through.
`docs/security.md` says what is promised.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.graph import CodeGen

from shrinknet.core.errors import BadInputError, first_line
from shrinknet.core.quiet import quiet
from shrinknet.graph.trace import export_program
from shrinknet.loading.onnx_file import looked_through, refused, written_out
from shrinknet.loading.onnx_network import NodeError, OnnxNetwork
from shrinknet.loading.onnx_values import Known
from shrinknet.task.trees import Inputs, inputs_of, tensors_of

ROUNDING = 1e-4
"""By how much of the largest output torch and the file's runtime may differ; 100 times as much in half precision."""


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
            proto = written_out(looked_through(path))
            network = OnnxNetwork(proto)
    except BadInputError:
        raise
    except Exception as error:  # a damaged file shows itself in many types
        raise refused(path, f"which cannot be read ({type(error).__name__}: {first_line(error)})") from error
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


def _not_followed(path: Path, error: BadInputError) -> BadInputError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, NodeError):
        cause = cause.__cause__ or cause.__context__
    why = f"which torch cannot follow ({error.got})" if cause is None else str(cause)
    do = "Export it again with a free axis of samples, or say the shape of one sample: `example_input`."
    return BadInputError("spec", "an .onnx file for any number of samples", f"{str(path)!r}, {why}", do)


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
        raise refused(path, f"which its own runtime does not run ({first_line(error)})") from error
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
