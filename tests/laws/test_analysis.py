"""Laws of the analyses: each equals its slow, obvious twin; each verdict is one that a built network deserves."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, networks
from references.derivatives import mean_loss_at
from torch import nn

import shrinknet as sn
from shrinknet.analysis.cancellation import cancellation, contribution_cosines
from shrinknet.analysis.error_surface import Alphas, error_surface, error_surfaces, judged
from shrinknet.gates import gated


def drawn_neuron(data: st.DataObject, drawn: Drawn) -> sn.Neuron:
    group = data.draw(st.sampled_from(drawn.network.groups))
    return sn.Neuron(group.name, data.draw(st.integers(0, group.width - 1)))


@given(networks, st.data())
def test_a_surface_is_the_loss_of_whole_passes_at_each_alpha(drawn: Drawn, data) -> None:
    neuron = drawn_neuron(data, drawn)
    surface = error_surface(drawn.task(), neuron, alphas=Alphas(-1, 3, 0.5))
    network = drawn.network
    slow = [float(mean_loss_at(network, drawn, neuron, alpha)) for alpha in surface.alphas]
    assert surface.losses == pytest.approx(slow, rel=1e-10, abs=1e-12)


@given(networks, st.data())
def test_a_surface_begins_at_ablation_and_bends_as_taylor_does(drawn: Drawn, data) -> None:
    neuron, task = drawn_neuron(data, drawn), drawn.task()
    surface = error_surface(task, neuron, alphas=Alphas(0, 2, 0.25))
    scores = {name: dict(sn.rank(task, name))[neuron] for name in ("ablation", "taylor-1", "taylor-2")}
    at = {alpha: k for k, alpha in enumerate(surface.alphas)}
    assert surface.losses[at[1.0]] == surface.loss
    assert surface.rise == pytest.approx(scores["ablation"], rel=1e-12, abs=1e-14)
    assert surface.line[at[0.0]] - surface.loss == pytest.approx(scores["taylor-1"], rel=1e-9, abs=1e-12)
    assert surface.parabola[at[0.0]] - surface.loss == pytest.approx(scores["taylor-2"], rel=1e-9, abs=1e-12)


def test_dense_layers_to_the_end_have_the_engine_s_own_bits() -> None:
    """The paper's network: alpha = 0 is ablation's score and alpha = 1 the network's loss, to the bit, in float32."""
    model = nn.Sequential(nn.Linear(20, 12), nn.Sigmoid(), nn.Linear(12, 10), nn.Sigmoid())
    task = sn.Task(model, "squared-error", (torch.rand(300, 20), torch.arange(300) % 10))
    scores = dict(sn.rank(task))
    network = gated(task)
    for neuron in list(scores)[:4]:
        surface = error_surface(task, neuron)
        assert len(surface.alphas) == 10_001
        assert surface.rise == scores[neuron]
        with torch.no_grad():
            losses = [network.losses(batch).sum(dtype=torch.float64) for batch in task.calibration.batches()]
        assert surface.losses[1000] == surface.loss == pytest.approx(float(sum(losses)) / 300, rel=1e-6)


def test_surfaces_of_a_run_stand_at_the_moment_of_each_removal() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    task = sn.Task(model, "cross-entropy", (torch.randn(60, 6).double(), torch.arange(60) % 3))
    run = sn.prune(task, goals=[sn.RemovedNeurons(7)])
    surfaces = error_surfaces(run, every=3, alphas=Alphas(0, 1, 0.5))
    assert [surface.step for surface in surfaces] == [1, 4, 7]
    for surface in surfaces:
        step = run.history[surface.step]
        assert surface.neuron == step.removed[0]
        assert surface.rise == pytest.approx(step.scores[0], rel=1e-12)
        before, after = run.history[surface.step - 1].measures, step.measures
        assert surface.loss == pytest.approx(before.calibration_loss, rel=1e-12)
        assert surface.losses[0] == pytest.approx(after.calibration_loss, rel=1e-9)


def test_surfaces_of_a_run_with_compensation_see_the_refit_readers() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    task = sn.Task(model, "cross-entropy", (torch.randn(60, 6).double(), torch.arange(60) % 3))
    run = sn.prune(task, goals=[sn.RemovedNeurons(4)], compensate="least-squares")
    for surface in error_surfaces(run, every=1, alphas=Alphas(0, 1, 0.5)):
        before = run.history[surface.step - 1].measures
        assert surface.loss == pytest.approx(before.calibration_loss, rel=1e-9)


