"""Laws of the criteria: each fast computation equals its slow twin, and what the formulas promise."""

import numpy as np
import pytest
import torch
import whole_idea
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, Residual, conv_networks, dense_networks, networks
from references import derivatives as slow
from references import surgeon
from torch import nn

import shrinknet as sn
from shrinknet.compensation.least_squares import Moments
from shrinknet.compensation.readers import readers
from shrinknet.criteria import criterion_names, find_criterion
from shrinknet.criteria.optimal_cell_damage import OptimalCellDamage
from shrinknet.criteria.sequential_attention import SequentialAttention
from shrinknet.criteria.skeletonization import Skeletonization, linear_error
from shrinknet.criteria.taylor_2 import bend_of
from shrinknet.criteria.unit_obs import UnitOBS
from shrinknet.engine.gates import gated
from shrinknet.task.data import Batch
from shrinknet.task.losses import find_loss

LOSS_UNITS = ("ablation", "taylor-1", "taylor-2", "gauss-newton", "empirical-fisher")
QUICK = {"sequential-attention": SequentialAttention(rounds=2, steps=2)}
SMOOTH = (nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.Softplus)


def score(name: str, task: sn.Task, network=None):
    criterion = QUICK.get(name) or find_criterion(name)
    return criterion.score(network or gated(task), task.calibration.batches())


def all_neurons(network) -> list[sn.Neuron]:
    return [neuron for group in network.groups for neuron in group.neurons]


@given(networks)
def test_ablation_is_the_loss_of_the_network_rebuilt_without_the_neuron(drawn: Drawn) -> None:
    task, network = drawn.task(), drawn.network
    start = whole_idea.mean_loss(drawn.model, drawn.inputs, drawn.targets)
    scores = score("ablation", task, network)
    for neuron in all_neurons(network):
        rebuilt = whole_idea.without(drawn.model, int(neuron.group), neuron.index)
        expected = whole_idea.mean_loss(rebuilt, drawn.inputs, drawn.targets)
        assert start + scores[neuron] == pytest.approx(expected, rel=1e-12, abs=1e-14)


@given(networks, st.data())
def test_ablation_after_removals_is_the_loss_of_the_masked_network(drawn: Drawn, data) -> None:
    network = drawn.network
    gone = [data.draw(st.sampled_from(group.neurons)) for group in network.groups if group.width > 1]
    network = network.without(gone)
    (batch,) = drawn.task().calibration.batches()
    start = float(network.losses(batch).mean())
    scores = score("ablation", drawn.task(), network)
    for neuron in set(all_neurons(network)) - set(gone):
        expected = float(slow.mean_loss_at(network, batch, neuron, 0.0))
        assert start + scores[neuron] == pytest.approx(expected, rel=1e-12, abs=1e-14)


@given(networks)
def test_taylor_scores_are_the_exact_derivatives_in_the_gate(drawn: Drawn) -> None:
    network = drawn.network
    (batch,) = drawn.task().calibration.batches()
    first, second = score("taylor-1", drawn.task(), network), score("taylor-2", drawn.task(), network)
    for neuron in all_neurons(network):
        slope, curvature = slow.slope_and_curvature(network, batch, neuron)
        assert first[neuron] == pytest.approx(-slope, rel=1e-9, abs=1e-12)
        assert second[neuron] == pytest.approx(-slope + curvature / 2, rel=1e-9, abs=1e-12)


