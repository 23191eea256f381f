"""Laws of the analyses: each equals its slow, obvious twin; each verdict is one that a built network deserves."""

import numpy as np
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from networks import Drawn, networks
from references.derivatives import mean_loss_at
from scipy import stats
from torch import nn

import shrinknet as sn
from shrinknet.analysis import pictures
from shrinknet.analysis.agreement import agreement
from shrinknet.analysis.cancellation import cancellation, contribution_cosines
from shrinknet.analysis.error_surface import Alphas, error_surface, error_surfaces, judged
from shrinknet.analysis.hessian import Weights, gate_hessian, zero_rows
from shrinknet.analysis.lanczos import Spectrum
from shrinknet.analysis.pruning_limit import batch_noise, crossing, neuron_limit, weight_limit
from shrinknet.analysis.recall_distortion import over_runs, recall_distortion
from shrinknet.core.recall import RecallHistory
from shrinknet.core.records import Answer
from shrinknet.engine.gates import gated


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
    try:
        scores = {name: dict(sn.rank(task, name))[neuron] for name in ("ablation", "taylor-1", "taylor-2")}
    except sn.BadInputError:  # outputs that are all clipped have no slopes to begin with
        reject()
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


@pytest.mark.parametrize("kind", ["least-squares", "joint"])
def test_surfaces_of_a_run_with_compensation_see_the_refit_readers(kind: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    task = sn.Task(model, "cross-entropy", (torch.randn(60, 6).double(), torch.arange(60) % 3))
    run = sn.prune(task, goals=[sn.RemovedNeurons(4)], compensate=kind)
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
        "redundant",
        "without it the loss rises by 0.009 (standard error 0.0001), less than 1 % of the loss",
    )
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
        (lambda task: Alphas.parsed("0:10"), "alphas must be FIRST:LAST:STEP. Got '0:10'. Write it as 0:10:0.001."),
        (lambda task: Alphas.parsed("a:b:c"), "alphas must be three numbers. Got 'a:b:c'."),
        (lambda task: Alphas.parsed("3:1:0.1"), "Got 3:1:0.1."),
        (lambda task: error_surface(task, sn.Neuron("1", 0)), "neuron must be one of a group that can be removed. Got 1[0]."),
        (lambda task: error_surface(task, sn.Neuron("0", 5)), "Got 0[5]. Count from 0."),
        (lambda task: error_surface(task, sn.Neuron("0", 1), gone=[sn.Neuron("0", 1)]), "Got 0[1], which is gone."),
        (lambda task: error_surfaces(sn.prune(task, goals=[sn.RemovedNeurons(1)]), every=0), "every must be a whole number of at least 1. Got 0."),
        (lambda task: recall_distortion(history_of(ANSWERS, TARGETS, [4, 3, 2, 1]), 9), "step must be one of the run's steps, 0 to 3. Got 9."),
        (lambda task: recall_distortion([]), "history must be a run whose validation data have classes as targets. Got one without answers.csv."),
        (lambda task: over_runs([history_of(ANSWERS, TARGETS, [4, 3, 2, 1])], [2]), "histories must be two runs or more, of networks trained apart. Got 1."),
        (lambda task: over_runs(2 * [history_of(ANSWERS, TARGETS, [4, 3, 2, 1])], [9]), "ratio must be at most 4, which run 1 reaches. Got 9."),
        (lambda task: weight_limit(task, eps=-1), "eps must be a rise of the loss of at least 0. Got -1."),
        (lambda task: weight_limit(task, iterations=0), "iterations and probes must be at least 1. Got 0, 2."),
        (lambda task: weight_limit(sn.Task(task.model, "cross-entropy", (torch.rand(90, 3).double(), torch.arange(90) % 2))), "calibration must be at least 256 rows, whose noise says what counts as no rise. Got 90 rows."),
        (lambda task: neuron_limit(task, draws=0), "draws must be a whole number of at least 1. Got 0."),
        (lambda task: agreement(task, ["taylor"]), "criterion must be the name of a criterion. Got 'taylor'."),
        (lambda task: agreement(task, gone=[sn.Neuron("0", k) for k in range(4)]), "gone must be few enough that two neurons are left. Got 4."),
        (lambda task: cancellation(task, max_pairs=0), "max_pairs must be a whole number of at least 1. Got 0."),
        (lambda task: cancellation(task, gone=[sn.Neuron("0", k) for k in range(4)]), "few enough that a group keeps two neurons. Got 4."),
    ],
)  # fmt: skip
def test_what_cannot_be_analysed_is_said(ask, words) -> None:
    with pytest.raises(sn.BadInputError) as caught:
        ask(opposed()[0])
    assert words in str(caught.value)


