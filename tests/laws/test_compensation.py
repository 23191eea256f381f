"""Compensation: what a refit must give, beside slow twins; what it must not touch; and that the proof covers it."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, conv_networks, dense_networks
from references.surgeon import inverse, rise, without
from torch import nn

import shrinknet as sn
from shrinknet.compensation.compensate import (
    MANY,
    Compensation,
    compensation_of,
)
from shrinknet.compensation.curvature import Bend, by_curvature, curvatures, with_floor
from shrinknet.compensation.least_squares import (
    FOLDS,
    RIDGES,
    Moments,
    best_ridge,
    least_squares,
    means,
    residual_maker,
    scaled,
    with_ones,
)
from shrinknet.compensation.readers import readers
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.measure.evaluation import evaluate
from shrinknet.run.checking import check_files

KINDS = ("mean", "constant", "scale", "least-squares", "newton")
ROUNDING = 1e-9


def many_rows(drawn: Drawn, count: int = 400) -> Drawn:
    """The same network with enough rows to determine every fit."""
    inputs = torch.randn(count, *drawn.inputs.shape[1:], dtype=torch.float64)
    return Drawn(drawn.model, inputs, torch.randint(0, 3, (count,)))


def removals(data: st.DataObject, network: GatedNetwork) -> list[sn.Neuron]:
    """At least one neuron, and never a whole group."""
    group = data.draw(st.sampled_from(network.groups))
    return list(group.neurons[: data.draw(st.integers(1, max(1, group.width - 1)))])


def outputs(network: GatedNetwork, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.outputs(inputs)


@given(dense_networks(), st.data())
def test_folding_the_mean_of_a_constant_neuron_changes_nothing(drawn: Drawn, data) -> None:
    drawn = many_rows(drawn)
    network = drawn.network
    (neuron,) = data.draw(st.sampled_from(network.groups)).neurons[:1]
    with torch.no_grad():  # its output is the same whatever comes in
        drawn.model[int(neuron.group)].weight[neuron.index] = 0
    network = drawn.network
    reader = next(one for one in readers(network.program) if (one.owners == _id(network, neuron)).any())
    if reader.bias is None:
        return
    refit = Compensation("mean", drawn.task(), network).refit(network.without([neuron]), [neuron])
    assert torch.dist(outputs(refit, drawn.inputs), outputs(network, drawn.inputs)) < ROUNDING


def test_folding_the_mean_into_a_batch_norm_changes_nothing_either() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(),
        nn.Linear(20, 3),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 2
        model[3].running_mean.normal_()
    task = sn.Task(model, "cross-entropy", (torch.randn(50, 1, 2, 2, dtype=torch.float64), torch.arange(50) % 3))
    network, neuron = gated(task), sn.Neuron("0", 1)
    refit = Compensation("mean", task, network).refit(network.without([neuron]), [neuron])
    inputs = next(task.calibration.batches()).inputs
    assert torch.dist(outputs(refit, inputs), outputs(network, inputs)) < ROUNDING
    assert set(refit.program.tensors) == {"3.running_mean", "3.running_var", "6.bias"}


def test_the_statistics_of_a_norm_move_as_those_of_what_it_reads() -> None:
    """The mean by as much, the variance by as large a factor; a channel that said one thing keeps its variance."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        model[2].weight[4] = 0
        model[3].running_mean.normal_()
        model[3].running_var.uniform_(0.5, 2)
    task = sn.Task(model, "cross-entropy", (torch.randn(50, 1, 2, 2, dtype=torch.float64), torch.arange(50) % 3))
    network, gone = gated(task), [sn.Neuron("0", index) for index in (1, 2, 3)]
    refit = Compensation("least-squares", task, network).refit(network.without(gone), gone)
    (norm,) = (node for node in network.program.nodes if "batch_norm" in node.name)
    inputs = next(task.calibration.batches()).inputs
    with torch.no_grad():
        before = network.program.run(inputs, None, keep=True)[norm.args[0]]
        after = refit.program.run(inputs, refit.gating(), keep=True)[norm.args[0]]
    moved = refit.program.tensors
    shift = after.mean((0, 2, 3)) - before.mean((0, 2, 3))
    factor = (after.var((0, 2, 3)) / before.var((0, 2, 3)))[:4]
    assert factor.max() < 0.99, "what is fit says less than what it was"
    assert torch.allclose(moved["3.running_mean"] - model[3].running_mean, shift, atol=ROUNDING)
    assert torch.allclose(moved["3.running_var"][:4] / model[3].running_var[:4], factor, atol=ROUNDING)
    assert moved["3.running_var"][4] == model[3].running_var[4]