def test_a_group_that_is_read_behind_its_own_readers_is_scored_exactly() -> None:
    """In a residual network a gate acts again downstream of its first reader: no low-rank shortcut there."""
    model = Residual().double().eval()
    inputs = torch.randn(5, 1, 6, 6, dtype=torch.float64)
    task = sn.Task(model, "cross-entropy", (inputs, torch.arange(5) % 3))
    network = gated(task).without([sn.Neuron("stem", 1)])
    (batch,) = task.calibration.batches()
    start = float(network.losses(batch).mean())
    scores = {name: score(name, task, network) for name in ("ablation", "taylor-1", "taylor-2")}
    for neuron in set(all_neurons(network)) - {sn.Neuron("stem", 1)}:
        slope, curvature = slow.slope_and_curvature(network, batch, neuron)
        expected = float(slow.mean_loss_at(network, batch, neuron, 0.0))
        assert start + scores["ablation"][neuron] == pytest.approx(expected, rel=1e-12)
        assert scores["taylor-1"][neuron] == pytest.approx(-slope, rel=1e-9, abs=1e-12)
        assert scores["taylor-2"][neuron] == pytest.approx(-slope + curvature / 2, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("bound", [1, 50, 10**9])
def test_the_size_of_the_chunks_changes_nothing(bound: int, monkeypatch) -> None:
    from shrinknet.engine import replay

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    task = sn.Task(model, "cross-entropy", (torch.randn(6, 4).double(), torch.arange(6) % 3))
    whole = score("gauss-newton", task)
    sizes = []
    honest = replay.Replay.outputs
    monkeypatch.setattr(replay, "CHUNK_ELEMENTS", bound)
    monkeypatch.setattr(replay.Replay, "outputs", lambda self, group, candidates, gates, decomposed: (
        sizes.append(len(candidates)), honest(self, group, candidates, gates, decomposed=decomposed))[1])  # fmt: skip
    chunked = score("gauss-newton", task)
    assert max(sizes) == {1: 1, 50: 2, 10**9: 9}[bound], "as many candidates at once as the bound allows, at least one"
    for group, values in whole.values.items():
        np.testing.assert_allclose(chunked.values[group], values, rtol=1e-12, atol=1e-15)


@given(dense_networks(activations=SMOOTH))
def test_derivatives_agree_with_finite_differences(drawn: Drawn) -> None:
    network, step = drawn.network, 1e-3
    (batch,) = drawn.task().calibration.batches()
    neuron = all_neurons(network)[0]
    at = {k: float(slow.mean_loss_at(network, batch, neuron, 1 + k * step)) for k in (-2, -1, 0, 1, 2)}
    slope = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)
    curvature = (16 * (at[1] + at[-1]) - (at[2] + at[-2]) - 30 * at[0]) / (12 * step**2)
    assert score("taylor-1", drawn.task(), network)[neuron] == pytest.approx(-slope, rel=1e-6, abs=1e-9)
    assert score("taylor-2", drawn.task(), network)[neuron] == pytest.approx(-slope + curvature / 2, rel=1e-6, abs=1e-8)


@given(networks)
def test_empirical_fisher_squares_each_samples_own_slope(drawn: Drawn) -> None:
    network = drawn.network
    scores = score("empirical-fisher", drawn.task(), network)
    for neuron in all_neurons(network)[:3]:
        squares = [
            slow.slope_and_curvature(network, batch, neuron)[0] ** 2
            for batch in drawn.task(batch_size=1).calibration.batches()
        ]
        assert scores[neuron] == pytest.approx(np.mean(squares) / 2, rel=1e-9, abs=1e-15)


@given(dense_networks(activations=(nn.ReLU, nn.LeakyReLU)))
def test_gauss_newton_is_exact_in_piecewise_linear_networks(drawn: Drawn) -> None:
    network = drawn.network
    exact, approximate = score("taylor-2", drawn.task(), network), score("gauss-newton", drawn.task(), network)
    for neuron in all_neurons(network):
        assert approximate[neuron] == pytest.approx(exact[neuron], rel=1e-9, abs=1e-12)


@given(dense_networks(activations=SMOOTH))
def test_gauss_newton_is_the_curvature_of_the_loss_along_the_outputs(drawn: Drawn) -> None:
    """Its slow twin: J by finite differences of whole forward passes, then J^T H J with autograd's own Hessian."""
    network = drawn.network
    neuron = all_neurons(network)[0]
    (batch,) = drawn.task().calibration.batches()
    outputs, along = torch.func.jvp(
        lambda gate: _outputs_at(network, batch, neuron, gate), (torch.ones(()).double(),), (torch.ones(()).double(),)
    )
    total = 0.0
    for row, tangent, target in zip(outputs, along, batch.targets, strict=True):
        hessian = torch.autograd.functional.hessian(
            lambda o, t=target: nn.functional.cross_entropy(o[None], t[None]), row
        )
        total += float(tangent @ hessian @ tangent) / 2
    slope, _ = slow.slope_and_curvature(network, batch, neuron)
    expected = -slope + total / len(batch)
    assert score("gauss-newton", drawn.task(), network)[neuron] == pytest.approx(expected, rel=1e-8, abs=1e-11)


