"""The proof can fail: each of its checks, on a network that only that check catches."""

import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.core.records import Difference, Verification
from shrinknet.engine.gates import gate, gated
from shrinknet.surgery.proof import compare, verify, verify_on
from shrinknet.surgery.remove import cut_graph
from shrinknet.task.losses import find_loss


@pytest.fixture
def task() -> sn.Task:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        model[2].weight[:, 0] = 0  # neuron 0 contributes nothing
    return sn.Task(model, "cross-entropy", (torch.randn(9, 4), torch.arange(9) % 3))


def test_a_shape_that_is_not_the_predicted_one_breaks_the_proof(task) -> None:
    """Nothing was removed, and the outputs are right all the same: only the shapes tell."""
    network = gated(task)
    masked = network.without([sn.Neuron("0", 0)])
    uncut = cut_graph(network.trace, network.present)
    torch.testing.assert_close(masked.outputs(task.example_inputs), network.outputs(task.example_inputs))
    proof = verify(masked, uncut, task.calibration)
    assert not proof.holds
    assert proof.broke_at == "linear (in '0'): shape [2, 6], expected [2, 5]"
    with pytest.raises(sn.VerificationError, match=r"^NOT proven: masked and cut networks differ at linear \(in '0'\)"):
        proof.raise_if_broken()


def test_the_worst_difference_is_found_wherever_it_is(task) -> None:
    network = gated(task)
    rows = task.example_inputs

    def off_by_one_place(inputs):
        outputs = network.outputs(inputs).clone()
        outputs[-1, -1] += 0.25
        return outputs

    assert compare(network, network.outputs, [rows])[0].worst == 0
    (found,) = compare(network, off_by_one_place, [rows, rows[:1]])
    assert found.worst == pytest.approx(0.25, rel=1e-5)
    assert found.num_samples == 3
    assert not found.holds
    (other_shape,) = compare(network, lambda inputs: network.outputs(inputs)[:, :1], [rows])
    assert not other_shape.holds


def test_nan_never_holds() -> None:
    assert not Difference("float32", float("nan"), 1.0, 1).holds
    assert not Verification((Difference("float32", float("nan"), 1.0, 1),), 1).holds


def test_other_values_are_found_at_their_operator(task) -> None:
    network = gated(task)
    masked = network.without([sn.Neuron("0", 3)])
    graph = cut_graph(network.trace, masked.present)
    with torch.no_grad():
        graph.get_parameter("0.bias")[1] += 0.5
    assert (
        verify(masked, graph, task.calibration).broke_at == "linear (in '0'): other values than in the masked network"
    )


class Two(nn.Module):
    """Two inputs, and three outputs, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x, y):
        hidden = torch.relu(self.one(x)) + self.two(y)
        out = self.three(hidden)
        return {"first": out, "rest": (out.softmax(1), out)}


def test_every_output_of_several_inputs_is_compared_by_itself() -> None:
    model, inputs = Two(), (torch.randn(5, 4), torch.randn(5, 3))
    traced = sn.trace(model, inputs)
    assert [(group.name, group.width) for group in traced.groups] == [("one", 6)]
    network = gate(traced, find_loss("squared-error"))
    masked = network.without([sn.Neuron("one", 2), sn.Neuron("one", 5)])
    graph = cut_graph(traced, masked.present)
    proof = verify_on(masked, graph, lambda: [inputs])
    assert proof.holds
    assert [(d.precision, d.output) for d in proof.differences] == [
        (precision, f"output {place}") for precision in ("float32", "float64") for place in range(3)
    ]

    def second_is_off(rows):
        outputs = masked.outputs(rows)
        second, third = outputs["rest"]
        return {"first": outputs["first"], "rest": (second + 0.5, third)}

    worst = [difference.worst for difference in compare(masked, second_is_off, [inputs])]
    assert worst == [0, pytest.approx(0.5, rel=1e-5), 0]