@pytest.mark.parametrize("layer", [
    nn.Linear(6, 4), nn.Conv1d(6, 4, 3), nn.Conv1d(6, 4, 4, stride=2, padding=3, dilation=2), nn.Conv2d(6, 4, (3, 1)),
    nn.Conv2d(6, 4, (2, 3), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), nn.Conv3d(6, 4, 2),
    nn.Conv3d(6, 4, (1, 2, 3), stride=(2, 1, 3), padding=(0, 1, 2), dilation=(1, 3, 1)),
    nn.Conv1d(6, 4, 4, padding="same"), nn.Conv2d(6, 4, 3, groups=2), nn.ConvTranspose1d(6, 4, 3, bias=False),
    nn.ConvTranspose2d(6, 4, (3, 2), stride=(2, 3), padding=1, output_padding=(1, 0), dilation=(1, 2)),
    nn.ConvTranspose2d(6, 4, 3, groups=2), nn.ConvTranspose3d(6, 4, 2, stride=2),
], ids=str)  # fmt: skip
def test_what_is_laid_out_times_the_weights_is_what_the_layer_gives(layer: nn.Module) -> None:
    dims = layer.weight.dim() - 2
    before = nn.Linear(5, 6) if dims == 0 else {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims](1, 6, 1)
    model = nn.Sequential(before, nn.Sigmoid(), layer, nn.Flatten(), nn.LazyLinear(3)).double().eval()
    inputs = torch.randn(4, *([5] if dims == 0 else [1, *[9] * dims]), dtype=torch.float64)
    model(inputs)
    network = gated(sn.Task(model, "cross-entropy", (inputs, torch.arange(4) % 3)))
    with torch.no_grad():
        values = network.program.run(inputs, None, keep=True)
    found = [reader for reader in readers(network.program) if str(reader.weight.target) == "2.weight"]
    assert len(found) == getattr(layer, "groups", 1)
    for reader in found:
        rows, given = with_ones(reader.read(reader.reads(values, values))), reader.given(reader.gives(values))
        assert given.shape[1] == reader.num_outputs
        assert len(rows) == 4 * reader.num_positions
        assert torch.allclose(rows @ reader.matrix(values).T, given, rtol=0, atol=ROUNDING)
        again = reader.weights_of(reader.matrix(values)[:, :-1], torch.zeros_like(layer.weight))
        assert torch.equal(reader.columns(again), reader.columns(layer.weight))


