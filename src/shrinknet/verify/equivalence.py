"""Is the cut network the masked network? Measured on real inputs, and node by node where it is not."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule

from shrinknet.data import Data
from shrinknet.gates import GatedNetwork, Program, tolerance
from shrinknet.graph.operators import describe
from shrinknet.graph.trace import Trace
from shrinknet.records import Difference, Verification

NUM_FLOAT64_SAMPLES = 256


def verify(network: GatedNetwork, cut: GraphModule, data: Data) -> Verification:
    """Compare the masked network with the cut graph on a role's data, in its own precision and in float64.

    The worst absolute difference over all outputs must lie within `1000 * eps * max(1, largest |output|)`, and every
    node's real shape in the cut graph must be the one that the labels predict. It fails closed: where either does
    not hold, `broke_at` names the first operator that differs.

    Cost: two passes over the data, and two over its first 256 rows in float64.
    """
    rows = next(data.batches()).inputs[:NUM_FLOAT64_SAMPLES]
    num_shapes, broke_at = check_nodes(network, cut, rows[:2])
    if broke_at is not None:
        return Verification((), num_shapes, broke_at)
    own = cut_program(network.trace, cut, None)
    differences = [compare(network, own.outputs, (batch.inputs for batch in data.batches()))]
    notes: tuple[str, ...] = ()
    if network.program.dtype != torch.float64 and rows.is_floating_point():
        in_double = cut_program(network.trace, cut, torch.float64)
        try:
            differences.append(compare(network, in_double.outputs, [rows.double()], torch.float64))
        except RuntimeError as error:
            notes = (f"not compared in float64: the network fixes its own precision ({str(error).splitlines()[0]})",)
    held = all(difference.holds for difference in differences)
    return Verification(tuple(differences), num_shapes, None if held else "the outputs", notes)


def compare(
    network: GatedNetwork,
    answer: Callable[[Tensor], Tensor],
    inputs: Iterable[Tensor],
    dtype: torch.dtype | None = None,
) -> Difference:
    """Return the worst difference between the masked network and another answer to the same inputs.

    Args:
        network: the masked network, computed in `dtype` (None: its own precision).
        answer: the other network: what it gives for some rows.
        inputs: batches of rows, in that precision.
        dtype: float64, or None.
    """
    masked = network if dtype is None else replace(network, program=Program(network.trace, dtype))
    precision = masked.program.dtype
    worst = largest = torch.zeros((), dtype=torch.float64)
    num_samples = 0
    with torch.no_grad():
        for rows in inputs:
            expected, given = masked.outputs(rows).double().cpu(), answer(rows).double().cpu()
            gap = (given - expected).abs() if given.shape == expected.shape else torch.tensor(torch.inf)
            worst, largest = torch.maximum(worst, gap.max()), torch.maximum(largest, expected.abs().max())
            num_samples += len(rows)
    name = str(precision).removeprefix("torch.")
    return Difference(name, float(worst), tolerance(precision, float(largest)), num_samples)


def check_nodes(network: GatedNetwork, cut: GraphModule, rows: Tensor) -> tuple[int, str | None]:
    """Run both networks node by node: real shapes against predicted ones, kept values against masked ones.

    Returns:
        How many shapes were checked, and the first operator that differs (None when none does).
    """
    smaller = cut_program(network.trace, cut, None)
    values = network.program.run(rows, network.gating(), keep=True)
    cut_values = dict(smaller.constants) | {smaller.input: rows}
    checked = 0
    for node, cut_node in zip(network.program.nodes, smaller.nodes, strict=True):
        try:
            cut_values[cut_node] = smaller.call(cut_node, cut_values, None)
        except (RuntimeError, IndexError, ValueError) as error:
            return checked, f"{describe(node)}: {str(error).splitlines()[0]}"
        value, cut_value = values[node], cut_values[cut_node]
        if not isinstance(value, Tensor):
            continue
        predicted = network.trace.shape(node, network.present, len(rows))
        if tuple(cut_value.shape) != predicted:
            return checked, f"{describe(node)}: shape {list(cut_value.shape)}, expected {list(predicted)}"
        if not _close(_kept(value, network, node.name), cut_value):
            return checked, f"{describe(node)}: other values than in the masked network"
        checked += 1
    return checked, None


def cut_program(trace: Trace, cut: GraphModule, dtype: torch.dtype | None) -> Program:
    """Return the cut graph ready to run; it has no gates."""
    return Program(replace(trace, module=cut, sites=()), dtype)


def _kept(value: Tensor, network: GatedNetwork, name: str) -> Tensor:
    """The part of a masked value that the cut network still has."""
    for axis, ids in enumerate(network.trace.layouts.get(name, ())):
        if ids is not None:
            keep = torch.from_numpy(network.present[ids].nonzero()[0]).to(value.device)
            value = value.index_select(axis, keep)
    return value


def _close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    allowed = tolerance(one.dtype, float(one.abs().max()) if one.numel() else 0.0)
    return bool(((one - other).abs() <= allowed).all())
