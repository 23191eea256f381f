"""Is the cut network the masked network? Measured on real inputs, and node by node where it is not."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from shrinknet.core.records import Difference, Verification
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import Program
from shrinknet.graph.operators import describe
from shrinknet.graph.trace import Trace
from shrinknet.graph.widths import EXAMPLE_BATCH
from shrinknet.task.data import Data
from shrinknet.task.trees import AnyInputs, num_rows, of_each, tensors_of, tolerance

NUM_FLOAT64_SAMPLES = 256


def verify(network: GatedNetwork, cut: GraphModule, data: Data) -> Verification:
    """Compare the masked network with the cut graph on a role's data, in its own precision and in float64.

    The worst absolute difference over all outputs must lie within `1000 * eps * max(1, largest |output|)`, and every
    node's real shape in the cut graph must be the one that the labels predict. It fails closed: where either does
    not hold, `broke_at` names the first operator that differs. Where sizes are free, the first batch is compared at
    others, too.

    Cost: two passes over the data, and two over its first 256 rows in float64.
    """

    def batches() -> Iterator[AnyInputs]:
        yield from (batch.inputs for batch in data.batches())
        yield from network.trace.other_sizes(next(data.batches()).inputs)

    return verify_on(network, cut, batches)


def verify_on(network: GatedNetwork, cut: GraphModule, batches: Callable[[], Iterable[AnyInputs]]) -> Verification:
    """Compare the masked network with the cut graph on batches of inputs; see `verify`."""
    rows = of_each(next(iter(batches())), lambda tensor: tensor[:NUM_FLOAT64_SAMPLES])
    double, notes = _in_double(network, rows)
    finest, given = (network, rows) if double is None else (double, _doubled(rows))
    few = network.trace.at_example_sizes(of_each(given, lambda tensor: tensor[:EXAMPLE_BATCH]))
    num_shapes, broke_at = check_nodes(finest, cut, few)
    if broke_at is not None:
        return Verification((), num_shapes, broke_at, notes)
    differences = compare(network, cut_program(network.trace, cut, None).outputs, batches())
    if double is not None:
        differences += compare(double, cut_program(network.trace, cut, torch.float64).outputs, [given])
    held = all(difference.holds for difference in differences)
    return Verification(differences, num_shapes, None if held else "the outputs", notes)


def _in_double(network: GatedNetwork, rows: AnyInputs) -> tuple[GatedNetwork | None, tuple[str, ...]]:
    """Return the network in float64 (None where it is so already, or fixes its own precision), and what to note."""
    if network.program.precision == torch.float64:
        return None, ()
    double = GatedNetwork(
        Program(network.trace, torch.float64, tensors=network.program.tensors), network.loss, network.present
    )
    try:
        with torch.no_grad():
            double.outputs(of_each(_doubled(rows), lambda tensor: tensor[:EXAMPLE_BATCH]))
    except RuntimeError as error:
        return None, (f"not compared in float64: the network fixes its own precision ({str(error).splitlines()[0]})",)
    return double, ()


def _doubled(rows: AnyInputs) -> AnyInputs:
    doubled: AnyInputs = of_each(rows, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    return doubled


def compare(
    network: GatedNetwork, answer: Callable[[AnyInputs], Any], inputs: Iterable[AnyInputs]
) -> tuple[Difference, ...]:
    """Return the worst difference between the masked network and another answer to the same inputs, for each output.

    Args:
        network: the masked network, in whatever precision its program has.
        answer: the other network: what it gives for some rows.
        inputs: batches of rows, in that precision.
    """
    precision = network.program.precision
    num_outputs, num_samples = len(network.program.outputs_of), 0
    worst, largest = torch.zeros(2, num_outputs, dtype=torch.float64)
    with torch.no_grad():
        for rows in inputs:
            pairs = zip(tensors_of(network.outputs(rows)), tensors_of(answer(rows)), strict=True)
            for place, (expected, given) in enumerate(pairs):
                worst[place] = torch.maximum(worst[place], gap(expected, given))
                largest[place] = max(float(largest[place]), largest_of(expected))
            num_samples += num_rows(rows)
    name = str(precision).removeprefix("torch.")
    names = ["output"] if num_outputs == 1 else [f"output {place}" for place in range(num_outputs)]
    return tuple(
        Difference(name, float(far), tolerance(precision, float(size)), num_samples, output)
        for output, far, size in zip(names, worst, largest, strict=True)
    )


def gap(expected: Tensor, given: Tensor) -> Tensor:
    """Return the worst absolute difference, infinite where shapes differ (NaN where a value is)."""
    if given.shape != expected.shape:
        return torch.tensor(torch.inf, dtype=torch.float64)
    return difference(expected, given).max().cpu()


def difference(expected: Tensor, given: Tensor) -> Tensor:
    """Return absolute differences; two infinities of one sign do not differ."""
    return torch.where(given == expected, 0.0, (given.double() - expected.double()).abs())


def largest_of(values: Tensor) -> float:
    """Return the largest finite absolute value."""
    numbers = values.byte() if values.dtype == torch.bool else values
    finite = numbers[numbers.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


@torch.no_grad()
def check_nodes(network: GatedNetwork, cut: GraphModule, rows: AnyInputs) -> tuple[int, str | None]:
    """Run both networks side by side: real shapes against predicted ones, kept values against masked ones.

    Returns:
        How many shapes were checked, and the first operator that differs (None when none does).
    """
    whole, smaller = network.program, cut_program(network.trace, cut, network.program.asked_dtype)
    values, cut_values = whole.given_values(rows), smaller.given_values(rows)
    counterpart = {node.name: node for node in smaller.nodes}
    of_cut = {counterpart[node.name]: node for node in whole.nodes}
    checked = 0
    for cut_node in smaller.nodes:  # where samples are mixed with neurons, it counts them in nodes of its own
        node = of_cut.get(cut_node, cut_node)
        if node is not cut_node:
            values[node] = whole.call(node, values, network.gating())
        try:
            cut_values[cut_node] = smaller.call(cut_node, cut_values, None)
        except (RuntimeError, IndexError, ValueError) as error:
            return checked, f"{describe(node)}: {str(error).splitlines()[0]}"
        value, cut_value = values.get(node), cut_values[cut_node]
        whole.free_after(node, values)
        smaller.free_after(cut_node, cut_values)
        if not isinstance(value, Tensor):
            continue
        predicted = network.trace.shape(node, network.present, num_rows(rows))
        if tuple(cut_value.shape) != predicted:
            return checked, f"{describe(node)}: shape {list(cut_value.shape)}, expected {list(predicted)}"
        kept = kept_part(value, network, node.name)
        if not _close(kept, cut_value, network.program.precision):
            return checked, f"{describe(node)}: other values than in the masked network"
        cut_values[cut_node] = kept  # each operator is checked by itself: roundings do not add up
        checked += 1
    return checked, None


def cut_program(trace: Trace, cut: GraphModule, dtype: torch.dtype | None, reads: int | None = None) -> Program:
    """Return the cut graph ready to run; it has no gates. The loss is given output `reads`."""
    return Program(replace(trace, module=cut, sites=()), dtype, reads=reads)


def kept_part(value: Tensor, network: GatedNetwork, name: str) -> Tensor:
    """The part of a masked value that the cut network still has."""
    for axis, ids in enumerate(network.trace.layouts.get(name, ())):
        if ids is not None:
            keep = torch.from_numpy(network.present[ids].nonzero()[0]).to(value.device)
            value = value.index_select(axis, keep)
    return value


def _close(one: Tensor, other: Tensor, precision: torch.dtype) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    return bool((difference(one, other) <= tolerance(precision, largest_of(one))).all())
