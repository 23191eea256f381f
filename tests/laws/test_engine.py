"""Laws of the exact engine: every shortcut equals its slow, obvious twin."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from architectures import SMALL
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, networks
from references.derivatives import mean_loss_at
from torch import nn

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine import racing
from shrinknet.engine.closed_form import closed_form
from shrinknet.engine.folding import FoldedProgram, folded
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.program import Program
from shrinknet.engine.racing import Rises, _contender, half_width, parts_of, race
from shrinknet.engine.replay import Replay
from shrinknet.engine.route import route
from shrinknet.task.data import Batch
from shrinknet.task.losses import find_loss
from shrinknet.task.per_sample import ACROSS, targets_across
from shrinknet.task.trees import leaves_of


def task_of(model: nn.Module, loss="cross-entropy", num_samples=12, shape=(6,), **options) -> sn.Task:
    inputs = torch.randn(num_samples, *shape, dtype=next(model.parameters()).dtype)
    return sn.Task(model, loss, (inputs, torch.arange(num_samples) % 3), **options)


@pytest.mark.parametrize("architecture", SMALL, ids=lambda one: one.name)
def test_ablation_agrees_with_whole_forward_passes_on_the_small_zoo(architecture) -> None:
    """Engine and slow twin in float64, to 1e-10 of the largest rise: one neuron of each group, all of small groups."""
    model, inputs = architecture.build()
    model = model.double()
    rows = tuple(one.double() if one.is_floating_point() else one for one in leaves_of(inputs))
    traced = sn.trace(model, rows)
    network = GatedNetwork(
        Program(traced, torch.float64),
        find_loss(lambda outputs, targets: outputs.flatten(1).square().mean(1)),
        traced.present(),
    )
    if len(rows) > 1 or len(network.program.outputs_of) > 1:
        pytest.skip("a task takes one tensor and gives one")
    batch = Batch(rows[0], torch.zeros(len(rows[0])))
    with torch.no_grad():
        scores = find_criterion("ablation").score(network, [batch])
        whole = network.losses(batch).mean()
        for group in network.groups:
            for index in {0, group.width // 2, group.width - 1}:
                neuron = sn.Neuron(group.name, index)
                slow = network.without([neuron]).losses(batch).mean() - whole
                assert scores[neuron] == pytest.approx(float(slow), rel=1e-10, abs=1e-10 * float(whole.abs()))
                back = Replay(network.without([neuron]), batch).summed_rises(
                    group, torch.tensor([index]), torch.ones(1, dtype=torch.float64)
                )
                assert float(back) / len(batch) == pytest.approx(
                    -float(slow), rel=1e-10, abs=1e-10 * float(whole.abs())
                )


@given(networks, st.data())
def test_a_neuron_that_is_gone_comes_back_to_the_loss_of_the_network_that_has_it(drawn: Drawn, data) -> None:
    """Whoever else is gone, in its own group and in others: the gate's replay from 0 to 1 beside a whole pass."""
    network = gated(drawn.task())
    (batch,) = drawn.task().calibration.batches()
    neurons = [neuron for group in network.groups for neuron in group.neurons]
    gone = data.draw(st.lists(st.sampled_from(neurons), min_size=1, max_size=len(neurons) - 1, unique=True))
    here = network.without(gone)
    with torch.no_grad():
        replay, now = Replay(here, batch), here.losses(batch)
        for group in network.groups:
            back = [neuron for neuron in gone if neuron.group == group.name]
            if not back:
                continue
            candidates = torch.tensor([neuron.index for neuron in back])
            rises = replay.rises(group, candidates, torch.ones(len(back), dtype=torch.float64))
            for neuron, found in zip(back, rises, strict=True):
                slow = network.without(set(gone) - {neuron}).losses(batch) - now
                assert torch.allclose(found, slow, rtol=0, atol=1e-10 * float(1 + now.abs().max()))