def _outputs_at(network, batch, neuron, gate):
    group = next(group for group in network.groups if group.name == neuron.group)
    number = network.trace.ids_of(group).start + neuron.index
    gates = torch.where(torch.arange(len(network.present)) == number, gate, 1.0)
    return network.program.outputs(batch.inputs, lambda site, value: gates[network.program.ids[site]])


@given(st.integers(0, 1000))
def test_taylor_2_is_exact_where_the_loss_is_quadratic_in_the_gate(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    task = sn.Task(model, "squared-error", (torch.randn(7, 4).double(), torch.randn(7, 3).double()))
    exact, predicted = score("ablation", task), score("taylor-2", task)
    np.testing.assert_allclose(predicted.values["0"], exact.values["0"], rtol=1e-10, atol=1e-13)


def test_second_derivatives_are_taken_at_the_outputs_where_those_are_few_and_their_hessian_has_room() -> None:
    def bend(num_outputs: int, num_neurons: int, **options: object):
        model = nn.Sequential(nn.Linear(4, num_neurons), nn.ReLU(), nn.Linear(num_neurons, num_outputs))
        task = sn.Task(model, "squared-error", (torch.randn(8, 4), torch.randn(8, num_outputs)))
        network = gated(task, scoring=sn.Scoring(**options))
        return bend_of(network, network.groups[0])

    assert bend(40, 10) is not None
    assert bend(40, 2) is None, "replaying two neurons is cheaper than 40 backward passes"
    assert bend(40, 10, memory=8 * 1000) is None, "a Hessian of a sample takes 8 x 40 x 40 bytes"


@given(st.integers(0, 1000))
def test_the_papers_recursion_is_exact_in_the_last_hidden_layer_and_not_below(seed: int) -> None:
    torch.manual_seed(seed)
    layers = [nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3), nn.Sigmoid()]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    task = sn.Task(model, "squared-error", (torch.randn(7, 4).double(), torch.arange(7) % 3))
    exact, diagonal = score("taylor-2", task), score("taylor-2-diagonal", task)
    np.testing.assert_allclose(diagonal.values["2"], exact.values["2"], rtol=1e-9, atol=1e-13)
    assert np.abs(diagonal.values["0"] - exact.values["0"]).max() > 1e-7