class Tagger(nn.Module):
    """A recurrent layer of recurrent layers, read step by step; `first` is what the last unit of each is a copy of."""

    def __init__(self, kind: type[nn.RNNBase], **how: bool) -> None:
        super().__init__()
        self.cells = nn.ModuleList([kind(3, 5, **how), kind(5, 4, **how)])
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[samples, steps, 3] -> [samples, 3]."""
        turned = not self.cells[0].batch_first
        x = x.transpose(0, 1) if turned else x
        for cell in self.cells:
            x, _ = cell(x)
        x = x.transpose(0, 1) if turned else x
        return self.head(x).mean(1)


def with_copies(model: Tagger) -> Tagger:
    """The last unit of each layer does what its first one does."""
    for cell in model.cells:
        gates = cell.weight_ih_l0.shape[0] // cell.hidden_size
        for name, value in cell.named_parameters():
            if name != "weight_hr_l0":
                rows = value.data.view(gates, cell.hidden_size, -1)
                rows[:, -1] = rows[:, 0]
    return model


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("how", [{"batch_first": True}, {"batch_first": False}, {"batch_first": True, "bias": False}])
def test_a_unit_of_a_recurrent_layer_that_does_what_another_does_goes_without_a_trace(kind, how) -> None:
    torch.manual_seed(0)
    model = with_copies(Tagger(kind, **how)).double()
    inputs = torch.randn(40, 6, 3, dtype=torch.float64)
    task = sn.Task(model, "cross-entropy", (inputs, torch.arange(40) % 3))
    network = gated(task)
    compensation = Compensation("least-squares", task, network, 1e-12)
    before = outputs(network, inputs)
    for group in network.groups:
        gone = [group.neurons[-1]]
        assert torch.dist(outputs(network.without(gone), inputs), before) > 1e-4, "it does something"
        refit = compensation.refit(compensation.restart().without(gone), gone)
        assert torch.dist(outputs(refit, inputs), before) < 1e-6
    whole = [group.neurons[-1] for group in network.groups]
    refit = compensation.refit(compensation.restart().without(whole), whole)
    assert torch.dist(outputs(refit, inputs), before) < 1e-6


@pytest.mark.parametrize("how", [{"batch_first": True}, {"batch_first": False}, {"batch_first": True, "bias": False}])
def test_what_a_recurrent_layer_reads_is_its_inputs_and_its_states_one_step_before(how) -> None:
    torch.manual_seed(0)
    model = Tagger(nn.RNN, **how).double()
    inputs = torch.randn(8, 6, 3, dtype=torch.float64)
    network = gated(sn.Task(model, "cross-entropy", (inputs, torch.arange(8) % 3)))
    with torch.no_grad():
        values = network.program.run(inputs, None, keep=True)
    by_layer: dict = {}
    for reader in readers(network.program):
        if reader.node.name.startswith("rnn"):
            assert reader.num_positions == 6
            read = with_ones(reader.read(reader.reads(values, values)))
            given = reader.given(reader.gives(values))
            assert torch.allclose(read @ reader.matrix(values).T, given, rtol=0, atol=ROUNDING)
            by_layer.setdefault(reader.node, []).append(reader.gives(values))
    assert len(by_layer[list(by_layer)[-1]]) == 2, "inputs that are neurons, and states"
    node = list(by_layer)[-1]
    outputs_of = values[node][0] if how["batch_first"] else values[node][0].transpose(0, 1)
    assert torch.allclose(torch.tanh(sum(by_layer[node])), outputs_of, rtol=0, atol=ROUNDING)


def test_of_a_recurrent_layer_only_the_weights_that_read_what_is_gone_are_refit() -> None:
    torch.manual_seed(0)
    task = sn.Task(Tagger(nn.GRU, batch_first=True), "cross-entropy", (torch.randn(40, 6, 3), torch.arange(40) % 3))
    network = gated(task)
    first, last = (group.neurons[:1] for group in network.groups)
    own = [Compensation("least-squares", task, network).refit(network.without(gone), gone) for gone in (first, last)]
    by_first, by_last = (set(refit.program.tensors) for refit in own)
    assert {"cells.0.weight_hh_l0", "cells.1.weight_ih_l0"} < by_first
    assert "cells.1.weight_hh_l0" not in by_first, "its states are taken as they were, and none of them is gone"
    assert "cells.1.weight_hh_l0" in by_last
    assert not {"cells.1.weight_ih_l0", "cells.0.weight_hh_l0"} & by_last, (
        "what it reads of the layer before is the same"
    )


class Turned(nn.Module):
    """Dense layers as Hugging Face's Conv1D and as a plain product write them: x W + b."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.before, self.plain = nn.Linear(3, 6), plain
        self.weight, self.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[samples, places, 3] -> [samples, places, 4]."""
        x = self.before(x).tanh()
        if self.plain:
            return x @ self.weight
        return torch.addmm(self.bias, x.flatten(0, 1), self.weight).view(*x.shape[:2], 4)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", ["mean", "constant", "scale", "least-squares"])
def test_a_neuron_that_a_matrix_reads_the_other_way_round_goes_without_a_trace(plain: bool, kind: str) -> None:
    torch.manual_seed(0)
    model = Turned(plain).double()
    with torch.no_grad():
        for one in (model.before.weight, model.before.bias):
            one[-1] = one[0]
    inputs = torch.randn(50, 5, 3, dtype=torch.float64)
    task = sn.Task(model, "each-token", (inputs, torch.arange(250).view(50, 5) % 4))
    network, (group,) = gated(task), gated(task).groups
    (reader,) = readers(network.program)
    assert (reader.num_positions, reader.num_outputs) == (5, 4)
    whole, gone = outputs(network, inputs), [group.neurons[-1]]
    refit = Compensation(kind, task, network, 1e-12).refit(network.without(gone), gone)
    left, now = (float(torch.dist(outputs(one, inputs), whole)) for one in (network.without(gone), refit))
    if kind == "least-squares":
        assert now < 1e-6 < left
    elif kind == "mean":
        assert now == left if plain else now < left
    elif kind == "scale":
        assert now < left


@pytest.mark.parametrize("layer", [
    nn.Conv2d(8, 6, 3, groups=2), nn.ConvTranspose2d(8, 6, 3, stride=2), nn.ConvTranspose1d(8, 6, 3, groups=2),
    nn.ConvTranspose3d(8, 6, 2), nn.Conv1d(8, 6, 4, padding="same"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", ["mean", "scale", "least-squares", "constant"])
def test_a_channel_that_does_what_another_does_goes_without_a_trace(layer: nn.Module, kind: str) -> None:
    torch.manual_seed(0)
    dims = layer.weight.dim() - 2
    before = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims](1, 8, 1)
    half = 4 if layer.groups == 2 else 8
    with torch.no_grad():
        for one in (before.weight, before.bias):
            one.copy_(one.unflatten(0, (-1, half))[:, [0, 1, 2, 0, *range(4, half)]].flatten(0, 1))
    model = nn.Sequential(before, nn.Tanh(), layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)).double().eval()
    inputs = torch.randn(60, 1, *[5] * dims, dtype=torch.float64)
    model(inputs)
    task = sn.Task(model, "cross-entropy", (inputs, torch.arange(60) % 3))
    network, gone = gated(task), [sn.Neuron("0", 3)]
    refit = Compensation(kind, task, network, 1e-12).refit(network.without(gone), gone)
    whole = outputs(network, inputs)
    left, now = (float(torch.dist(outputs(one, inputs), whole)) for one in (network.without(gone), refit))
    assert left > 1e-3, "it does something"
    if kind == "least-squares":
        assert now < 1e-6
    elif kind != "constant":  # which looks at the loss alone
        assert now < left


@given(st.one_of(dense_networks(), conv_networks()), st.data())
def test_after_least_squares_each_readers_error_is_the_closed_forms(drawn: Drawn, data) -> None:
    """The mean square between what a reader gave and gives now, measured by running it, is that of its moments."""
    drawn = many_rows(drawn)
    network = drawn.network
    gone = removals(data, network)
    compensation = Compensation("least-squares", drawn.task(), network)
    refit = compensation.refit(network.without(gone), gone)
    with torch.no_grad():
        before = network.program.run(drawn.inputs, None, keep=True)
        after = refit.program.run(drawn.inputs, refit.gating(), keep=True)
    present = torch.from_numpy(refit.present)
    for node, (reader,) in compensation.readers.items():
        if str(reader.weight.target) not in refit.program.tensors:
            continue
        moments = Moments.of(reader, after[node.args[0]], before[node])
        weights = reader.matrix(refit.program.constants)
        weights[:, :-1] *= present[reader.owners]
        measured = (reader.given(after[node]) - reader.given(before[node])).square().mean(0)
        rounding = ROUNDING * float(moments.power.max() + 1)
        assert torch.allclose(moments.error(weights), measured, rtol=0, atol=rounding)
        left = reader.matrix(network.program.constants)
        left[:, :-1] *= present[reader.owners]
        assert bool((measured <= moments.error(left) + rounding).all()), "no reader is worse off than left as it was"


@given(st.integers(0, 2**16), st.booleans())
def test_factors_of_neurons_are_those_of_one_large_least_squares(seed: int, has_bias: bool) -> None:
    """The slow twin lays out a row for each output of each row, a column for each neuron, and one for each bias."""
    torch.manual_seed(seed)
    owners, alive = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([True, True, False, False, True, True, has_bias])
    x = with_ones(torch.randn(40, 6, dtype=torch.float64) + 0.5)
    weights, y = torch.randn(3, 7, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64)
    moments = Moments(x.T @ x / 40, x.T @ y / 40, y.square().mean(0), 40)
    ridge = 1e-3
    fit = scaled(moments, weights, owners, alive, ridge)

    given = torch.stack([(x[:, :6] * (owners == owner)) @ weights[:, :6].T for owner in (0, 2)], -1)
    biases = torch.eye(3, dtype=torch.float64).expand(40, 3, 3) * has_bias
    seen = given - given.mean(0) * has_bias
    held = ridge * seen.square().sum(1).mean(0).mean()
    rows = torch.cat([given, biases], -1).flatten(0, 1) / 40**0.5
    hold = torch.cat([torch.eye(2, dtype=torch.float64) * held**0.5, torch.zeros(2, 3, dtype=torch.float64)], 1)
    wanted = torch.cat([y.flatten() / 40**0.5, held**0.5 * torch.ones(2, dtype=torch.float64)])
    twin = torch.linalg.pinv(torch.cat([rows, hold])) @ wanted
    assert torch.allclose(fit[:, :2], weights[:, :2] * twin[0], atol=ROUNDING)
    assert torch.allclose(fit[:, 4:6], weights[:, 4:6] * twin[1], atol=ROUNDING)
    assert torch.allclose(fit[:, 6], twin[2:] * has_bias, atol=ROUNDING)
    assert not fit[:, 2:4].any()


@given(st.one_of(dense_networks(), conv_networks()), st.data())
def test_with_factors_the_first_reader_errs_no_more_than_with_means_and_no_less_than_least_squares(drawn, data) -> None:
    drawn = many_rows(drawn)
    network = drawn.network
    gone, errors = removals(data, network), []
    with torch.no_grad():
        before = network.program.run(drawn.inputs, None, keep=True)
    for kind in ("mean", "scale", "least-squares"):
        refit = Compensation(kind, drawn.task(), network, 1e-12).refit(network.without(gone), gone)
        node = next(one.node for one in readers(network.program) if reads(one, network, gone))
        with torch.no_grad():
            after = refit.program.run(drawn.inputs, refit.gating(), keep=True)
        errors.append(float((after[node] - before[node]).square().mean()))
    by_means, by_factors, by_weights = errors
    assert by_weights <= by_factors + ROUNDING
    assert by_factors <= by_means + ROUNDING


def reads(reader, network: GatedNetwork, gone: list[sn.Neuron]) -> bool:
    return any(bool((reader.owners == _id(network, neuron)).any()) for neuron in gone)


@given(st.one_of(dense_networks(), conv_networks()), st.data())
def test_with_constants_the_loss_is_never_higher_than_with_means(drawn: Drawn, data) -> None:
    drawn = many_rows(drawn)
    network, task = drawn.network, drawn.task()
    gone = removals(data, network)
    by_means, by_constants = (
        Compensation(kind, task, network).refit(network.without(gone), gone) for kind in ("mean", "constant")
    )
    losses = [evaluate(one.outputs, task.loss, task.calibration).loss for one in (by_means, by_constants)]
    assert losses[1] <= losses[0] + ROUNDING


def test_constants_lower_the_loss_of_a_network_that_knows_something_and_leave_values_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4),
    ).double().eval()  # fmt: skip
    inputs = torch.randn(300, 1, 6, 6, dtype=torch.float64)
    task = sn.Task(model, "cross-entropy", (inputs, model(4 * inputs).argmax(1)), batch_size=300)
    network, falls = gated(task), 0
    for group in network.groups:
        for neuron in group.neurons:
            losses = []
            for kind in ("mean", "constant"):
                compensation = Compensation(kind, task, network)
                refit = compensation.refit(network.without([neuron]), [neuron])
                losses.append(evaluate(refit.outputs, task.loss, task.calibration).loss)
                with torch.no_grad():
                    again = refit.program.run(compensation.batch.inputs, refit.gating(), keep=True)
                for node, value in again.items():
                    assert torch.allclose(compensation.values[node], value, rtol=0, atol=ROUNDING)
            falls += losses[1] < losses[0] - 1e-4
    assert falls > 0.8 * network.trace.num_neurons


@given(st.one_of(dense_networks(), conv_networks()))
def test_means_are_those_of_all_rows(drawn: Drawn) -> None:
    network = many_rows(drawn, 40).network
    values = network.program.run(many_rows(drawn, 40).inputs, None, keep=True)
    for reader in readers(network.program):
        x, y = values[reader.node.args[0]], values[reader.node]
        read, given = means(reader, x, y)
        assert torch.allclose(read, reader.read(x).double().mean(0), rtol=0, atol=ROUNDING)
        assert torch.allclose(given, reader.given(y).double().mean(0), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["mean", "least-squares"])
@pytest.mark.parametrize("samples", [1, 6])
def test_a_position_of_a_sequence_is_a_row_as_any_other(kind: str, samples: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    inputs = torch.randn(samples, 60, 5, dtype=torch.float64)
    gone, found = [sn.Neuron("0", 2), sn.Neuron("0", 5)], []
    for rows in (inputs, inputs.flatten(0, 1)):
        network = gated(task := sn.Task(model, "squared-error", (rows, torch.zeros(*rows.shape[:-1], 3).double())))
        found.append(Compensation(kind, task, network, RIDGES[1]).refit(network.without(gone), gone).program.tensors)
    assert found[0].keys() == found[1].keys() >= {"2.bias"}
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], rtol=0, atol=ROUNDING)


@given(st.integers(0, 2**16), st.integers(2, 7), st.integers(1, 4))
def test_the_rise_has_its_closed_form_and_the_inverse_is_downdated(seed: int, num_columns: int, num_gone: int) -> None:
    """One reader, its inputs unchanged: the held error after the fit is what Optimal Brain Surgeon says, to 1e-9."""
    torch.manual_seed(seed)
    ridge, num_gone = 1e-3, min(num_gone, num_columns - 1)
    x = with_ones(torch.randn(60, num_columns, dtype=torch.float64) @ torch.randn(num_columns, num_columns).double())
    weights = torch.randn(3, num_columns + 1, dtype=torch.float64)
    y = x @ weights.T
    moments = Moments(x.T @ x / 60, x.T @ y / 60, y.square().mean(0), 60)
    whole, alive = torch.ones(num_columns + 1, dtype=torch.bool), torch.ones(num_columns + 1, dtype=torch.bool)
    gone = torch.randperm(num_columns)[:num_gone]
    alive[gone] = False
    fit = least_squares(moments, weights, alive, ridge)
    held = moments.held(ridge) * (fit - weights)[:, :-1].square().sum(1)
    start = inverse(moments, whole, ridge)
    assert torch.allclose(moments.error(fit) + held, rise(start, weights, gone), rtol=1e-9, atol=ROUNDING)
    assert torch.allclose(without(start, gone), inverse(moments, alive, ridge), rtol=1e-9, atol=ROUNDING)
    one_by_one = start
    for place in sorted(gone.tolist(), reverse=True):
        one_by_one = without(one_by_one, torch.tensor([place]))
    assert torch.allclose(one_by_one, inverse(moments, alive, ridge), rtol=1e-9, atol=ROUNDING)


def test_where_inputs_are_white_the_rise_is_the_weights_norm() -> None:
    """Unit-OBS with H = I is pruning by the norm of the outgoing weights (systems: b.3)."""
    weights = torch.randn(4, 6, dtype=torch.float64)
    rises = torch.stack([rise(torch.eye(6).double(), weights, torch.tensor([k])).sum() for k in range(6)])
    assert torch.allclose(rises, weights.square().sum(0))


@given(dense_networks(), st.data())
def test_what_the_others_do_not_say_is_the_residual_of_a_regression(drawn: Drawn, data) -> None:
    """`residual_maker` beside a least-squares fit by torch of each element on all the others."""
    x = torch.randn(80, 5, dtype=torch.float64) @ torch.randn(5, 5).double()
    rows = with_ones(x)
    alive = torch.tensor([data.draw(st.booleans()) for _ in range(5)])
    if alive.sum() < 2:
        return
    left = rows @ residual_maker(rows.T @ rows / 80, torch.arange(1, 6), alive, 0.0)
    for place in alive.nonzero()[:, 0].tolist():
        others = rows[:, [*(k for k in range(5) if alive[k] and k != place), 5]]
        fit = torch.linalg.lstsq(others, x[:, place]).solution
        assert torch.allclose(left[:, place], x[:, place] - others @ fit, atol=1e-7)
    assert not left[:, ~alive].any()


def test_what_the_others_do_not_say_of_a_neuron_that_is_read_in_several_places() -> None:
    """The places of one neuron say nothing of each other: they go together."""
    torch.manual_seed(0)
    x = torch.randn(80, 6, dtype=torch.float64) @ torch.randn(6, 6).double()
    rows, owners = with_ones(x), torch.tensor([1, 2, 1, 3, 2, 4])
    alive = owners != 4
    left = rows @ residual_maker(rows.T @ rows / 80, owners, alive, 0.0)
    for place in alive.nonzero()[:, 0].tolist():
        others = rows[:, [*(k for k in range(6) if alive[k] and owners[k] != owners[place]), 6]]
        fit = torch.linalg.lstsq(others, x[:, place]).solution
        assert torch.allclose(left[:, place], x[:, place] - others @ fit, atol=1e-9)
    assert not left[:, ~alive].any()


@pytest.mark.parametrize("kind", ["mean", "least-squares"])
def test_ablation_with_compensation_is_the_true_rise_after_the_refit(kind: str) -> None:
    """For dense readers: each score beside a refit of the network without that neuron, run as a whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.Sigmoid(), nn.Linear(7, 3)).double()
    rows = (torch.randn(200, 6, dtype=torch.float64), torch.arange(200) % 3)
    task = sn.Task(model, "cross-entropy", rows)
    network = gated(task)
    compensation = Compensation(kind, task, network)
    scores = find_criterion("ablation").score(compensation.scoring(network), task.calibration.batches())
    before = evaluate(network.outputs, task.loss, task.calibration).loss
    for group in network.groups[-1:]:
        for neuron in group.neurons:
            alone = Compensation(kind, task, network).refit(network.without([neuron]), [neuron])
            after = evaluate(alone.outputs, task.loss, task.calibration).loss
            assert scores.values[group.name][neuron.index] == pytest.approx(after - before, abs=1e-9)


