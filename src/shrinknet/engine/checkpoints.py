"""Values for a backward pass: all of them where they fit, or only some, from which the others are computed again.

The graph is cut into segments. Of each, autograd keeps what goes in, and runs it once more when the backward pass comes
to it. The graph of derivatives is the same in either case, and so are the bits.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from torch.fx import Node
from torch.utils.checkpoint import checkpoint

from shrinknet.engine.held import Held
from shrinknet.engine.program import Gating, Program
from shrinknet.task.trees import AnyInputs, num_rows

MOST_SEGMENTS = 64

GATES_HELD = 4
"""Slopes take about so many numbers for each sample and gate: gates, slopes, those at one reader, and their sum."""


def outputs_for_slopes(program: Program, inputs: AnyInputs, gating: Gating) -> Any:
    """Return what the network returns, as `program.outputs` does, ready for backward passes in the memory allowed.

    Cost: a forward pass; where its values do not fit, one more with each backward pass.
    """
    return program.result(values_for_slopes(program, inputs, gating))


def values_for_slopes(
    program: Program, inputs: AnyInputs, gating: Gating, upto: Node | None = None
) -> Mapping[Node, Any]:
    """Return the outputs' values, or that of one node, ready for backward passes in the memory allowed."""
    nodes = program.nodes if upto is None else program.nodes[: program.nodes.index(upto) + 1]
    values, kept = program.given_values(inputs), () if upto is None else (upto,)
    allowed = program.scoring.pass_bytes // num_rows(inputs) - bytes_of_gates(program)
    segments = list(in_segments(program.held, nodes, allowed))
    if len(segments) == 1:
        return program.run_on(values, nodes, gating, kept)
    for segment in segments:
        run = partial(_run, program, values, segment, gating, kept)
        values = checkpoint(run, use_reentrant=False, preserve_rng_state=False)
    return values


def _run(
    program: Program, values: dict[Node, Any], segment: Sequence[Node], gating: Gating, kept: Sequence[Node]
) -> dict[Node, Any]:
    return program.run_on(dict(values), segment, gating, kept)


def in_segments(held: Held, nodes: Sequence[Node], allowed: int) -> Iterator[Sequence[Node]]:
    """Cut nodes into as few segments as let a backward pass over one sample fit."""
    cuts = next((cuts for cuts in _ways(held, len(nodes)) if bytes_for_slopes(held, cuts) <= allowed), None)
    cuts = cuts or min(_ways(held, len(nodes)), key=partial(bytes_for_slopes, held))
    yield from (nodes[first:last] for first, last in pairwise(cuts))


def least_bytes_for_slopes(program: Program) -> int:
    """Return what a backward pass over one sample holds at least."""
    held = program.held
    return bytes_of_gates(program) + min(bytes_for_slopes(held, cuts) for cuts in _ways(held, len(held.nodes)))


def bytes_of_gates(program: Program) -> int:
    """Return what the gates of one sample and their slopes take."""
    return GATES_HELD * (program.trace.num_neurons + 1) * program.dtype.itemsize


def _ways(held: Held, end: int) -> Iterator[list[int]]:
    """Where segments begin and end, for more and more of them."""
    number = 1
    while number <= min(MOST_SEGMENTS, end):
        yield _cuts(held, end, number)
        number *= 2


def bytes_for_slopes(held: Held, cuts: Sequence[int]) -> int:
    """Return the values that a backward pass over one sample holds: what goes into segments, and the largest one."""
    made = list(accumulate(held.made, initial=0))
    between = {owner for place in cuts[1:-1] for owner in held.across(place)}
    largest = max(made[last] - made[first] for first, last in pairwise(cuts))
    return held.of(between) + largest + held.while_running


def _cuts(held: Held, end: int, number: int) -> list[int]:
    """Where so many segments begin and end: each makes about as many bytes, and little goes from one to the next."""
    made = list(accumulate(held.made[:end]))
    inner = []
    for place in range(1, number):
        first, last = (bisect_left(made, made[-1] * (place + side) / number) for side in (-0.4, 0.4))
        inner.append(min(range(max(1, first), max(1, last) + 1), key=lambda at: held.of(held.across(at))))
    return sorted({0, *(place for place in inner if place < end), end})
