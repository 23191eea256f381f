"""Which neurons run along the axes of a value that a planner places."""

import numpy as np
import torch
from torch import nn

import shrinknet as sn
from shrinknet.export.arena import Arena, Value, are_those, axes_of, length, one_like, tensors_of


def traced(model: nn.Module, *shape: int) -> tuple[sn.Trace, dict[str, torch.fx.Node]]:
    trace = sn.trace(model, torch.randn(2, *shape))
    return trace, {node.name: node for node in trace.nodes}


def lengths(axes, trace: sn.Trace, *gone: sn.Neuron) -> list[int]:
    return [length(axis, trace.present(gone)) for axis in axes]


def test_a_value_of_an_operators_own_shape_shrinks_as_it_does() -> None:
    trace, nodes = traced(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 2), nn.Flatten(), nn.Linear(45, 2)), 1, 6, 6
    )
    first, gone = nodes["conv2d"], sn.Neuron("0", 1)
    for shape in ((1, 3, 4, 4), (3, 4, 4)):
        assert lengths(axes_of(shape, first, trace), trace) == [3, 4, 4]
        assert lengths(axes_of(shape, first, trace), trace, gone) == [2, 4, 4]
    last = axes_of((1, 4, 4, 3), first, trace)
    assert sorted(lengths(last, trace, gone)) == [2, 4, 4], "in whatever order"
    padded = axes_of((1, 3, 6, 6), first, trace)
    assert lengths(padded, trace, gone) == [2, 6, 6], "longer by padding, not two of each neuron"
    assert lengths(axes_of((1, 3, 4, 4), nodes["conv2d_1"], trace), trace, gone) == [2, 4, 4], "what it reads"
    assert lengths(axes_of((5, 3, 2, 2), nodes["conv2d_1"], trace), trace, gone) == [5, 2, 2, 2], "its weight"


def test_other_values_are_read_axis_by_axis() -> None:
    trace, nodes = traced(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 4)
    node, gone = nodes["linear"], sn.Neuron("0", 1)
    assert lengths(axes_of((12, 5), node, trace), trace, gone) == [10, 5], "as long as two of an axis of neurons"
    assert lengths(axes_of((7, 7), node, trace), trace, gone) == [7, 7]
    assert lengths(axes_of((6, 6), None, trace), trace, gone) == [6, 6], "of no operator"


def test_an_axis_without_neurons_is_not_taken_for_one_with_them() -> None:
    """Four places, then four neurons; the value has one axis of that length."""
    trace, nodes = traced(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)), 4, 3)
    for shape in ((4, 2), (4, 2, 5, 7)):
        axes = axes_of(shape, nodes["linear"], trace)
        assert lengths(axes, trace, sn.Neuron("0", 0))[0] == 3


def test_of_two_that_would_do_the_one_in_that_order_is_taken() -> None:
    """Six places of four neurons, and the weights of four neurons that read six: only their order tells them apart."""
    trace, nodes = traced(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), 6, 3)
    node, gone = nodes["linear_1"], sn.Neuron("0", 0)
    assert lengths(axes_of((1, 6, 4), node, trace), trace, gone) == [6, 4]
    for shape in ((4, 6), (1, 4, 6)):
        assert lengths(axes_of(shape, node, trace), trace, gone) == [4, 5]


def test_shapes_are_the_same_but_for_order_and_axes_of_length_1() -> None:
    axes = ((None, 3), (None, 1), (None, 4))
    assert are_those(axes, (4, 1, 1, 3))
    assert are_those(axes, (3, 4))
    assert not are_those(axes, (3, 3))
    assert not are_those(axes, (3, 4, 2))
    assert are_those((), (1, 1))


def test_an_axis_is_like_one_as_long_before_one_that_divides_it() -> None:
    three, six = np.arange(1, 4), np.arange(4, 10)
    axes = ((three, 3), (six, 6))
    assert one_like(6, axes) is six
    assert one_like(3, axes) is three
    assert one_like(9, axes) is three
    assert one_like(4, axes) is None
    assert one_like(2, axes) is None


def test_the_tensors_that_an_operator_reads() -> None:
    trace, nodes = traced(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 4)
    assert tensors_of(None, trace) == []
    assert tensors_of(nodes["relu"], trace) == []
    found = [[size for _, size in axes] for axes in tensors_of(nodes["linear_1"], trace)]
    assert found == [[3, 6], [3]]
    weight, _ = tensors_of(nodes["linear_1"], trace)
    assert lengths(weight, trace, sn.Neuron("0", 5)) == [3, 5]


def test_a_values_bytes_are_rounded_up_to_the_planners_step() -> None:
    trace, nodes = traced(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 4)
    value = Value("one", axes_of((1, 6), nodes["linear"], trace), 4, 0, 1)
    sizes = [value.num_bytes(trace.present(tuple(sn.Neuron("0", k) for k in range(gone)))) for gone in (0, 2, 3, 5)]
    assert sizes == [32, 16, 16, 16]


def test_a_value_is_there_from_its_first_step_to_its_last_and_the_peak_is_where_most_bytes_are() -> None:
    """Steps 0 to 3 hold 32, 32 + 64, 64 + 48 and 48 + 16 bytes."""
    steps = {"a": (8, 0, 1), "b": (16, 1, 2), "c": (12, 2, 3), "d": (4, 3, 3)}
    values = tuple(Value(name, ((None, size),), 4, first, last) for name, (size, first, last) in steps.items())
    everything = np.ones(1, dtype=bool)
    assert [(value.name, size) for value, size in Arena(112, values).at_peak(everything)] == [("b", 64), ("c", 48)]