def test_other_criteria_than_ablation_score_the_network_as_it_stands() -> None:
    """Gauss-Newton replays, too, but says what happens before any refit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3))
    task = sn.Task(model, "cross-entropy", (torch.randn(60, 6), torch.arange(60) % 3))
    runs = [sn.prune(task, "gauss-newton", goals=[sn.RemovedNeurons(1)], compensate=kind) for kind in KINDS[:2]]
    alone = sn.prune(task, "gauss-newton", goals=[sn.RemovedNeurons(1)])
    assert all(run.history[1].scores == pytest.approx(alone.history[1].scores, rel=1e-6) for run in runs)


def images_task() -> sn.Task:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 7), nn.ReLU(),
        nn.Linear(7, 3),
    )  # fmt: skip
    return sn.Task(model, "cross-entropy", (torch.randn(90, 1, 6, 6), torch.arange(90) % 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_refits_to_the_bits_of_what_it_was_made_of_and_leaves_that_as_it_was(kind: str) -> None:
    task = images_task()
    network, portions = gated(task), ([sn.Neuron("0", 1)], [sn.Neuron("5", 2)], [sn.Neuron("2", 0), sn.Neuron("0", 3)])
    tried, alone = Compensation(kind, task, network), Compensation(kind, task, network)
    here, there = network, network
    for gone in portions:
        trial, astray = tried.trial(), [sn.Neuron("0", 4), sn.Neuron("5", 6)]
        refit = trial.refit(here.without(gone), gone)
        trial.refit(refit.without(astray), astray)
        here, there = tried.refit(here.without(gone), gone), alone.refit(there.without(gone), gone)
        for name, tensor in there.program.tensors.items():
            assert torch.equal(here.program.tensors[name], tensor)
            assert torch.equal(refit.program.tensors[name], tensor)
        assert tried.latest is here


@pytest.mark.parametrize("kind", ["mean", "least-squares"])
def test_what_is_remembered_from_one_ranking_to_the_next_changes_no_bit(kind: str) -> None:
    """Looked at after every refit, or after the last one alone, or once more from the start."""
    task = images_task()
    network = gated(task)
    looked, last = Compensation(kind, task, network), Compensation(kind, task, network)
    here, there = network, network
    looked.scoring(here)
    for gone in ([sn.Neuron("0", 1)], [sn.Neuron("5", 2)], [sn.Neuron("2", 0), sn.Neuron("0", 3)]):
        here, there = looked.refit(here.without(gone), gone), last.refit(there.without(gone), gone)
        found = looked.scoring(here).residual_maker
    expected = last.scoring(there).residual_maker
    assert found.keys() == expected.keys()
    assert all(torch.equal(matrix, expected[site]) for site, matrix in found.items())
    first = Compensation(kind, task, network).scoring(network).residual_maker
    again = looked.scoring(looked.restart()).residual_maker
    assert all(torch.equal(matrix, first[site]) for site, matrix in again.items())


@pytest.mark.parametrize("kind", KINDS)
def test_only_readers_that_read_something_new_change(kind: str) -> None:
    """Removing from one branch leaves the readers of the other as they are, to the bit."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.a2, self.b, self.b2 = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.a2(torch.relu(self.a(x))) + self.b2(torch.relu(self.b(x)))

    torch.manual_seed(0)
    task = sn.Task(Branches().double(), "cross-entropy", (torch.randn(90, 4).double(), torch.arange(90) % 3))
    network = gated(task)
    gone = [sn.Neuron("a", 2)]
    refit = Compensation(kind, task, network).refit(network.without(gone), gone)
    assert set(refit.program.tensors) <= {"a2.weight", "a2.bias"}
    weight = refit.program.tensors.get("a2.weight", task.model.a2.weight)
    assert torch.equal(weight[:, 2], task.model.a2.weight[:, 2]), "the column that nothing reads stays as it is"