@given(networks, st.data())
def test_kept_passes_have_the_bits_of_new_ones(drawn: Drawn, data) -> None:
    """However the gates went to and fro, a pass that was brought up to date is one that was run anew."""
    task = drawn.task()
    network = gated(task, scoring=sn.Scoring(keeps_passes=True))
    (batch,) = task.calibration.batches()
    neurons = [neuron for group in network.groups for neuron in group.neurons[1:]]
    for _ in range(4):
        masked = network.without(data.draw(st.lists(st.sampled_from(neurons), unique=True, max_size=3)))
        fresh = gated(task).without([n for n in neurons if not masked.present[network.trace.ids_of(next(
            g for g in network.groups if g.name == n.group)).start + n.index]])  # fmt: skip
        kept, new = masked.kept_values(batch), fresh.kept_values(batch)
        pairs = zip(kept.items(), new.items(), strict=True)
        assert all(torch.equal(a, b) for (_, a), (_, b) in pairs if isinstance(a, torch.Tensor))
    assert network.passes.free < network.program.scoring.kept_bytes, "something was kept"


def test_passes_are_kept_within_the_memory_and_no_further() -> None:
    task = task_of(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), num_samples=40, batch_size=10)
    network = gated(task, scoring=sn.Scoring(memory=2 * 1100, keeps_passes=True))
    batches = list(task.calibration.batches())
    first = [network.kept_values(batch) for batch in batches]
    assert network.passes.free == 1100 - 760, "a pass of 10 samples takes 40 x (6 + 5 + 5 + 3) bytes"
    again = [network.kept_values(batch) for batch in batches]
    assert [one is other for one, other in zip(first, again, strict=True)] == [True, False, False, False]


def test_a_run_frees_each_value_after_its_last_reader() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    program = Program(sn.trace(model, torch.randn(2, 6)))
    assert program.run(torch.randn(4, 6), None).keys() == {*program.constants, program.output}
    assert program.run(torch.randn(4, 6), None, keep=True).keys() == {
        *program.constants,
        *program.inputs,
        *program.nodes,
    }


def test_a_folded_norm_is_the_norm() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3),
                          nn.BatchNorm2d(3, affine=False), nn.Flatten(), nn.Linear(48, 3)).double()  # fmt: skip
    for norm in (model[1], model[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(model[1].weight)
    model.eval()
    inputs = torch.randn(5, 2, 8, 8).double()
    program = Program(sn.trace(model, inputs))
    fast = folded(program)
    assert isinstance(fast, FoldedProgram)
    assert len(fast.norms) == 2
    torch.testing.assert_close(fast.outputs(inputs), model(inputs), rtol=0, atol=1e-13)


def test_a_norm_whose_convolution_is_read_elsewhere_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 3)

        def forward(self, x):
            y = self.conv(x)
            return self.head((self.norm(y) + y).flatten(1))

    model = Twice().double().eval()
    model.norm.running_mean.normal_()
    inputs = torch.randn(5, 2, 4, 4).double()
    fast = folded(Program(sn.trace(model, inputs)))
    assert not fast.norms
    torch.testing.assert_close(fast.outputs(inputs), model(inputs), rtol=0, atol=1e-13)


def test_a_norm_that_runs_along_another_axis_than_its_layers_outputs_is_not_folded() -> None:
    """Behind a dense layer on [N, L, C] a batch norm runs along L, here as long as C."""
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(16, 3))
    model[2].running_mean.normal_()
    model[2].running_var.uniform_(0.5, 2)
    model = model.double().eval()
    inputs = torch.randn(5, 2, 6).double()
    fast = folded(Program(sn.trace(model, inputs)))
    assert isinstance(fast, FoldedProgram)
    torch.testing.assert_close(fast.outputs(inputs), model(inputs), rtol=0, atol=1e-13)


@pytest.mark.parametrize("loss", ["cross-entropy", "squared-error"])
@pytest.mark.parametrize("classes", [True, False])
def test_a_loss_with_samples_last_is_the_loss(loss: str, classes: bool) -> None:
    outputs = torch.randn(4, 7, 3, dtype=torch.float64)  # candidates, samples, outputs
    targets = torch.arange(7) % 3 if classes else torch.rand(7, 3, dtype=torch.float64)
    plain = find_loss(loss).of
    across = ACROSS[plain](outputs.transpose(1, 2), targets_across(targets, outputs[0]))
    torch.testing.assert_close(across, plain(outputs, targets), rtol=0, atol=1e-14)


