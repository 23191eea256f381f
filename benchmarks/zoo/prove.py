"""The proof for one architecture: remove 30 % of every group, three times, and compare masked with cut."""

import statistics
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from architectures import Architecture
from torch import nn

from shrinknet.core.errors import ShrinknetError
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import Program
from shrinknet.export.weights import safetensors_bytes
from shrinknet.graph.operators import operator_name
from shrinknet.graph.trace import Trace, export_program, named_tensors, trace
from shrinknet.measure.costs import costs, reach
from shrinknet.surgery.proof import gap, largest_of, verify_on
from shrinknet.surgery.remove import cut_graph
from shrinknet.task.losses import find_loss
from shrinknet.task.trees import tensors_of

NUM_CHOICES, SHARE, LARGEST_DIFFERENCE = 3, 0.3, 1e-9


@dataclass(frozen=True)
class Row:
    """What is known about one architecture. `worst` is relative to max(1, largest output), in float64."""

    source: str
    name: str
    kind: str
    num_parameters: int
    is_proven: bool
    reason: str
    groups: int
    neurons: int
    reachable_parameters: float
    reachable_macs: float
    removed_parameters: float
    worst: float
    export_seconds: float
    trace_seconds: float
    cut_seconds: float

    def as_json(self) -> dict[str, object]:
        """Return the row as plain values."""
        return asdict(self)


def prove(architecture: Architecture, seed: int = 0) -> Row:
    """Trace an architecture, cut 30 % of each group three times at random, and measure.

    Proven means: the traced graph gives the model's own outputs; masked equals cut to 1e-9 in float64, every node of
    the cut graph has the predicted shape and values, and the cut weights file has exactly the bytes announced, all
    three times.
    """
    model, inputs = architecture.build(seed)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    row = Row(architecture.source, architecture.name, "", num_parameters, False, "", 0, 0, 0, 0, 0, 0, 0, 0, 0)
    try:
        started = time.perf_counter()
        export_program(model, inputs)
        exported = time.perf_counter()
        traced = trace(model, inputs)
        ended = time.perf_counter()
    except ShrinknetError as error:
        return replace(row, reason=str(error))
    reachable = reach(traced)
    row = replace(
        row, kind=kind_of(traced), groups=len(traced.groups), neurons=traced.num_neurons,
        reachable_parameters=reachable.num_parameters, reachable_macs=reachable.macs,
        export_seconds=exported - started, trace_seconds=ended - exported,
    )  # fmt: skip
    network = GatedNetwork(Program(traced), find_loss("squared-error"), traced.present())
    if (problem := _differs_from_own(model, network, inputs)) or not traced.groups:
        return replace(row, reason=problem or "every neuron is frozen")
    return _proven(row, network, inputs, seed)


def _differs_from_own(model: nn.Module, network: GatedNetwork, inputs: tuple[torch.Tensor, ...]) -> str:
    with torch.no_grad():
        own, ours = tensors_of(model(*inputs)), tensors_of(network.outputs(inputs))
    far = [float(gap(one, other)) / max(1.0, largest_of(one)) for one, other in zip(own, ours, strict=True)]
    return "" if max(far) < 1e-4 else f"the traced graph differs from the model by {max(far):.1e}"


def _proven(row: Row, network: GatedNetwork, inputs: tuple[torch.Tensor, ...], seed: int) -> Row:
    traced, rng = network.trace, np.random.default_rng(seed)
    worst, seconds, removed = 0.0, [], 0.0
    for _ in range(NUM_CHOICES):
        present = chosen(traced, rng)
        started = time.perf_counter()
        cut = cut_graph(traced, present)
        seconds.append(time.perf_counter() - started)
        verification = verify_on(replace(network, present=present), cut, lambda: [inputs])
        announced = costs(traced, present)
        if verification.broke_at is not None:
            return replace(row, reason=f"differs at {verification.broke_at}")
        if len(safetensors_bytes(named_tensors(cut))) != announced.flash_bytes:
            return replace(row, reason="the weights file has other bytes than announced")
        doubles = [difference for difference in verification.differences if difference.precision == "float64"]
        if not doubles:
            return replace(row, reason="; ".join(verification.notes) or "not compared in float64")
        scale = 1 / (1000 * torch.finfo(torch.float64).eps)  # a tolerance is 1000 eps max(1, largest output)
        worst = max([worst, *(difference.worst / (difference.tolerance * scale) for difference in doubles)])
        removed = 1 - announced.num_parameters / costs(traced, traced.present()).num_parameters
    return replace(
        row, is_proven=worst <= LARGEST_DIFFERENCE, reason="" if worst <= LARGEST_DIFFERENCE else "differs",
        worst=worst, removed_parameters=removed, cut_seconds=statistics.median(seconds),
    )  # fmt: skip


def chosen(traced: Trace, rng: np.random.Generator) -> np.ndarray:
    """Return who is present once 30 % of each group (at least one, never all) are gone."""
    present = traced.present()
    for group in traced.groups:
        ids = traced.ids_of(group)
        count = min(group.width - 1, max(1, int(SHARE * group.width)))
        present[rng.choice(np.arange(ids.start, ids.stop), count, replace=False)] = False
    return present


def kind_of(traced: Trace) -> str:
    """Return what a network is made of: transformer (attention), recurrent, convolutional, or dense."""
    names = {operator_name(node) for node in traced.nodes if node.op == "call_function"}
    if names & {"scaled_dot_product_attention", "softmax"} and names & {
        "scaled_dot_product_attention",
        "matmul",
        "bmm",
    }:
        return "transformer"
    if names & {"lstm", "gru", "rnn_tanh", "rnn_relu"}:
        return "recurrent"
    return "convolutional" if any(name.startswith("conv") for name in names) else "dense"