@pytest.mark.parametrize("kind", KINDS)
def test_the_proof_covers_the_compensated_network(kind: str, tmp_path) -> None:
    """Masked with refit weights = cut, its files, the user's own module, and other sizes of the family."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
        nn.Flatten(), nn.Linear(80, 9), nn.ReLU(), nn.Linear(9, 3),
    ).eval()  # fmt: skip
    untouched = copy.deepcopy(model.state_dict())
    rows = (torch.randn(120, 1, 8, 8), torch.arange(120) % 3)
    task = sn.Task(model, "cross-entropy", rows, rows, rows)
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(9)], step=2, compensate=kind, out=tmp_path / "run")
    assert run.verification.holds
    assert all(torch.equal(value, untouched[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(run.model(rows[0]), run.network.outputs(rows[0]), atol=1e-5)
    assert all(difference.holds for difference in check_files(run).values())
    assert run.history[-1].bare is not None
    assert run.history[-1].bare.costs == run.history[-1].measures.costs
    smaller = run.at(sn.RemovedNeurons(5))
    assert smaller.verification.holds
    portions = [step.removed for step in run.history[:3]]
    again = compensation_of(kind, task, gated(task)).after([*portions, smaller.plan.removed[4:]])
    assert torch.equal(again.outputs(rows[0]), smaller.network.outputs(rows[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_is_never_killed(kind: str, tmp_path) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    rows = (torch.randn(150, 5), torch.arange(150) % 3)

    def run(out, **options):
        return sn.prune(sn.Task(model, "cross-entropy", rows, rows), goals=[sn.RemovedNeurons(8)], compensate=kind,
                        out=out, **options)  # fmt: skip

    whole = run(tmp_path / "whole")
    torn = run(tmp_path / "torn")
    history = tmp_path / "torn" / "history.csv"
    history.write_text("\n".join(history.read_text().splitlines()[:5]) + "\n0,")
    for name in ("summary.json", "model.pt2"):
        (tmp_path / "torn" / name).unlink()
    torn = run(tmp_path / "torn", resume=True)
    assert torn.plan == whole.plan
    assert [_figures(step) for step in torn.history] == [_figures(step) for step in whole.history]
    assert (tmp_path / "torn" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert [step.bare for step in torn.folder.history()][1:] == [step.bare for step in whole.folder.history()][1:]


def test_curvature_is_the_losss_own() -> None:
    """Softmax cross-entropy behind a linear reader: diag(p) - p p^T."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    task = sn.Task(model, "cross-entropy", (torch.randn(7, 4).double(), torch.arange(7) % 3))
    network, batch = gated(task), next(task.calibration.batches())
    with torch.no_grad():
        values = network.program.run(batch.inputs, None, keep=True)
    (reader,) = readers(network.program)
    found = curvatures(network, reader.node, values, batch.targets)
    p = model(batch.inputs).softmax(1)
    assert torch.allclose(found, torch.diag_embed(p) - p[:, :, None] * p[:, None], atol=1e-12)