DENSE = {
    "last hidden layer": lambda: nn.Sequential(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 3), nn.Sigmoid()),
    "three dense layers": lambda: nn.Sequential(
        nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7, bias=False), nn.ReLU(), nn.Linear(7, 3)
    ),
}


@pytest.mark.parametrize("loss", ["cross-entropy", "squared-error"])
@pytest.mark.parametrize("name", DENSE)
def test_the_closed_form_is_the_loss_of_the_masked_network(name: str, loss: str) -> None:
    """Also once neurons are gone on either side, when only what is left of a layer is computed."""
    model = DENSE[name]().double()
    task = task_of(model, loss)
    network = gated(task)
    (batch,) = task.calibration.batches()
    gone = [neuron for group in network.groups for neuron in group.neurons[1:4]]
    for masked in (network, network.without(gone)):
        program = masked.passes.program
        for group in masked.groups:
            assert closed_form(route(program, masked.trace.ids_of(group)), masked.loss) is not None
            alive = torch.from_numpy(masked.alive(group))
            rises = Replay(masked, batch).summed_rises(group, alive) / len(batch)
            before = float(mean_loss_at(masked, batch, group.neurons[0], 1.0))
            for index, rise in zip(alive.tolist(), rises.tolist(), strict=True):
                slow = float(mean_loss_at(masked, batch, sn.Neuron(group.name, index), 0.0)) - before
                assert rise == pytest.approx(slow, rel=1e-10, abs=1e-13)


@pytest.mark.slow
def test_the_compiled_loop_gives_the_same(tmp_path) -> None:
    """In a process of its own: what checks shapes here cannot be compiled."""
    code = """
import torch
from torch import nn
import shrinknet as sn
torch.manual_seed(0)
for loss, last in (("cross-entropy", nn.Identity()), ("squared-error", nn.Sigmoid())):
    model = nn.Sequential(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 3), last).double()
    task = sn.Task(model, loss, (torch.randn(12, 6).double(), torch.arange(12) % 3), batch_size=5)
    pairs = zip(sn.rank(task), sn.rank(task, scoring=sn.Scoring(compile=True)), strict=True)
    assert all(one == other and abs(a - b) < 1e-13 for (one, a), (other, b) in pairs)
print("the same")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.stdout == "the same\n", done.stderr[-2000:]


class Viewed(nn.Module):
    """A view that is read after an operator which could overwrite what it is a view of."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head, self.tail = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = self.two(torch.tanh(self.one(x)))
        view = x.reshape(-1, 2, 2)
        return self.tail(torch.relu(x)) + self.head(view.flatten(1))


def test_nothing_is_overwritten_that_a_view_still_shows() -> None:
    task = task_of(Viewed().double(), lambda outputs, targets: outputs.square().mean(1))
    network = gated(task)
    (batch,) = task.calibration.batches()
    assert all(route(network.passes.program, network.trace.ids_of(group)).has_lanes for group in network.groups)
    with torch.no_grad():
        scores, whole = find_criterion("ablation").score(network, [batch]), network.losses(batch).mean()
        for neuron in (neuron for group in network.groups for neuron in group.neurons):
            slow = float(network.without([neuron]).losses(batch).mean() - whole)
            assert scores[neuron] == pytest.approx(slow, rel=1e-10, abs=1e-13)


