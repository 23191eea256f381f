"""Bytes announced = bytes on disk; counts agree with a count by hand."""

import pytest
import torch
from architectures import SMALL
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, networks
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import shrinknet as sn
from shrinknet.engine.gates import gated
from shrinknet.export.weights import safetensors_bytes
from shrinknet.graph.trace import named_tensors
from shrinknet.measure.costs import GraphCosts, costs, operator_costs
from shrinknet.surgery.proof import cut_program
from shrinknet.surgery.remove import cut_graph


@given(networks, st.data())
def test_flash_bytes_announced_are_the_bytes_of_the_file(drawn: Drawn, data) -> None:
    network = drawn.network
    for group in network.groups:
        network = network.without(group.neurons[: data.draw(st.integers(0, group.width - 1))])
    announced = costs(network.trace, network.present).flash_bytes
    assert announced == len(safetensors_bytes(named_tensors(cut_graph(network.trace, network.present))))


@given(networks, st.data())
def test_costs_are_the_same_whatever_was_asked_for_before(drawn: Drawn, data) -> None:
    network, counted = drawn.network, GraphCosts(drawn.network.trace)
    whole = counted(network.present)
    for group in network.groups:
        network = network.without(group.neurons[: data.draw(st.integers(0, group.width - 1))])
    cut = counted(network.present)
    assert cut == costs(network.trace, network.present)
    assert counted(drawn.network.present) == whole
    assert cut.macs == sum(row.macs for row in operator_costs(network.trace, network.present))


def test_costs_agree_with_a_count_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Flatten(), nn.Linear(8 * 16, 10),
    )  # fmt: skip
    task = sn.Task(model, "cross-entropy", (torch.randn(4, 3, 8, 8), torch.arange(4)))
    network = gated(task)
    found = costs(network.trace, network.present)
    assert found.num_neurons == 8
    assert found.num_parameters == 8 * 3 * 9 + 2 * 8 + (8 * 9 + 8) + (128 * 10 + 10)
    assert found.macs == 16 * 8 * 27 + 16 * 8 * 9 + 1280
    # The batch norm's input and output are alive at once: two values of 8 x 4 x 4 floats; so are the ReLU's.
    assert found.peak_ram_bytes == max(3 * 64 + 8 * 16, 2 * 8 * 16) * 4
    smaller = costs(network.trace, network.without(network.groups[0].neurons[:6]).present)
    assert smaller.num_parameters == 2 * 27 + 2 * 2 + (2 * 9 + 2) + (2 * 16 * 10 + 10)
    assert smaller.macs == 16 * 2 * 27 + 16 * 2 * 9 + 2 * 16 * 10


@pytest.mark.parametrize("architecture", SMALL, ids=lambda one: one.name)
def test_every_operators_costs_are_those_of_the_cut_network_as_it_runs(architecture) -> None:
    """MACs beside torch's own counter (and a count by hand for recurrent layers, which it does not know)."""
    model, inputs = architecture.build()
    trace = sn.trace(model, inputs)
    present = trace.present()
    for group in trace.groups:
        ids = trace.ids_of(group)
        present[ids.start : ids.start + group.width // 3] = False
    for kept in (trace.present(), present):
        cut = cut_graph(trace, kept)
        program, rows = cut_program(trace, cut, None), operator_costs(trace, kept)
        two_samples = tuple(
            tensor[:2] for tensor in inputs
        )  # of one alone, torch makes vector products it cannot count
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            program.run(two_samples, None)
        with torch.no_grad():
            values = program.run(tuple(tensor[:1] for tensor in inputs), None, keep=True)
        real = {
            node.name: value.numel() * value.element_size()
            for node, value in values.items()
            if node.op == "call_function" and isinstance(value, torch.Tensor)
        }
        assert {row.name: row.activation_bytes for row in rows if row.name in real} == {
            row.name: real[row.name] for row in rows if row.name in real
        }
        tensors = named_tensors(cut)
        read = {id(tensors[str(node.target)]) for node in cut.graph.nodes if str(node.target) in tensors}
        assert sum(row.num_parameters for row in rows) == sum(
            parameter.numel() for parameter in cut.parameters() if id(parameter) in read
        )
        recurrent = [row for row in rows if row.operator in {"lstm", "gru", "rnn_tanh"}]
        by_hand = sum(
            steps * weight.numel()
            for node in cut.graph.nodes
            if node.name in {row.name for row in recurrent}
            for steps in [values[next(n for n in program.nodes if n.name == node.name)][0].shape[1]]
            for weight in [cut.get_parameter(str(given.target)) for given in node.args[2][:2]]
        )
        if not recurrent:
            assert sum(row.macs for row in rows) * 2 == counter.get_total_flops() // 2
        else:
            assert sum(row.macs for row in recurrent) == by_hand


def test_shared_weights_are_counted_and_stored_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.three(torch.relu(self.two(torch.relu(self.one(x)))))

    model = Tied()
    trace = sn.trace(model, torch.randn(2, 6))
    found = costs(trace, trace.present())
    assert found.num_parameters == 36 + 6 + 6 + 14
    assert found.flash_bytes == len(safetensors_bytes(named_tensors(trace.module)))
    assert trace.groups == (), "tied to a layer that reads the network's input: frozen, never cut wrongly"