def test_curvature_goes_back_through_what_stands_behind_the_reader() -> None:
    """Behind a sigmoid: s H s with H the loss's own second derivative and s the sigmoid's slope."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Sigmoid()).double()
    task = sn.Task(model, "squared-error", (torch.randn(7, 4).double(), torch.rand(7, 3).double()))
    network, batch = gated(task), next(task.calibration.batches())
    with torch.no_grad():
        values = network.program.run(batch.inputs, None, keep=True)
        p = model(batch.inputs)
    (reader,) = readers(network.program)

    def loss(outputs, target):
        return task.loss.of(outputs[None], target[None]).sum()

    bent = torch.stack([torch.autograd.functional.hessian(lambda o, t=t: loss(o, t), one)
                        for one, t in zip(p, batch.targets, strict=True)])  # fmt: skip
    slope = p * (1 - p)
    found = curvatures(network, reader.node, values, batch.targets)
    assert torch.allclose(found, slope[:, :, None] * bent * slope[:, None], atol=1e-12)


def test_every_sample_holds_newtons_fit_in_every_direction() -> None:
    """Softmax's curvature says nothing of adding the same to all outputs, and next to nothing where an answer is sure."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        model[2].weight *= 20
    task = sn.Task(model, "cross-entropy", (torch.randn(60, 4).double(), torch.arange(60) % 3))
    network, gone = gated(task), [sn.Neuron("0", 1)]
    (reader,) = readers(network.program)
    values = network.program.run(next(task.calibration.batches()).inputs, None, keep=True)
    bare = curvatures(network, reader.node, values, next(task.calibration.batches()).targets)
    mean = bare.diagonal(dim1=1, dim2=2).mean()
    assert torch.linalg.eigvalsh(bare).min() < 1e-9 * mean
    assert torch.linalg.eigvalsh(with_floor(bare)).min() == pytest.approx(0.1 * float(mean))
    compensation = Compensation("newton", task, network)
    compensation.refit(network.without(gone), gone)
    (bend,) = compensation._bends.values()
    system = torch.stack([bend.times(one.view(3, 6)).flatten() for one in torch.eye(18).double()])
    assert torch.allclose(system, system.T, atol=1e-12)
    assert torch.linalg.matrix_rank(system) == 18


