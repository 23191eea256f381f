"""Polish: exchanges after the search. Beside the best of all subsets; what a run keeps of them; what cannot be polished."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, networks
from torch import nn

import shrinknet as sn
from shrinknet.core.folder import RunFolder
from shrinknet.core.records import removed_by
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.run.effort import SHARE_FOR_POLISH
from shrinknet.search.polish import HELD_OUT, falls


def loss_of(task: sn.Task, network: GatedNetwork) -> float:
    with torch.no_grad():
        return float(torch.cat([network.losses(batch) for batch in task.calibration.batches()]).double().mean())


@given(networks, st.data())
def test_a_neuron_falls_by_what_a_whole_pass_with_it_says(drawn: Drawn, data) -> None:
    task, network = drawn.task(), gated(drawn.task())
    neurons = [neuron for group in network.groups for neuron in group.neurons]
    gone = data.draw(st.lists(st.sampled_from(neurons), min_size=1, max_size=len(neurons) - 1, unique=True))
    here = network.without(gone)
    for neuron, fall in falls(here, task, gone):
        slow = loss_of(task, here) - loss_of(task, network.without(set(gone) - {neuron}))
        assert fall == pytest.approx(slow, abs=1e-9)


def small(seed: int) -> tuple[nn.Module, sn.Task]:
    """A trained network of 14 neurons, small enough for all of its subsets."""
    torch.manual_seed(seed)
    x = torch.randn(200, 6)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] + x[:, 3] > 1).long()
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, sn.Task(model, "cross-entropy", (x, y))


def best_of_all(task: sn.Task, count: int) -> float:
    """The lowest loss of any network that lacks so many neurons and keeps one of each group."""
    network = gated(task)
    neurons = [neuron for group in network.groups for neuron in group.neurons]
    found = []
    for gone in itertools.combinations(neurons, count):
        here = network.without(gone)
        if all(len(here.alive(group)) for group in here.groups):
            found.append(loss_of(task, here))
    return min(found)


@pytest.mark.parametrize("seed", [5, 7])  # picked of twelve, once seen: greedy is wrong in one of them
def test_polished_lies_between_the_search_and_the_best_of_all_subsets(seed: int) -> None:
    _, task = small(seed)
    found = {}
    for polish in (False, True):
        run = sn.prune(task, goals=[sn.RemovedNeurons(7)], polish=polish, effort="exact")
        assert len(run.plan.removed) == 7
        found[polish] = run.measures.calibration_loss
    best = best_of_all(task, 7)
    assert best - 1e-6 <= found[True] <= found[False]
    assert (found[True] < found[False]) == (seed == 7), "greedy was wrong there"


def test_each_exchange_lowers_the_loss_and_not_at_the_cost_of_the_rows_held_out() -> None:
    _, task = small(7)
    run = sn.prune(task, goals=[sn.NumParameters("45%")], polish=True, effort="exact", compensate="none")
    exchanges = [step for step in run.history if step.restored]
    assert exchanges
    network, rows = gated(task), torch.arange(200) % HELD_OUT == HELD_OUT - 1
    for step in exchanges:
        before, after = (
            torch.cat([one.losses(batch) for batch in task.calibration.batches()]).double()
            for one in (network.without(removed_by(run.history[: step.number + shift])) for shift in (0, 1))
        )
        assert after[~rows].mean() < before[~rows].mean()
        assert after[rows].mean() <= before[rows].mean()
        assert step.measures.costs.num_parameters <= 0.45 * run.history[0].measures.costs.num_parameters
    assert run.plan.removed == removed_by(run.history)
    assert set(run.plan.removed) | set(run.plan.remaining) <= {n for group in run.network.groups for n in group.neurons}
    assert run.verification.holds


@pytest.mark.parametrize("kind", ["none", "least-squares"])
def test_a_polished_run_is_opened_cut_and_gone_on_with_as_it_was(kind: str, tmp_path) -> None:
    model, task = small(7)

    def run(out, **more):
        return sn.prune(
            task, goals=[sn.RemovedNeurons(7)], polish=True, effort="exact", compensate=kind, out=out, **more
        )

    whole = run(tmp_path / "whole")
    exchanges = [step for step in whole.history if step.restored]
    assert exchanges
    assert whole.measures == whole.history[-1].measures, "what was judged is what is handed back"
    x, y = next(iter(task.calibration.batches())).inputs, torch.cat([b.targets for b in task.calibration.batches()])
    opened = sn.load(tmp_path / "whole", model=model, data={"calibration": (x, y)})
    assert opened.plan == whole.plan
    assert [step.restored for step in opened.history] == [step.restored for step in whole.history]
    assert torch.equal(opened.network.outputs(x), whole.network.outputs(x))
    assert torch.equal(opened.at(sn.RemovedNeurons(7)).network.outputs(x), whole.network.outputs(x))
    assert opened.at(sn.RemovedNeurons(4)).plan.removed == whole.plan.removed[:4]
    assert len(opened.at(sn.RemovedNeurons(9)).plan.removed) == 9
    assert f"Polished: {len(exchanges)} exchange" in whole.summary()
    for kept in range(len(whole.history) - len(exchanges), len(whole.history)):  # killed after so many steps
        torn = tmp_path / f"torn_{kept}"
        shutil.copytree(tmp_path / "whole", torn)
        for name in ("summary.json", "seal.json", "model.pt2", "plan.json"):
            (torn / name).unlink()
        history = (torn / "history.csv").read_text().splitlines()
        lines = 1 + sum(max(1, len(step.removed)) for step in whole.history[:kept])
        (torn / "history.csv").write_text("\n".join(history[:lines]) + "\n")
        again = run(torn, resume=True)
        assert again.plan == whole.plan
        assert (torn / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
        assert [(s.removed, s.restored, s.measures) for s in again.folder.history()] == [
            (s.removed, s.restored, s.measures) for s in whole.folder.history()
        ]


def test_an_effort_keeps_rounds_for_exchanges_and_goes_on_to_the_same_bits(tmp_path) -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 10)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] + x[:, 3] > 1).long()
    model = nn.Sequential(nn.Linear(10, 48), nn.Tanh(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    task = sn.Task(model, "cross-entropy", (x, y))

    def run(out, **more):
        return sn.prune(task, goals=[sn.RemovedNeurons(64)], polish=True, effort=170, out=out, **more)

    whole = run(tmp_path / "whole")
    made = sum(bool(step.restored) for step in whole.history)
    assert 1 <= made <= whole.config.content["rounds"]
    assert whole.config.content["passes"] < 170 * (1 - SHARE_FOR_POLISH) + 10
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    for name in ("summary.json", "seal.json", "model.pt2", "plan.json"):
        (tmp_path / "torn" / name).unlink()
    rows = (tmp_path / "torn" / "history.csv").read_text().splitlines()
    (tmp_path / "torn" / "history.csv").write_text("\n".join(rows[:-made]) + "\n")
    again = run(tmp_path / "torn", resume=True)
    assert again.plan == whole.plan
    assert [step.restored for step in again.history] == [step.restored for step in whole.history]


def test_the_page_says_who_came_back_and_draws_the_last_network(tmp_path) -> None:
    from shrinknet.report.page_data import page_data

    _, task = small(7)
    run = sn.prune(task, goals=[sn.RemovedNeurons(7)], polish=True, effort="exact", out=tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    data = page_data(folder, "run", folder.groups(), folder.history(), 100)
    assert data["handed"] == len(run.history) - 1
    names = [group["name"] for group in data["groups"]]
    for step, back in zip(run.history, data["restored"], strict=True):
        assert [[names.index(n.group), n.index] for n in step.restored] == back
    left = np.array([group["width"] for group in data["groups"]])
    for pairs in data["went"]:
        for group, count in pairs:
            left[group] -= count
    assert left.tolist() == [len(run.network.alive(group)) for group in run.network.groups]


def test_what_cannot_be_polished_is_refused() -> None:
    _, task = small(0)
    goals = [sn.RemovedNeurons(7)]
    with pytest.raises(
        sn.BadInputError, match=r"polish must be left out unless goals end the search. Got `whole_curve=True`"
    ):
        sn.prune(task, goals=goals, polish=True, whole_curve=True)
    with pytest.raises(sn.BadInputError, match=r"polish must be left out unless goals end the search. Got no goal"):
        sn.prune(task, polish=True)
    with pytest.raises(
        sn.BadInputError, match=r"polish must be left out where neurons go in blocks. Got `multiple_of=2`"
    ):
        sn.prune(task, goals=goals, polish=True, multiple_of=2)
    with pytest.raises(
        sn.BadInputError, match=r"effort must be at least .* passes where a run is polished. Got 8.0, 8 f"
    ):
        sn.prune(task, goals=goals, polish=True, effort=8)


def test_workers_rank_and_the_exchanges_are_those_of_one_process() -> None:
    _, task = small(7)
    runs = [
        sn.prune(task, goals=[sn.RemovedNeurons(7)], polish=True, effort="exact", scoring=scoring)
        for scoring in (sn.Scoring(), sn.Scoring(executor="processes", workers=2))
    ]
    assert any(step.restored for step in runs[0].history)
    assert runs[0].plan == runs[1].plan


def test_tied_layers_are_not_polished() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.head = nn.LSTM(3, 4, num_layers=2, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.cells(x)[0][:, -1])

    task = sn.Task(Two(), "cross-entropy", (torch.randn(12, 5, 3), torch.arange(12) % 2))
    with pytest.raises(
        sn.BadInputError, match=r"polish must be left out where neurons go in blocks. Got .* tied. Leave"
    ):
        sn.prune(task, goals=[sn.RemovedNeurons(2)], polish=True)


def test_a_guard_ends_the_exchanges() -> None:
    _, task = small(7)

    class NoWorse(sn.Guard):
        def broken(self, start, now) -> bool:
            return now.costs.num_neurons == 7 and seen.append(now) is None and len(seen) > 1

        def __str__(self) -> str:
            return "only once"

    seen: list = []
    run = sn.prune(task, goals=[sn.RemovedNeurons(7)], guards=[NoWorse()], polish=True, effort="exact")
    assert run.is_met
    assert not any(step.restored for step in run.history)