# Recall


def history_of(answers: list[list[int]], targets: list[int], parameters: list[int]) -> list[sn.Step]:
    """A history whose validation answers are these, one list for each step."""
    steps = []
    for number, (row_answers, count) in enumerate(zip(answers, parameters, strict=True)):
        before = answers[number - 1] if number else [None] * len(row_answers)
        changed = tuple(
            Answer(row, targets[row], answer) for row, answer in enumerate(row_answers) if answer != before[row]
        )
        measures = sn.Measures(0.0, 0.0, sn.Costs(count, count, count, count, count))
        steps.append(sn.Step(number, (), (), measures, 0.0, answers=changed))
    return steps


TARGETS = [0, 0, 0, 0, 1, 1, 1, 1]
ANSWERS = [[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 1, 0]]


def test_recalls_and_precisions_along_a_history() -> None:
    history = RecallHistory.of(history_of(ANSWERS, TARGETS, [40, 20, 10, 4]))
    assert history.answers.tolist() == ANSWERS
    assert history.ratios.tolist() == [1, 2, 4, 10]
    assert history.recalls.tolist() == [[1, 0.75], [1, 0.5], [1, 0], [0.75, 0.25]]
    np.testing.assert_allclose(history.precisions, [[0.8, 1], [4 / 6, 1], [0.5, np.nan], [0.5, 0.5]])
    assert history.accuracies.tolist() == [7 / 8, 6 / 8, 4 / 8, 4 / 8]


def test_distortion_is_the_regression_of_balances_and_names_what_was_lost() -> None:
    found = recall_distortion(history_of(ANSWERS, TARGETS, [40, 20, 10, 4]))
    before, after = np.array([1 / 7, -1 / 7]), np.array([0.5, -0.5])
    assert found.slope == pytest.approx(float(before @ after / (before @ before)))
    assert found.slopes[0] == pytest.approx(1)
    assert [(row.row, row.target, row.answer, row.since) for row in found.lost] == [
        (3, 0, 1, 3),
        (4, 1, 0, 2),
        (5, 1, 0, 2),
    ]
    assert found.worst.number == 1
    one = found.classes[1]
    assert (one.rows, one.recall_before, one.recall_after) == (4, 0.75, 0.25)
    # two rows of class 1 fell and none came: McNemar's exact test says (1/2)^2, twice for two classes
    assert one.p == pytest.approx(0.5)
    middle = recall_distortion(history_of(ANSWERS, TARGETS, [40, 20, 10, 4]), 1)
    assert [row.row for row in middle.lost] == [6]


def test_the_interval_holds_the_slope_and_narrows_with_rows() -> None:
    few = history_of([a * 20 for a in ANSWERS], TARGETS * 20, [40, 20, 10, 4])
    many = history_of([a * 500 for a in ANSWERS], TARGETS * 500, [40, 20, 10, 4])
    wide, narrow = (recall_distortion(history).interval for history in (few, many))
    slope = recall_distortion(few).slope
    assert wide[0] < slope < wide[1]
    assert narrow[0] < slope < narrow[1]
    assert narrow[1] - narrow[0] < wide[1] - wide[0]
    assert recall_distortion(many).verdict == "intensified"
    assert recall_distortion(few).interval == wide, "seeded"


def test_few_rows_say_nothing_of_a_slope() -> None:
    """Recalls of 9 and 10 of 10 rows are the same recall, drawn twice: a regression on them is flat whatever happened."""
    right = [[0] * 10 + [1] * 9 + [0], [0] * 8 + [1] * 12]
    found = recall_distortion(history_of(right, [0] * 10 + [1] * 10, [10, 5]))
    assert found.reliability < 0.8
    assert found.verdict.startswith("cannot be told: the gaps between classes before are within the noise")
    perfect = recall_distortion(history_of([[0, 1], [0, 0]], [0, 1], [10, 5]))
    assert np.isnan(perfect.slope)
    assert [row.row for row in perfect.lost] == [1]