def test_newtons_fit_is_where_what_it_holds_down_has_no_slope() -> None:
    torch.manual_seed(0)
    x, y, some = torch.randn(40, 5).double(), torch.randn(40, 3).double(), torch.randn(40, 3, 3).double()
    curvature, weights = some @ some.mT, torch.randn(3, 5).double()
    alive = torch.tensor([True, True, False, True, True])
    fit = by_curvature(Bend(x, y, curvature), weights, alive, ridge=0.3).requires_grad_()
    assert not fit[:, ~alive].any()
    moved = x @ fit.T - y
    held = 0.3 * (curvature.diagonal(dim1=1, dim2=2).T @ x.square() / 40)[:, alive].mean()
    away = torch.einsum("ni,nij,nj->", moved, curvature, moved) / 40 + held * (fit - weights).square().sum()
    (slope,) = torch.autograd.grad(away, fit)
    assert slope[:, alive].abs().max() < ROUNDING


def test_how_many_rows_a_fit_looks_at_is_told_where_memory_holds_fewer(caplog) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    task = sn.Task(model, "cross-entropy", (torch.randn(40, 4), torch.arange(40) % 3))
    each = gated(task).program.bytes_per_sample
    for memory, rows in ((2 * each * 40, 40), (2 * each * 39, 39)):
        caplog.clear()
        with caplog.at_level("INFO"):
            compensation = Compensation("mean", task, gated(task, scoring=sn.Scoring(memory)))
        assert len(compensation.batch) == rows
        assert ("looks at the first 39 of 40 rows" in caplog.text) == (rows == 39)


