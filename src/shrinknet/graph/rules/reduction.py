"""Pooling, padding and means: some axes change their length, the others pass through."""

from shrinknet.graph.labels import Slots, varying
from shrinknet.graph.operators import operator_name
from shrinknet.graph.rules.base import Call, rule, shape_of


@rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d",
)  # fmt: skip
def pooling(call: Call) -> Slots:
    """Positions (every axis after the channels) are reduced."""
    num_positions = int(operator_name(call.node)[-2])  # max_pool2d: 2
    if len(call.shape) != num_positions + 2:
        call.freeze(call.slots(call.argument(0)), f"no samples axis at {call.where}")
        return ()
    positions = set(range(2, len(call.shape)))
    kept = _slots_free_of(call, positions)
    return tuple(
        slot[tuple(_first(axis in positions) for axis in range(slot.dim()))].expand(call.shape) for slot in kept
    )


@rule("mean", "sum", "amax", "amin")
def mean(call: Call) -> Slots:
    """The given axes are reduced (all of them when none is given)."""
    x = call.argument(0)
    rank = len(shape_of(x.meta["val"]))
    reduced = {axis % rank for axis in call.argument(1) or range(rank)}
    keepdim = call.argument(2, False)
    slots = _slots_free_of(call, reduced)
    picks = tuple(
        _first(axis in reduced) if keepdim else (0 if axis in reduced else slice(None)) for axis in range(rank)
    )
    return tuple(slot[picks] for slot in slots)


@rule("pad", "constant_pad_nd")
def padding(call: Call) -> Slots:
    """Amounts come in pairs from the last axis backwards; what is padded cannot carry neurons."""
    rank = len(call.shape)
    padded = {rank - 1 - place // 2 for place, amount in enumerate(call.argument(1)) if amount != 0}
    slots = _slots_free_of(call, padded)
    return tuple(slot[tuple(_first(axis in padded) for axis in range(rank))].expand(call.shape) for slot in slots)


def _first(reduced: bool) -> slice:
    return slice(0, 1) if reduced else slice(None)


def _slots_free_of(call: Call, reduced: set[int]) -> Slots:
    """Return the input's slots that do not vary on a reduced axis, and freeze the others."""
    slots = call.slots(call.argument(0))
    rigid = tuple(slot for slot in slots if set(varying(slot)) & reduced)
    call.freeze(rigid, f"reduced over at {call.where}")
    return tuple(slot for slot in slots if not set(varying(slot)) & reduced)