def test_a_class_without_rows_is_named_and_takes_no_part() -> None:
    answers = [[0, 0, 1, 2], [0, 2, 1, 0]]
    found = recall_distortion(history_of(answers, [0, 0, 1, 1], [10, 5]))
    assert found.history.without_rows == (2,)
    assert [one.number for one in found.classes] == [0, 1]
    assert np.isnan(found.history.recalls[0, 2])


def test_slopes_over_runs_are_tested_as_the_paper_tests_them() -> None:
    generator = np.random.default_rng(0)

    def one_run() -> list[sn.Step]:
        targets = np.repeat(np.arange(4), 200)
        chances = np.array([0.95, 0.9, 0.8, 0.6])
        answers = []
        for factor in (1, 0.7, 1.8):  # gaps narrow, then widen
            found = 0.8 + factor * (chances - 0.8)
            right = generator.random(800) < found.clip(0, 1)[targets]
            answers.append(np.where(right, targets, (targets + 1) % 4).tolist())
        return history_of(answers, targets.tolist(), [100, 50, 10])

    low, high = over_runs([one_run() for _ in range(12)], [2, 10])
    assert (low.label, high.label) == ("<", ">")
    assert len(low.slopes) == 12
    slopes = np.array([low.slopes, high.slopes])
    assert low.mean == pytest.approx(slopes[0].mean())
    width = stats.t.ppf(1 - 0.05 / 2 / 2, 11) * slopes[0].std(ddof=1) / 12**0.5
    assert low.high - low.mean == pytest.approx(width)
    assert np.isnan(low.p_rise)
    assert high.p_rise == pytest.approx(stats.ttest_rel(*slopes, alternative="less").pvalue)


# Limit