def test_the_papers_recursion_equals_its_appendix_written_out() -> None:
    """Equations (8) to (10) for a 3-4-4-2 logistic network, in the paper's own symbols."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.Sigmoid())
    model = model.double()
    x, t = torch.randn(5, 3).double(), torch.rand(5, 2).double()
    o2 = torch.sigmoid(model[0](x))
    o1 = torch.sigmoid(model[2](o2))
    o0 = torch.sigmoid(model[4](o1))
    s1, s2 = o0 * (1 - o0), o0 * (1 - o0) * (1 - 2 * o0)
    dx, ddx = (o0 - t) * s1, s1**2 + (o0 - t) * s2
    g1, h1 = dx @ model[4].weight, ddx @ model[4].weight ** 2
    s1, s2 = o1 * (1 - o1), o1 * (1 - o1) * (1 - 2 * o1)
    dx, ddx = g1 * s1, h1 * s1**2 + g1 * s2
    g2, h2 = dx @ model[2].weight, ddx @ model[2].weight ** 2
    scores = score("taylor-2-diagonal", sn.Task(model, "squared-error", (x, t)))
    expected = {"2": -o1 * g1 + o1**2 * h1 / 2, "0": -o2 * g2 + o2**2 * h2 / 2}
    for group, terms in expected.items():
        np.testing.assert_allclose(scores.values[group], terms.mean(0).detach().numpy(), rtol=1e-10, atol=1e-14)


def test_the_papers_recursion_goes_through_products_with_parameters() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.scale, self.two = nn.Linear(4, 6), nn.Parameter(torch.rand(6) + 0.5), nn.Linear(6, 3)

        def forward(self, x):
            return self.two(self.scale * torch.sigmoid(self.one(x)))

    task = sn.Task(Scaled().double(), "squared-error", (torch.randn(7, 4).double(), torch.arange(7) % 3))
    exact, diagonal = score("taylor-2", task), score("taylor-2-diagonal", task)
    np.testing.assert_allclose(diagonal.values["one"], exact.values["one"], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["taylor-2-diagonal", "optimal-cell-damage"])
def test_the_papers_recursion_goes_past_weights_that_are_computed(name: str) -> None:
    plain = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    rows = torch.randn(20, 4).double(), torch.arange(20) % 3
    expected = score(name, sn.Task(plain, "cross-entropy", rows)).values
    computed = nn.Sequential(
        *(nn.utils.parametrizations.weight_norm(one) if isinstance(one, nn.Linear) else one for one in plain)
    )
    found = score(name, sn.Task(computed, "cross-entropy", rows)).values
    for values, others in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(values, others, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(2, 2)), (1, 4, 4)),
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 2)), (4,)),
    ],
    ids=["convolutions", "a norm"],
)
def test_the_papers_recursion_refuses_what_it_is_not_for(model: nn.Module, shape: tuple[int, ...]) -> None:
    task = sn.Task(model, "cross-entropy", (torch.randn(4, *shape), torch.arange(4) % 2))
    with pytest.raises(
        sn.UnfollowedOperatorError, match=r"'optimal-cell-damage' are for networks of dense layers\. Use 'tay"
    ):
        sn.rank(task, "taylor-2-diagonal")


@given(networks, st.sampled_from(LOSS_UNITS))
def test_a_neuron_whose_outgoing_weights_are_zero_scores_0(drawn: Drawn, name: str) -> None:
    layers = [m for m in drawn.model if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)]
    places = layers[1].weight.shape[1] // len(layers[0].weight)
    with torch.no_grad():
        layers[1].weight[:, :places] = 0
    network = drawn.network
    if not network.groups or network.groups[0].name != "0":
        return
    assert score(name, drawn.task(), network)[sn.Neuron("0", 0)] == pytest.approx(0, abs=1e-15)


@given(networks, st.sampled_from(criterion_names()), st.integers(1, 4))
def test_splitting_the_batches_changes_nothing(drawn: Drawn, name: str, size: int) -> None:
    if name in {"taylor-2-diagonal", "optimal-cell-damage"} and not all(
        not isinstance(m, nn.Conv2d | nn.PReLU) for m in drawn.model
    ):
        return
    whole, split = score(name, drawn.task()), score(name, drawn.task(batch_size=size))
    for group, values in whole.values.items():
        np.testing.assert_allclose(split.values[group], values, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", sorted({*criterion_names()} - {"random"}))
def test_a_masked_network_is_scored_as_the_network_that_is_left_of_it(name: str) -> None:
    """Removed neurons are nowhere in the scores of the others, and score 0 themselves."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Sigmoid(), nn.Linear(5, 3)).double()
    rows = torch.randn(40, 4).double(), torch.arange(40) % 3
    task, alive = sn.Task(model, "cross-entropy", rows), {"0": [0, 2, 3, 6], "2": [1, 2, 4]}
    plan = {"0.weight": {0: alive["0"]}, "0.bias": {0: alive["0"]}, "2.weight": {0: alive["2"], 1: alive["0"]},
            "2.bias": {0: alive["2"]}, "4.weight": {1: alive["2"]}}  # fmt: skip
    left = sn.apply_plan(model, {"kept": plan, "attributes": {}})
    masked = gated(task).without(
        [one for group in gated(task).groups for one in group.neurons if one.index not in alive[group.name]]
    )
    expected, found = score(name, sn.Task(left, "cross-entropy", rows)).values, score(name, task, masked).values
    for group, values in found.items():
        np.testing.assert_allclose(values[alive[group]], expected[group], rtol=1e-5, atol=1e-12)
        np.testing.assert_array_equal(np.delete(values, alive[group]), 0)


@given(networks, st.sampled_from(LOSS_UNITS), st.randoms(use_true_random=False))
def test_relabelling_the_neurons_relabels_the_scores(drawn: Drawn, name: str, random) -> None:
    before = score(name, drawn.task())
    order = list(range(len(drawn.model[0].weight)))
    random.shuffle(order)
    _permute_first_layer(drawn.model, order)
    after = score(name, drawn.task())
    if "0" in before.values:
        np.testing.assert_allclose(after.values["0"], before.values["0"][order], rtol=1e-9, atol=1e-12)