class Biased(nn.Module):
    """A bias that a network of its own computes of a table, as Swin v2 does; behind it the number of samples is read."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(7, 2))
        self.hidden, self.bias = nn.Linear(2, 5), nn.Linear(5, 4)
        self.inner, self.out = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        bias = self.bias(torch.relu(self.hidden(self.table))).sum(0)
        return self.out(nn.functional.normalize(self.inner(x) + bias, dim=-1))


def test_many_candidates_at_once_know_how_many_samples_there_are() -> None:
    task = task_of(Biased().double())
    network, (batch,) = gated(task), task.calibration.batches()
    program = network.passes.program
    ways = {group: route(program, network.trace.ids_of(group)) for group in network.groups}
    odd = [group for group, way in ways.items() if not way.has_lanes]
    assert {group.name for group in ways} - {group.name for group in odd} == {"bias"}, "it is the same for every sample"
    assert any("sym_size" in node.name for group in odd for node in ways[group].replayed)
    with torch.no_grad():
        scores, whole = find_criterion("ablation").score(network, [batch]), network.losses(batch).mean()
        for neuron in (neuron for group in odd for neuron in group.neurons):
            slow = float(network.without([neuron]).losses(batch).mean() - whole)
            assert scores[neuron] == pytest.approx(slow, rel=1e-10, abs=1e-13)


class Reordered(nn.Module):
    """Reads columns in an order that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.one, self.two = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.two(torch.relu(self.one(x[:, self.order])))


def test_whole_numbers_stay_whole_in_another_precision() -> None:
    model, x = Reordered(), torch.randn(4, 3)
    program = Program(sn.trace(model, x), torch.float64)
    torch.testing.assert_close(program.outputs((x.double(),)), copy.deepcopy(model).double()(x.double()))


def test_what_is_not_dense_to_the_end_has_no_closed_form() -> None:
    for model in (
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.LayerNorm(5), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(1)),
    ):
        network = gated(task_of(model, "squared-error"))
        (group,) = network.groups
        assert closed_form(route(network.passes.program, network.trace.ids_of(group)), network.loss) is None


def test_second_order_goes_straight_to_the_outputs_only_where_gates_move_them_in_lines() -> None:
    """A residual stream is read again behind its own readers; a sigmoid bends what comes before the loss."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            x = torch.relu(self.one(x))
            return self.head(x + torch.relu(self.two(x)))

    def bends(model: nn.Module) -> dict[str, str | None]:
        network = gated(task_of(model, "squared-error"))
        found = {g.name: route(network.passes.program, network.trace.ids_of(g)).bend for g in network.groups}
        return {name: None if bend is None else bend.name for name, bend in found.items()}

    assert bends(Residual()) == {"one": None}
    assert bends(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))) == {
        "0": "linear_2",
        "2": "linear_2",
    }
    assert bends(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Sigmoid())
    ) == {"0": "linear_1", "2": "linear_2"}


def test_an_exact_race_is_the_ranking() -> None:
    task = task_of(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).double(), num_samples=150)
    network, exact = gated(task), sn.rank(task)
    neurons = list(network.groups[0].neurons)
    result = race(network, [task.calibration], neurons, 4, 1.0)
    assert [one.neuron for one in result.contenders[:4]] == [neuron for neuron, _ in exact[:4]]
    assert {one.num_samples for one in result.contenders} == {150}
    assert result.share_of_work == 1.0


@pytest.mark.parametrize("seed", range(8))
def test_a_race_finds_those_that_all_of_the_data_name(seed: int) -> None:
    """Neurons far apart are told apart early; those that tie are settled by all of the data, by group and index."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        model[2].weight[:, :4] *= 0.02  # four that hardly count
        model[2].weight[:, 4:6] = 0  # two that tie at 0
    task = task_of(model, num_samples=600)
    network = gated(task)
    neurons = list(network.groups[0].neurons)
    exact = race(network, [task.calibration], neurons, 6, 1.0)
    result = race(network, parts_of(task.calibration, seed), neurons, 6, 0.99)
    assert {c.neuron.index for c in result.contenders[:6]} == {c.neuron.index for c in exact.contenders[:6]}
    assert result.share_of_work < 0.9