def quadratic_task() -> sn.Task:
    """A loss whose Hessian in the weights is known: half the squared error of a linear network on fixed rows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False)).double()
    inputs = torch.randn(400, 6).double()
    with torch.no_grad():
        targets = model(inputs) + 0.1 * torch.randn(400, 4).double()
    return sn.Task(model, "squared-error", (inputs, targets))


def test_the_hessian_product_is_that_of_autograd() -> None:
    for model in (
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
        nn.Sequential(nn.Conv1d(1, 2, 2), nn.BatchNorm1d(2), nn.Sigmoid(), nn.Flatten(), nn.Linear(4, 2)),
    ):
        model = model.double().eval()
        shape = (20, 3) if isinstance(model[0], nn.Linear) else (20, 1, 3)
        task = sn.Task(model, "cross-entropy", (torch.randn(shape).double(), torch.arange(20) % 2), batch_size=7)
        weights, product = Weights(task).matrices, Weights(task).times_hessian
        sizes = [weight.numel() for weight in weights.values()]

        def loss(flat, model=model, weights=weights, sizes=sizes, task=task):
            parts = {n: p.view_as(w) for (n, w), p in zip(weights.items(), flat.split(sizes), strict=True)}
            batches = list(task.calibration.batches())
            return (
                sum(
                    task.loss.of(torch.func.functional_call(model, parts, (b.inputs,)), b.targets).sum()
                    for b in batches
                )
                / 20
            )

        flat = torch.cat([w.detach().flatten() for w in weights.values()])
        hessian = torch.autograd.functional.hessian(loss, flat)
        vector = torch.randn_like(flat)
        torch.testing.assert_close(product(vector), hessian @ vector)


def test_the_quadrature_has_the_hessian_s_trace_and_largest_eigenvalue() -> None:
    task = quadratic_task()
    inputs = next(task.calibration.batches()).inputs
    whole = torch.cat([batch.inputs for batch in task.calibration.batches()])
    hessian = torch.kron(torch.eye(4).double(), whole.T @ whole / len(whole))
    found = weight_limit(task, iterations=24, probes=30, eps=0.1)
    assert found.num == 24
    assert found.spectrum.largest == pytest.approx(float(torch.linalg.eigvalsh(hessian).max()), rel=1e-6)
    assert found.spectrum.trace == pytest.approx(float(hessian.trace()), rel=0.1)
    assert len(inputs)


def test_the_crossing_is_the_fixed_point() -> None:
    spectrum = Spectrum(np.array([0.5, 4.0, 0.0]), np.array([0.5, 0.3, 0.2]), 1000)
    radii = np.sqrt(np.arange(1001) * 0.01)
    eps = 0.7
    share = crossing(spectrum, radii, eps)
    slow = max(
        n / 1000
        for n in range(1001)
        if n / 1000 <= 0.5 / (1 + 0.01 * n * 0.5 / 1.4) + 0.3 / (1 + 0.01 * n * 4 / 1.4) + 0.2
    )
    assert share == slow
    assert crossing(spectrum, radii, 10 * eps) > share, "more may rise, more can go"
    assert crossing(spectrum, 2 * radii, eps) < share, "larger weights, fewer can go"
    assert crossing(spectrum, radii, 0.0) == 0


def test_what_was_found_is_the_loss_of_networks_pruned_by_hand() -> None:
    task = quadratic_task()
    found = weight_limit(task, eps=0.5)
    weight = task.model[0].weight.detach()
    order = weight.abs().flatten().argsort()
    rows = [(batch.inputs, batch.targets) for batch in task.calibration.batches()]

    def loss(count: int) -> float:
        kept = weight.flatten().clone()
        kept[order[:count]] = 0
        return sum(float(((x @ kept.view(4, 6).T - t) ** 2).sum()) / 2 for x, t in rows) / 400

    allowed = loss(0) + 0.5
    most = next(count for count in range(25) if loss(count) > allowed) - 1
    assert found.found[0] == pytest.approx(most / 24, abs=1 / 24 + 1e-9)
    assert found.losses[0] == pytest.approx(loss(0))
    assert found.losses[-1] == pytest.approx(loss(24))


def test_rows_of_the_hessian_that_are_zero_are_counted() -> None:
    def product(vector: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(200) < 100, 0.0, vector)

    values = torch.arange(200.0)  # the first hundred are the smallest
    assert zero_rows(product, values) == 0.5
    unseen = Spectrum(np.array([1.0]), np.array([1.0]), 200, 0.5)
    seen = Spectrum(np.array([0.0, 1.0]), np.array([0.5, 0.5]), 200, 0.5)
    for spectrum in (unseen, seen):  # a node at 0 stands for them already
        assert spectrum.share_free(1e9, 1.0) == pytest.approx(0.5)
    assert seen.trace == 100


def test_the_noise_of_batches_does_not_depend_on_the_order_of_the_rows() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2).double()
    inputs, targets = torch.randn(2000, 2).double(), torch.arange(2000) % 2
    by_class = targets.argsort()
    drawn = sn.Task(model, "cross-entropy", (inputs, targets))
    ordered = sn.Task(model, "cross-entropy", (inputs[by_class] + 3 * targets[by_class, None], targets[by_class]))
    shuffled = torch.randperm(2000)
    mixed = sn.Task(model, "cross-entropy", (ordered_rows(ordered)[0][shuffled], ordered_rows(ordered)[1][shuffled]))
    assert batch_noise(ordered) == pytest.approx(batch_noise(mixed), rel=0.5)
    assert batch_noise(drawn) > 0


def ordered_rows(task: sn.Task) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(task.calibration.batches())
    return torch.cat([one.inputs for one in batches]), torch.cat([one.targets for one in batches])


@pytest.mark.parametrize("kind", ["attention", "lstm"])
def test_the_limit_of_networks_whose_fast_operators_cannot_be_differentiated_twice(kind: str) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.LSTM(4, 6, batch_first=True) if kind == "lstm" else nn.Linear(4, 18)
            self.out = nn.Linear(6, 2)

        def forward(self, x):
            if kind == "lstm":
                return self.out(self.first(x)[0][:, -1])
            parts = [part[:, None] for part in self.first(x).chunk(3, -1)]
            return self.out(nn.functional.scaled_dot_product_attention(*parts)[:, 0].mean(1))

    torch.manual_seed(0)
    task = sn.Task(Reader(), "cross-entropy", (torch.randn(300, 5, 4), torch.arange(300) % 2))
    assert 0 < weight_limit(task, iterations=6).predicted <= 1
    assert 0 <= neuron_limit(task, draws=1).predicted <= 1


@given(networks)
def test_the_gates_hessian_is_that_of_the_gated_loss(drawn: Drawn) -> None:
    task, network = drawn.task(), drawn.network
    found = gate_hessian(network, task.calibration)
    batch = next(task.calibration.batches())

    def loss(gates):
        gating = network.gating_by_sample(torch.cat([torch.ones(1).double(), gates])[None])
        return network.loss.of(network.program.outputs(batch.inputs, gating), batch.targets).mean()

    slow = torch.autograd.functional.hessian(loss, torch.ones(len(network.present) - 1).double())
    torch.testing.assert_close(found, slow, rtol=1e-8, atol=1e-10)


def test_the_limit_of_neurons_is_where_the_guard_breaks() -> None:
    task, model = opposed()
    rows = [torch.cat([getattr(b, what) for b in task.calibration.batches()]) for what in ("inputs", "targets")]
    guarded = sn.Task(model, "cross-entropy", (rows[0][:300], rows[1][:300]), (rows[0][300:], rows[1][300:]))
    found = neuron_limit(guarded, max_loss_rise=0.02, draws=2)
    assert found.num == 5
    assert len(found.found) == 2
    for draw, share in enumerate(found.found):
        generator = torch.Generator().manual_seed(draw)
        drawn = torch.randint(300, (300,), generator=generator)
        again = sn.Task(
            model, "cross-entropy", (rows[0][:300][drawn], rows[1][:300][drawn]), (rows[0][300:], rows[1][300:])
        )
        run = sn.prune(again, guards=[sn.LossRise(0.02)])
        assert share == len(run.plan.removed) / 5
    assert found.eps == 0.02


# Agreement


def test_agreement_is_spearman_s_and_regret_is_what_an_order_costs() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 3)).double()
    task = sn.Task(model, "cross-entropy", (torch.randn(80, 5).double(), torch.arange(80) % 3))
    found = {one.criterion: one for one in agreement(task, ["ablation", "taylor-1", "magnitude"])}
    scores = {name: dict(sn.rank(task, name)) for name in found}
    neurons = list(scores["ablation"])
    network = gated(task)
    batch = next(task.calibration.batches())
    for name, one in found.items():
        ours, theirs = ([scores[which][neuron] for neuron in neurons] for which in (name, "ablation"))
        assert one.overall == pytest.approx(stats.spearmanr(ours, theirs).statistic)
        inside = [k for k, neuron in enumerate(neurons) if neuron.group == "0"]
        assert one.by_group["0"] == pytest.approx(
            stats.spearmanr([ours[k] for k in inside], [theirs[k] for k in inside]).statistic
        )
        with torch.no_grad():
            cost = [
                float(network.without([n for n, _ in sn.rank(task, which)[:2]]).losses(batch).mean())
                for which in (name, "ablation")
            ]
        assert one.regret == pytest.approx(cost[0] - cost[1], abs=1e-12)
    assert found["ablation"].overall == pytest.approx(1)


def test_a_criterion_that_cannot_score_a_network_says_why() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    )
    task = sn.Task(model, "cross-entropy", (torch.randn(8, 1, 7, 7), torch.arange(8) % 2))
    found = agreement(task, ["taylor-2-diagonal", "ablation"])
    assert [one.criterion for one in found] == ["ablation", "taylor-2-diagonal"]
    assert "dense" in found[1].why_not
    assert np.isnan(found[1].overall)


def test_pictures_of_flat_and_of_negative_losses_are_drawn_without_a_warning() -> None:
    """A neuron that nobody hears does not move the loss; a loss of one's own may lie below 0."""
    _, model = opposed()
    inputs = torch.rand(300, 3).double()
    for loss in ("cross-entropy", lambda outputs, targets: -outputs.square().mean(1)):
        task = sn.Task(model, loss, (inputs, torch.arange(300) % 2))
        flat = error_surface(task, sn.Neuron("0", 2), alphas=Alphas(0, 2, 0.5))
        assert flat.losses.min() == flat.losses.max()
        for drawn in (
            pictures.surfaces([flat]),
            pictures.limit(weight_limit(task)),
            pictures.cancellation_map(cancellation(task)[0]),
        ):
            assert drawn[:4] == b"\x89PNG"


class Marked(torch.nn.Module):
    """The network of `Lone` with a second input and a first output that say nothing."""

    def __init__(self, own: torch.nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, x, mark):
        return {"mark": mark, "logits": self.own(x)}


@pytest.mark.parametrize("limit_of", [weight_limit, neuron_limit])
def test_a_limit_does_not_depend_on_how_inputs_and_outputs_come(limit_of) -> None:
    torch.manual_seed(0)
    own = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    x, classes = torch.rand(280, 3).double(), torch.arange(280) % 2
    lone = limit_of(sn.Task(own, "cross-entropy", (x, classes)), seed=1)
    marked = limit_of(sn.Task(Marked(own), "cross-entropy", (x, torch.zeros(280, 1).double(), classes)), seed=1)
    assert (marked.predicted, marked.found) == (lone.predicted, lone.found)
    assert marked.eps == lone.eps