def _permute_first_layer(model: nn.Sequential, order: list[int]) -> None:
    with torch.no_grad():
        first = model[0]
        first.weight.copy_(first.weight[order])
        if first.bias is not None:
            first.bias.copy_(first.bias[order])
        for module in model[1:]:
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.copy_(tensor[order])
            elif isinstance(module, nn.Conv2d) and module.groups > 1:
                module.weight.copy_(module.weight[order])
                module.bias.copy_(module.bias[order])
            elif isinstance(module, nn.Conv2d):
                module.weight.copy_(module.weight[:, order])
                return
            elif isinstance(module, nn.Linear):
                places = module.in_features // len(order)
                columns = [k * places + place for k in order for place in range(places)]
                module.weight.copy_(module.weight[:, columns])
                return


@given(conv_networks())
def test_magnitude_is_the_norm_of_the_producing_weights(drawn: Drawn) -> None:
    scores = score("magnitude", drawn.task())
    for group, values in scores.values.items():
        squares = drawn.model[int(group)].weight.flatten(1).square().sum(1)
        for module in drawn.model[int(group) + 1 :]:
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                squares = squares + module.weight.flatten(1).square().sum(1)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                break
        np.testing.assert_allclose(values, squares.sqrt().detach().numpy(), rtol=1e-12)


def test_activation_is_the_mean_size_of_what_readers_see() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs = torch.randn(9, 3).double()
    scores = score("activation", sn.Task(model, "cross-entropy", (inputs, torch.arange(9) % 2)))
    np.testing.assert_allclose(scores.values["0"], model[:2](inputs).abs().mean(0).detach().numpy(), rtol=1e-12)


class Mixed(nn.Module):
    """Samples and positions lie on one axis where the second layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        rows = self.two(self.one(x).tanh().reshape(-1, 6)).relu()
        return self.three(rows.reshape(*x.shape[:2], 5)).mean(1)


class Recurrent(nn.Module):
    """Reads itself: the columns of its recurrent weights are read, which no sample has a part in."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.lstm(x)[0]).mean(1)


READ = {
    "flattened": (lambda: nn.Sequential(nn.Conv1d(4, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)), (4, 5)),
    "positions": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Flatten()), (5, 4)),
    "mixed": (Mixed, (5, 4)),
    "recurrent": (Recurrent, (5, 4)),
}


@pytest.mark.parametrize("name", READ)
def test_readings_are_of_each_sample_alone_and_average_over_positions_and_places(name: str) -> None:
    torch.manual_seed(0)
    make, shape = READ[name]
    inputs = torch.randn(7, *shape, dtype=torch.float64)
    network = gated(sn.Task(make().double(), lambda y, t: y.sum(1), (inputs, torch.zeros(7))))
    network = network.without([sn.Neuron(network.groups[0].name, 1)])
    with torch.no_grad():
        batch = Batch(inputs, inputs)
        together = {group.name: read for group, read in network.readings(batch, torch.abs)}
        summed = network.summed_readings(batch, torch.abs)
        alone = [dict(network.by_group(_mean_sizes(network, row))) for row in inputs.split(1)]
    assert together.keys() == {group.name for group in network.groups}
    assert not bool(together[network.groups[0].name][:, 1].any())
    for group in network.groups:
        assert together[group.name].shape == (7, group.width)
        expected = torch.stack([row[group.name] for row in alone])
        torch.testing.assert_close(together[group.name], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(summed[group.name], expected.sum(0), rtol=1e-12, atol=0)


def _mean_sizes(network, inputs) -> torch.Tensor:
    """Place by place: the mean size of what is read there, averaged over the places of each neuron."""
    sizes = [[] for _ in network.present]
    for site, value in network.values_read(inputs).items():
        for neuron, read in zip(network.program.ids[site].tolist(), value.unbind(site.axis), strict=True):
            sizes[neuron].append(float(read.abs().mean()))
    return torch.tensor([sum(given) / max(1, len(given)) for given in sizes], dtype=torch.float64)


def test_random_is_the_same_for_the_same_seed() -> None:
    model = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 2))
    task = sn.Task(model, "cross-entropy", (torch.randn(9, 3), torch.arange(9) % 2))
    assert sn.rank(task, "random", seed=1) == sn.rank(task, "random", seed=1)
    assert sn.rank(task, "random", seed=1) != sn.rank(task, "random", seed=2)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", ["ablation", "taylor-1", "empirical-fisher", "taylor-2"])