@pytest.mark.parametrize("seed", range(6))
def test_ties_end_a_race_early_and_cost_no_more_than_was_said(seed: int) -> None:
    """Many neurons count for little and about as much: to tell them apart takes many of the rows.

    The network and the share of 0.7 were chosen after a first network, whose races ended at once, had been seen.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        model[2].weight[:, :6] *= 0.3
        model[2].weight *= 6
    rows = torch.randn(2000, 6)
    task = sn.Task(model, "cross-entropy", (rows, torch.distributions.Categorical(logits=model(rows)).sample()))
    network, exact = gated(task), dict(sn.rank(task))
    neurons, parts = list(network.groups[0].neurons), parts_of(task.calibration, seed)
    shares = []
    for tie_loss in (0.0, 1e-3, 1e-2, 5e-2):
        result = race(network, parts, neurons, 3, 0.99, tie_loss)
        chosen, others = result.contenders[:3], result.contenders[3:]
        worst, best = max(exact[one.neuron] for one in chosen), min(exact[one.neuron] for one in others)
        assert worst <= best + tie_loss
        shares.append(result.share_of_work)
    assert shares == sorted(shares, reverse=True)
    assert shares[2] < 0.7 * shares[0]


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Skewed rises, 200 of 2000 drawn 400 times: a one-sided tail of 5 % is missed on either side about so often."""
    generator = np.random.default_rng(0)
    foreseen = generator.exponential(size=2000)
    rises = 0.7 * foreseen + 0.3 * generator.normal(size=2000)
    outside = 0
    for _ in range(400):
        order = generator.permutation(2000)
        seen = Rises(rises[order][:200], foreseen[order])
        mean, residuals = seen.regressed()
        deviation = float(np.sqrt(residuals @ residuals / 197))
        outside += abs(mean - rises.mean()) > half_width(deviation, 200, 2000, 0.05)
    assert 0.06 < outside / 400 < 0.15


def test_a_race_says_of_each_contender_how_far_off_its_score_may_be() -> None:
    """By the same draws: the interval of who was seen in part is as wide as its tail says; of who was seen whole, 0."""
    generator = np.random.default_rng(1)
    foreseen = generator.exponential(size=2000)
    rises = 0.7 * foreseen + 0.3 * generator.normal(size=2000)
    outside, widths = 0, []
    for _ in range(400):
        order = generator.permutation(2000)
        seen = Rises(rises[order][:200], foreseen[order])
        one, (_, residuals) = _contender(sn.Neuron("0", 0), seen, 0.05), seen.regressed()
        deviation = np.sqrt(residuals @ residuals / 197)  # a mean and the slopes of two neurons are fitted
        assert one.half_width == pytest.approx(half_width(deviation, 200, 2000, 0.05))
        outside += abs(one.score - rises.mean()) > one.half_width
        widths.append(one.half_width)
    assert 0.06 < outside / 400 < 0.15
    assert np.mean(widths) == pytest.approx(1.65 * 0.3 / 200**0.5 * 0.9**0.5, rel=0.05)
    whole = _contender(sn.Neuron("0", 0), Rises(rises, foreseen), 0.05)
    assert (whole.score, whole.half_width, whole.num_samples) == (rises.mean(), 0.0, 2000)


def test_who_drops_out_of_a_race_has_an_interval_around_what_all_samples_say() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    task = task_of(model, num_samples=2000)
    network, exact = gated(task), dict(sn.rank(task))
    result = race(network, parts_of(task.calibration, 0), list(network.groups[0].neurons), 3, 0.99)
    early = [one for one in result.contenders if one.num_samples < 2000]
    assert early
    assert all(abs(one.score - exact[one.neuron]) <= one.half_width for one in early)
    assert all(0 < one.half_width < 0.5 for one in early)


def test_a_races_confidence_is_shared_out_over_every_comparison(monkeypatch) -> None:
    """Bonferroni: 9 neurons, each part, each against 2 that may win; the chances to be wrong add up to what is left."""
    tails = []
    monkeypatch.setattr(racing, "half_width", lambda *given: tails.append(given[-1]) or half_width(*given))
    task = task_of(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)), num_samples=150)
    parts = parts_of(task.calibration, 0)
    race(gated(task), parts, gated(task).groups[0].neurons, 2, 0.9)
    assert len(parts) > 2
    assert tails
    assert [tail * 9 * 2 * len(parts) for tail in tails] == pytest.approx([0.1] * len(tails))


def test_regression_narrows_the_interval_and_ends_at_the_mean() -> None:
    foreseen = np.arange(10.0)
    rises = 2 * foreseen + 1
    mean, residuals = Rises(rises[:4], foreseen).regressed()
    assert mean == pytest.approx(rises.mean())
    assert np.abs(residuals).max() < 1e-12
    assert Rises(rises, foreseen).regressed()[0] == rises.mean()