def opposed() -> tuple[sn.Task, nn.Sequential]:
    """Neurons 0 and 1 say the same and are heard with opposite signs; 2 is heard by nobody; 3 does the work; 4 harms."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    inputs = torch.rand(400, 3).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4, 4, 4], [4, 4, 4], [1, 1, 1], [8, 0, 0], [0, 0, 3]]).double())
        model[0].bias.copy_(torch.tensor([0, 0, 0, -4, 0]).double())
        model[2].weight.copy_(torch.tensor([[3, -3, 0, -8, -1], [-3, 3, 0, 8, 1]]).double())
        model[2].bias.copy_(torch.tensor([4, -4]).double())
    task = sn.Task(model, "cross-entropy", (inputs, (inputs[:, 0] > 0.6).long()), batch_size=128)
    return task, model


def test_verdicts_are_those_that_built_neurons_deserve() -> None:
    task, _ = opposed()
    surfaces = [error_surface(task, sn.Neuron("0", k), alphas=Alphas(0, 1, 1)) for k in range(5)]
    assert [surface.verdict for surface in surfaces] == [
        "cancelling", "cancelling", "redundant", "essential", "harmful",
    ]  # fmt: skip
    assert surfaces[0].partner == sn.Neuron("0", 1)
    assert surfaces[2].rise == 0.0
    assert "comes back" in surfaces[0].ground
    assert surfaces[4].rise < 0


def test_a_rise_within_two_standard_errors_is_no_rise() -> None:
    assert judged(0.1, 0.06, 1.0, None, 0.0)[0] == "redundant"
    assert judged(0.1, 0.04, 1.0, None, 0.0)[0] == "essential"
    assert judged(-0.1, 0.06, 1.0, None, 0.0)[0] == "redundant"
    assert judged(0.009, 0.0001, 1.0, None, 0.0) == (
        "redundant", "without it the loss rises by 0.009 (standard error 0.0001), less than 1 % of the loss",
    )  # fmt: skip
    assert judged(0.1, 0.01, 1.0, sn.Neuron("0", 1), 0.04)[0] == "essential"


@given(networks, st.data())
def test_the_standard_error_is_that_of_the_samples_rises(drawn: Drawn, data) -> None:
    neuron = drawn_neuron(data, drawn)
    surface = error_surface(drawn.task(), neuron, alphas=Alphas(0, 1, 1))
    network = drawn.network
    batch = next(drawn.task().calibration.batches())
    with torch.no_grad():
        rises = (network.without([neuron]).losses(batch) - network.losses(batch)).numpy()
    assert surface.standard_error == pytest.approx(rises.std() / len(rises) ** 0.5, rel=1e-6, abs=1e-9)


@given(networks)
def test_interactions_are_those_of_networks_without_both(drawn: Drawn) -> None:
    task, network = drawn.task(), drawn.network
    batch = next(task.calibration.batches())

    def loss_without(*neurons: sn.Neuron) -> float:
        with torch.no_grad():
            return float(network.without(neurons).losses(batch).double().mean())

    for found in cancellation(task):
        one, other = (sn.Neuron(found.group, index) for index in found.neurons[:2])
        both = loss_without(one, other) - loss_without(one) - loss_without(other) + loss_without()
        assert found.interactions[0, 1] == pytest.approx(both, rel=1e-9, abs=1e-11)
        assert found.interactions[1, 0] == found.interactions[0, 1]
        assert np.isnan(found.interactions.diagonal()).all()
        assert found.rises[0] == pytest.approx(loss_without(one) - loss_without(), rel=1e-9, abs=1e-11)
        count = len(found.neurons)
        assert found.num_pairs == count * (count - 1) // 2
        assert sorted(found.order) == list(range(count))


def test_cosines_are_those_of_what_readers_lose() -> None:
    task, model = opposed()
    inputs = next(task.calibration.batches()).inputs
    network = gated(task)
    (found,) = cancellation(task)
    with torch.no_grad():
        spoken = model[1](model[0](torch.cat([batch.inputs for batch in task.calibration.batches()])))
        said = torch.stack([torch.outer(spoken[:, k], model[2].weight[:, k]).flatten() for k in range(5)])
    slow = torch.nn.functional.cosine_similarity(said[:, None], said[None], dim=2).numpy()
    assert found.cosines == pytest.approx(slow, abs=1e-9)
    assert found.cosines[0, 1] == pytest.approx(-1)
    assert found.cosines[2, 2] == 0  # heard by nobody: no direction
    assert contribution_cosines(task.calibration, network, network.groups[0]).shape == (5, 5)
    assert len(inputs) == 128


def test_cancelling_neurons_are_found_and_cost_less_together() -> None:
    task, _ = opposed()
    (found,) = cancellation(task)
    assert found.strongest(1)[0][:2] == (0, 1)
    (together,) = found.together
    assert together.neurons == (0, 1)
    assert together.joint_rise == pytest.approx(0, abs=1e-12)
    assert together.sum_of_rises > 0.1
    assert together.p < 1e-10
    assert abs(found.order.index(0) - found.order.index(1)) == 1


def test_the_test_is_on_validation_data_where_there_are_some() -> None:
    task, model = opposed()
    rows = next(task.calibration.batches())
    with_validation = sn.Task(
        model, "cross-entropy", (rows.inputs[:100], rows.targets[:100]), (rows.inputs[100:], rows.targets[100:])
    )
    assert cancellation(with_validation)[0].together[0].role == "validation"
    assert cancellation(task)[0].together[0].role == "calibration"


def test_of_many_pairs_some_are_chosen_and_which_is_said() -> None:
    task, _ = opposed()
    (found,) = cancellation(task, max_pairs=6, seed=3)
    assert found.num_pairs == 6
    assert np.isfinite(found.interactions[0, 1]), "the most negative cosine is among them"
    assert found.chosen == "of 10 pairs 3 with the most negative cosine and 3 drawn at random (seed 3)"
    (again,) = cancellation(task, max_pairs=6, seed=3)
    assert np.array_equal(again.interactions, found.interactions, equal_nan=True)
    (every,) = cancellation(task)
    assert every.chosen == "all 10 pairs"


def test_neurons_that_are_gone_take_no_part() -> None:
    task, _ = opposed()
    gone = [sn.Neuron("0", 1)]
    (found,) = cancellation(task, gone=gone)
    assert found.neurons == (0, 2, 3, 4)
    surface = error_surface(task, sn.Neuron("0", 0), gone=gone, alphas=Alphas(0, 1, 1))
    assert surface.partner not in gone
    assert surface.verdict == "harmful"  # what it cancelled is gone


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda task: Alphas(1, 1, 0.1), "alphas must be a range that holds something, as FIRST:LAST:STEP. Got 1:1:0.1."),
        (lambda task: Alphas(0, 2, 0), "Got 0:2:0."),
        (lambda task: Alphas(0, float("inf"), 1), "Got 0:inf:1."),
        (lambda task: Alphas.parsed("0:10"), "--alphas must be FIRST:LAST:STEP. Got '0:10'. Write it as 0:10:0.001."),
        (lambda task: Alphas.parsed("a:b:c"), "--alphas must be three numbers. Got 'a:b:c'."),
        (lambda task: Alphas.parsed("3:1:0.1"), "Got 3:1:0.1."),
        (lambda task: error_surface(task, sn.Neuron("1", 0)), "neuron must be one of a group that can be removed. Got 1[0]."),
        (lambda task: error_surface(task, sn.Neuron("0", 5)), "Got 0[5]. Count from 0."),
        (lambda task: error_surface(task, sn.Neuron("0", 1), gone=[sn.Neuron("0", 1)]), "Got 0[1], which is gone."),
        (lambda task: error_surfaces(sn.prune(task, goals=[sn.RemovedNeurons(1)]), every=0), "every must be a whole number of at least 1. Got 0."),
        (lambda task: cancellation(task, max_pairs=0), "max_pairs must be a whole number of at least 1. Got 0."),
        (lambda task: cancellation(task, gone=[sn.Neuron("0", k) for k in range(4)]), "few enough that a group keeps two neurons. Got 4."),
    ],
)  # fmt: skip
def test_what_cannot_be_analysed_is_said(ask, words) -> None:
    with pytest.raises(sn.BadInputError) as caught:
        ask(opposed()[0])
    assert words in str(caught.value)