def test_readers_that_see_samples_on_another_axis_are_scored_alike(name: str, mixed: bool) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            if mixed:  # samples and positions on one axis
                return self.two(torch.tanh(self.one(x.reshape(-1, 4)))).reshape(x.shape[0], 5, 3).mean(1)
            return self.two(torch.tanh(self.one(x.transpose(0, 1)))).mean(0)

    model, rows = Sequence().double(), (torch.randn(5, 5, 4).double(), torch.arange(5) % 3)
    whole, single = (score(name, sn.Task(model, "cross-entropy", rows, batch_size=size)) for size in (5, 1))
    np.testing.assert_allclose(whole.values["one"], single.values["one"], rtol=1e-9, atol=1e-14)
    assert len(set(whole.values["one"].tolist())) == 6


@pytest.mark.parametrize("loss", ["squared-error", "cross-entropy"])
def test_a_loss_of_ones_own_scores_like_the_built_in_one(loss: str) -> None:
    from shrinknet.task.losses import find_loss

    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    rows = (torch.randn(9, 3).double(), torch.arange(9) % 2)
    built_in = find_loss(loss).of

    def own(outputs, targets):
        return built_in(outputs, targets)

    for name in ("ablation", "taylor-2", "gauss-newton"):
        one, other = score(name, sn.Task(model, loss, rows)), score(name, sn.Task(model, own, rows))
        np.testing.assert_allclose(one.values["0"], other.values["0"], rtol=1e-12)


@given(dense_networks(SMOOTH))
def test_optimal_cell_damage_is_the_sum_over_the_weights_that_read_a_neuron(drawn: Drawn) -> None:
    """In the last layer, squared error: second derivatives in single weights by autograd, 1/2 h w^2 added up."""
    task = drawn.task("squared-error")
    layers = [module for module in drawn.model if isinstance(module, nn.Linear)]
    name, last = next(n for n, m in drawn.model.named_modules() if m is layers[-2]), layers[-1]

    def error(weight: torch.Tensor) -> torch.Tensor:
        outputs = torch.func.functional_call(last, {"weight": weight}, (read,))
        return find_loss("squared-error").of(outputs, drawn.targets).mean()

    read = drawn.model[:-1](drawn.inputs).detach()
    weight = last.weight.detach()
    hessian = torch.func.hessian(error)(weight).flatten(2).flatten(0, 1).diagonal().view(weight.shape)
    by_hand = (hessian * weight**2 / 2).sum(0).detach()
    for levenberg_marquardt in (False, True):  # nothing bends behind the last layer
        found = OptimalCellDamage(levenberg_marquardt).score(gated(task), task.calibration.batches())
        np.testing.assert_allclose(found.values[name], by_hand, rtol=1e-8, atol=1e-12)


@given(dense_networks(SMOOTH))
def test_without_the_activations_curvature_no_damage_is_negative(drawn: Drawn) -> None:
    task = drawn.task("squared-error")
    found = OptimalCellDamage(levenberg_marquardt=True).score(gated(task), task.calibration.batches())
    assert min(float(values.min()) for values in found.values.values()) >= 0


def test_the_linear_error_takes_classes_within_the_outputs_alone() -> None:
    for beyond in (3, 4, -1):
        with pytest.raises(sn.BadInputError, match=r"^criterion='skeletonization' must be used with targets that are"):
            linear_error(torch.rand(2, 3), torch.tensor([1, beyond]))


@given(networks, st.sampled_from(["cross-entropy", "squared-error"]))
def test_relevance_is_the_slope_of_the_linear_error(drawn: Drawn, loss: str) -> None:
    network = gated(drawn.task(loss))
    targets = nn.functional.one_hot(drawn.targets, 3).double()
    gates = torch.ones(len(drawn.inputs), len(network.present), dtype=torch.float64, requires_grad=True)
    outputs = network.program.outputs(drawn.inputs, network.gating_by_sample(gates))
    answers = outputs.softmax(1) if loss == "cross-entropy" else outputs
    (slopes,) = torch.autograd.grad((answers - targets).abs().sum(), gates)
    batches = [Batch(*rows) for rows in zip(drawn.inputs.split(2), drawn.targets.split(2), strict=True)]
    mean, running = Skeletonization().score(network, batches), Skeletonization(smoothing=0.8).score(network, batches)
    for group, values in network.by_group(-slopes.detach()).items():
        np.testing.assert_allclose(mean.values[group], values.mean(0), rtol=1e-8, atol=1e-12)
        rho = torch.zeros(values.shape[1], dtype=torch.float64)
        for row in values:  # the paper's own update
            rho = 0.8 * rho + 0.2 * row
        np.testing.assert_allclose(running.values[group], rho, rtol=1e-8, atol=1e-12)