def test_races_and_screens_take_the_same_way_as_exact_rankings(tmp_path) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    task = task_of(model, num_samples=400)
    goals = [sn.RemovedNeurons(8)]
    exact = sn.prune(task, goals=goals)
    raced = sn.prune(task, goals=goals, scoring=sn.Scoring(confidence=0.99), out=tmp_path / "raced")
    screened = sn.prune(task, goals=goals, scoring=sn.Scoring(screen=9), out=tmp_path / "screened")
    assert raced.plan.removed == exact.plan.removed == screened.plan.removed
    rows = raced.folder.races()
    assert [int(row["step"]) for row in rows] == list(range(1, 9))
    assert all(float(row["share_of_work"]) <= 1 for row in rows)
    rows = screened.folder.races()
    assert next(int(row["num_screened_out"]) for row in rows) == 7
    assert all(-1 <= float(row["agreement"]) <= 1 for row in rows)
    assert "Races looked at" in (tmp_path / "raced" / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "taylor-1"}, r"^confidence and screen must be left out unless the criterion is ablation"),
        ({"method": "single-ranking"}, r"^confidence and screen must be used with reranking and no clip"),
    ],
)
def test_a_race_is_for_ablation_and_reranking(options: dict, words: str) -> None:
    task = task_of(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    with pytest.raises(sn.BadInputError, match=words):
        sn.prune(task, scoring=sn.Scoring(confidence=0.9), **options)


def test_ties_are_for_races() -> None:
    with pytest.raises(sn.BadInputError, match=r"^tie_loss must be left out unless neurons race\. Got 0\.01\. Say "):
        sn.Scoring(tie_loss=0.01)
    with pytest.raises(sn.BadInputError, match=r"^tie_loss must be a number of at least 0\. Got -1\. Leave it out"):
        sn.Scoring(confidence=0.9, tie_loss=-1)
    task = task_of(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), num_samples=600)
    alike = sn.race(task, 2, scoring=sn.Scoring(confidence=0.99, tie_loss=100.0))
    assert alike.share_of_work == pytest.approx(64 / 600)


def test_race_wants_fewer_than_all() -> None:
    task = task_of(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    with pytest.raises(sn.BadInputError, match=r"^first must be a whole number from 1 to 4, .* Got 5"):
        sn.race(task, 5)
    with pytest.raises(sn.BadInputError, match=r"^confidence and screen must be left out for an order of all neurons"):
        sn.rank(task, scoring=sn.Scoring(screen=3))


def test_example_inputs_hold_two_rows_and_no_more() -> None:
    """A saved network must not carry the calibration data with it."""
    task = task_of(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), num_samples=100)
    assert task.example_inputs.untyped_storage().nbytes() == 2 * 6 * 4


class Looking(find_criterion("activation").__class__):
    """A criterion that looks at how products are computed while it scores."""

    seen: tuple[bool, ...] = ()

    def observe(self, network, batch):
        Looking.seen = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return super().observe(network, batch)


@pytest.mark.parametrize("tf32", [False, True])
def test_products_are_whole_while_scoring_and_as_they_were_afterwards(tf32: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    task = task_of(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    sn.rank(task, Looking(), scoring=sn.Scoring(tf32=tf32))
    assert Looking.seen == (tf32, tf32)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("criterion", ["ablation", "taylor-1", "taylor-2", "gauss-newton"])
def test_a_gpu_gives_the_scores_of_the_cpu(criterion: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(),
                          nn.Flatten(), nn.Linear(80, 7), nn.Tanh(), nn.Linear(7, 3)).double()  # fmt: skip
    inputs, targets = torch.randn(20, 2, 8, 8).double(), torch.arange(20) % 3
    on_cpu = dict(sn.rank(sn.Task(model, "cross-entropy", (inputs, targets)), criterion))
    on_gpu = dict(sn.rank(sn.Task(model.cuda(), "cross-entropy", (inputs, targets)), criterion))
    assert on_gpu == pytest.approx(on_cpu, rel=1e-10, abs=1e-12)