def test_newton_holds_the_loss_better_than_least_squares_for_the_last_reader() -> None:
    """By the second-order model that it minimises; least squares minimises another."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    task = sn.Task(model, "cross-entropy", (torch.randn(300, 6).double(), torch.arange(300) % 4))
    network, gone = gated(task), [sn.Neuron("0", k) for k in range(6)]
    batch = next(task.calibration.batches())
    with torch.no_grad():
        y = network.outputs(batch.inputs)
        bend = curvatures(network, network.program.output, {network.program.output: y}, batch.targets)
    held = {}
    for kind in ("least-squares", "newton"):
        refit = Compensation(kind, task, network, ridge=1e-9).refit(network.without(gone), gone)
        moved = outputs(refit, batch.inputs) - y
        held[kind] = float(torch.einsum("ni,nij,nj->", moved, bend, moved))
    assert held["newton"] < held["least-squares"]


@given(st.integers(0, 2**16), st.sampled_from([15, 40]))
def test_the_ridge_is_the_one_that_samples_left_out_choose(seed: int, num_rows: int) -> None:
    """The slow twin lays out the rows of all parts but one, fits them by one least squares, and tries the rest."""
    torch.manual_seed(seed)
    x = with_ones(torch.randn(num_rows, 8, dtype=torch.float64))
    weights = torch.randn(3, 9, dtype=torch.float64)
    alive = torch.ones(9, dtype=torch.bool)
    alive[0] = False
    y = x @ weights.T + torch.randn(num_rows, 3, dtype=torch.float64)

    def error(ridge: float) -> float:
        total = 0.0
        for place in range(FOLDS):
            out = torch.arange(num_rows) % FOLDS == place
            rows, columns = x[~out][:, alive], alive.nonzero()[:, 0]
            held = (ridge * x[~out][:, :-1].square().mean()) ** 0.5 * torch.eye(8, dtype=torch.float64)
            held[-1] = 0  # the bias is not held
            system = torch.cat([rows / len(rows) ** 0.5, held])
            wanted = torch.cat([y[~out] / len(rows) ** 0.5, held @ weights[:, columns].T])
            fit = torch.linalg.lstsq(system, wanted).solution
            total += float((x[out][:, alive] @ fit - y[out]).square().sum())
        return total

    parts = [
        Moments(part.T @ part / len(part), part.T @ given / len(part), given.square().mean(0), len(part))
        for part, given in ((x[place::FOLDS], y[place::FOLDS]) for place in range(FOLDS))
    ]
    found = best_ridge(parts, lambda moments, ridge: least_squares(moments, weights, alive, ridge))
    assert error(found) <= min(map(error, RIDGES)) * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["scale", "least-squares", "joint"])
def test_fewer_rows_than_unknowns_are_fit_with_a_stronger_ridge(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 60), nn.ReLU(), nn.Linear(60, 5)).double()
    few, many = torch.randn(30, 10, dtype=torch.float64), torch.randn(2000, 10, dtype=torch.float64)
    task = sn.Task(model, "squared-error", (few, model(few).detach()))
    network, gone = gated(task), [sn.Neuron("0", index) for index in range(0, 60, 4)]
    y, errors = outputs(network, many), {}
    for ridge in (None, 1e-6):
        compensation = Compensation(kind, task, network, ridge)
        errors[ridge] = torch.dist(outputs(compensation.refit(network.without(gone), gone), many), y)
    by_means = Compensation("mean", task, network).refit(network.without(gone), gone)
    assert errors[None] < errors[1e-6] or kind == "scale"
    assert errors[None] < torch.dist(outputs(by_means, many), y)


def test_what_keeps_its_weights_is_said(caplog) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared = nn.Linear(5, 6), nn.Linear(6, 6)
            self.cell = nn.LSTM(6, 8, proj_size=4, batch_first=True)
            self.head = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.cell(self.shared(self.shared(self.first(x)).relu()).relu())[0][:, -1])

    task = sn.Task(Twice(), "cross-entropy", (torch.randn(40, 5, 5), torch.arange(40) % 3))
    caplog.set_level(logging.INFO, "shrinknet")
    for kind, is_said in (("none", False), ("mean", True)):
        caplog.clear()
        sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(2)], compensate=kind)
        said = [text for text in caplog.messages if text.startswith("Not refit")]
        assert (
            said
            == ["Not refit, whatever goes before them: linear (in 'shared'), lstm (in 'cell'), linear (in 'head')."]
            * is_said
        )


def test_where_samples_are_many_the_ridge_is_not_chosen(monkeypatch) -> None:
    monkeypatch.setattr("shrinknet.compensation.compensate.best_ridge", lambda parts, fit: pytest.fail("chosen"))
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    rows = torch.randn(MANY * 10, 4, dtype=torch.float64), torch.arange(MANY * 10) % 3
    network, gone = gated(task := sn.Task(model, "cross-entropy", rows)), [sn.Neuron("0", 0)]
    compensation = Compensation("least-squares", task, network)
    assert compensation.refit(network.without(gone), gone).program.tensors


def _figures(step: sn.Step) -> tuple:
    measures = step.measures
    return step.removed, step.scores, measures.calibration_loss, measures.validation_loss, measures.costs


def _id(network: GatedNetwork, neuron: sn.Neuron) -> int:
    group = next(one for one in network.groups if one.name == neuron.group)
    return network.trace.ids_of(group).start + neuron.index


def test_compensation_of_a_grown_network_is_not_shared() -> None:
    """A refit network is a new one: the network that it came of gives what it gave."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    task = sn.Task(model, "cross-entropy", (torch.randn(40, 4), torch.arange(40) % 3))
    network = gated(task)
    batch = next(task.calibration.batches())
    before = network.kept_outputs(batch).clone()
    refit = Compensation("least-squares", task, network).refit(
        network.without([sn.Neuron("0", 0)]), [sn.Neuron("0", 0)]
    )
    assert not torch.equal(refit.kept_outputs(batch), before)
    assert torch.equal(network.kept_outputs(batch), before)
    assert torch.allclose(refit.kept_outputs(batch), refit.outputs(batch.inputs), atol=1e-6)
    assert replace(network, residual_maker={}).outputs(batch.inputs).equal(network.outputs(batch.inputs))


def test_a_step_that_a_guard_undoes_leaves_no_trace() -> None:
    """The network handed back is refit for the steps that stand, and the order of the rest is scored on it."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3))
    inputs = torch.randn(120, 5)
    with torch.no_grad():
        model[2].weight *= 9
        rows = (inputs, model(inputs).argmax(1))
    guarded = sn.prune(
        sn.Task(model, "cross-entropy", rows, rows), guards=[sn.LossRise(0.005)], compensate="least-squares"
    )
    count = len(guarded.plan.removed)
    assert 0 < count < 8
    alone = sn.prune(
        sn.Task(model, "cross-entropy", rows, rows), goals=[sn.RemovedNeurons(count)], compensate="least-squares"
    )
    assert guarded.plan == alone.plan
    with torch.no_grad():
        assert torch.equal(guarded.model(rows[0]), alone.model(rows[0]))