@given(dense_networks())
def test_unit_obs_is_the_rise_that_optimal_brain_surgeon_promises(drawn: Drawn) -> None:
    network = gated(drawn.task())
    found = UnitOBS(ridge=1e-2).score(network, drawn.task().calibration.batches())
    values = network.program.run(drawn.inputs, None, keep=True)
    for reader in readers(network.program):
        node = reader.node
        moments = Moments.of(reader, values[node.args[0]], values[node])
        alive = torch.ones(len(reader.owners) + 1, dtype=torch.bool)
        whole = surgeon.inverse(moments, alive, 1e-2)
        weights = reader.matrix(network.program.constants)
        for group in network.groups:
            for index, identity in enumerate(network.trace.ids_of(group)):
                columns = (reader.owners == identity).nonzero()[:, 0]
                if len(columns):
                    rise = surgeon.rise(whole, weights, columns).sum()
                    assert found[sn.Neuron(group.name, index)] == pytest.approx(float(rise), rel=1e-6, abs=1e-12)


def test_unit_obs_of_a_channel_that_is_read_at_many_positions_takes_all_its_columns_at_once() -> None:
    """By least squares: what the reader's outputs lose at best when the other columns make up for the channel's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    rows = torch.randn(60, 1, 4, 4).double()
    found = UnitOBS(ridge=0.0).score(
        gated(task := sn.Task(model, "cross-entropy", (rows, torch.arange(60) % 2))), task.calibration.batches()
    )
    with torch.no_grad():
        read, given = model[:3](rows), model(rows)
        for channel in range(3):
            others = torch.ones(12, dtype=torch.bool)
            others[4 * channel : 4 * channel + 4] = False
            design = torch.cat([read[:, others], torch.ones(60, 1)], 1)
            left = given - design @ torch.linalg.lstsq(design, given).solution
            assert found.values["0"][channel] == pytest.approx(float(left.square().sum()) / 60, rel=1e-6)


def test_unit_obs_with_white_readings_is_the_norm_of_the_outgoing_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 3, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
    rows = 2 * torch.cat([torch.eye(4), -torch.eye(4)]).double()  # mean x x^T = I, mean x = 0
    task = sn.Task(model, "cross-entropy", (rows, torch.arange(8) % 3))
    found = UnitOBS(ridge=0.0).score(gated(task), task.calibration.batches())
    np.testing.assert_allclose(found.values["0"], model[1].weight.detach().square().sum(0), rtol=1e-9)


def test_sequential_attention_ends_when_every_neuron_is_picked() -> None:
    """Groups smaller than the number of rounds."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2))
    task = sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    assert len(sn.rank(task, "sequential-attention")) == 9


def test_sequential_attention_looks_at_the_data_once_for_each_step_of_each_round() -> None:
    class Counting(SequentialAttention):
        looks = 0

        def observe(self, attention, batch):
            self.looks += 1
            return super().observe(attention, batch)

    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    criterion = Counting(rounds=3, steps=4)
    sn.rank(sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2)), criterion)
    assert criterion.looks == 3 * 4


def test_sequential_attention_picks_what_the_loss_needs_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 2, bias=False)).double()
    sizes = torch.tensor([0.1, 3.0, 0.0, 0.5, 1.0, 0.3], dtype=torch.float64)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(6))
        model[1].weight.copy_(torch.stack([sizes, -sizes]))
    inputs = torch.randn(400, 6, dtype=torch.float64)
    targets = ((inputs * sizes).sum(1) < 0).long()
    task = sn.Task(model, "cross-entropy", (inputs, targets))
    criterion = SequentialAttention(rounds=6, steps=40)
    order = [neuron.index for neuron, _ in sn.rank(task, criterion)]
    assert order[-3:] == [3, 4, 1], "picked first goes last"
    assert order[0] in (0, 2)
    assert sn.rank(task, SequentialAttention(rounds=6, steps=40)) == sn.rank(task, criterion), "same seed, same order"
