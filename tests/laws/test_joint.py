"""Joint refits: never worse than their start where it counts, no labels, the same bits, and a proof as ever."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, conv_networks, dense_networks
from torch import nn
from torch.nn import functional

import shrinknet as sn
from shrinknet.compensation.compensate import compensation_of
from shrinknet.core.config import RunConfig
from shrinknet.core.folder import RunFolder
from shrinknet.core.progress import num_batches
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.recovery import descent
from shrinknet.recovery.answers import Teacher, of_answers
from shrinknet.recovery.augment import AUGMENTATIONS, augmented, flip, shift
from shrinknet.recovery.descent import ROWS_A_STEP, VALUES_HELD, held_out, smaller, spread
from shrinknet.recovery.joint import PASSES_AN_EPOCH, STEPS, begun, most_epochs, refit_jointly
from shrinknet.report.page_data import page_data, with_handed_back
from shrinknet.run.checking import check_files
from shrinknet.run.together import compensation_for
from shrinknet.search.steps import measure
from shrinknet.surgery.proof import verify_on
from shrinknet.surgery.remove import cut_graph

NO_MORE_ROWS = augmented(())


def trained(loss: str = "cross-entropy", rows: int = 240) -> sn.Task:
    """A small network of images that knows something, so that it has something to lose."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip
    x = torch.randn(rows + 100, 1, 8, 8)
    y = x.flatten(1)[:, :4].argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(model(x[:rows]), y[:rows]).backward()
        optimizer.step()
    targets = y if loss == "cross-entropy" else model.eval()(x).detach()
    return sn.Task(model.eval(), loss, (x[:rows], targets[:rows]), (x[rows:], targets[rows:]), batch_size=64)


def half(network: GatedNetwork) -> GatedNetwork:
    """The network without every second neuron."""
    gone = [neuron for group in network.groups for neuron in group.neurons[: group.width // 2]]
    return network.without(gone)


def far(task: sn.Task, network: GatedNetwork, seed: int = 0) -> float:
    """The slow twin of what is held out: one pass of each network, masked, over a fifth of the rows."""
    held, _ = held_out(task.calibration, seed)
    inputs = held.whole().inputs
    teacher = Teacher.of(network, next(held.batches()).inputs)
    with torch.no_grad():
        return float(of_answers(network.loss, network.outputs(inputs), task.model(inputs), teacher.variances[""]))


@pytest.mark.parametrize("loss", ["cross-entropy", "squared-error"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_joint_refit_is_nearer_on_the_rows_held_out(loss: str, seed: int) -> None:
    task = trained(loss)
    start = half(gated(task))
    refit = refit_jointly(task, start, NO_MORE_ROWS, 8, seed)
    assert far(task, refit, seed) < 0.9 * far(task, start, seed)


@given(dense_networks(), st.integers(0, 3))
def test_it_is_never_worse_there_than_its_start(drawn: Drawn, seed: int) -> None:
    drawn = Drawn(drawn.model, torch.randn(30, *drawn.inputs.shape[1:], dtype=torch.float64), torch.arange(30) % 3)
    task = drawn.task()
    start = half(gated(task))
    refit = refit_jointly(task, start, NO_MORE_ROWS, 2, seed)
    assert far(task, refit, seed) <= far(task, start, seed) + 1e-12


def distances(epochs: int) -> list[float]:
    """What is held out says of the start, and after each epoch."""
    task = trained()
    start = half(gated(task))
    held, rows = held_out(task.calibration, 0)
    way = begun(Teacher.of(start, next(held.batches()).inputs), held, rows, NO_MORE_ROWS, epochs, 0)
    return [way.judge(way.average), *(way.history[-1]["held_out_loss"] for _ in way.epochs())]


def test_averages_of_steps_lose_no_ground_at_first(monkeypatch) -> None:
    monkeypatch.setattr(descent, "RATE", 10 * descent.RATE)
    with_average = distances(20)
    monkeypatch.setattr(descent, "AVERAGED", 0.0)
    without = distances(20)
    assert max(without[1:6]) > without[0], "the law is about steps that lead astray at first"
    assert max(with_average[1:6]) <= with_average[0]


def test_where_every_step_leads_astray_the_start_comes_back(monkeypatch) -> None:
    monkeypatch.setattr("shrinknet.recovery.descent.RATE", 100.0)
    task = trained()
    start = half(gated(task))
    refit = refit_jointly(task, start, NO_MORE_ROWS, 2)
    inputs = task.calibration.spread(50).inputs
    assert torch.equal(refit.outputs(inputs), start.outputs(inputs))


def test_neither_the_network_nor_the_start_are_touched() -> None:
    task = trained()
    start = half(gated(task))
    inputs = task.calibration.spread(50).inputs
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    with torch.no_grad():
        said = start.outputs(inputs)
        refit = refit_jointly(task, start, NO_MORE_ROWS, 2)
        assert torch.equal(start.outputs(inputs), said)
        assert not torch.equal(refit.outputs(inputs), said)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
    assert not any(parameter.grad is not None for parameter in start.trace.module.parameters())


def test_the_seed_alone_decides_the_bits_and_labels_do_not() -> None:
    task = trained()
    ways = augmented(AUGMENTATIONS)
    others = sn.Task(task.model, "cross-entropy", (rows_of(task)[0], rows_of(task)[1].flip(0)), batch_size=64)
    first, again, by_other_labels, other = (
        refit_jointly(one, half(gated(one)), ways, 2, seed).program.tensors
        for one, seed in ((task, 0), (task, 0), (others, 0), (task, 1))
    )
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, by_other_labels[name])
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_where_memory_holds_few_rows_slopes_are_added_up() -> None:
    task, seen = trained(), []
    each = gated(task).program.bytes_per_sample
    refit = []
    for rows in (50, 7):
        start = half(gated(task, scoring=sn.Scoring(memory=VALUES_HELD * each * rows)))
        with pytest.MonkeyPatch.context() as patch:
            says = Teacher.says
            patch.setattr(Teacher, "says", lambda self, rows, says=says: (seen.append(len(rows)), says(self, rows))[1])
            refit.append(refit_jointly(task, start, NO_MORE_ROWS, 2))
        assert max(seen[2:]) == rows  # the first two look at all rows held out
        seen.clear()
    inputs = rows_of(task)[0]
    assert torch.dist(refit[0].outputs(inputs), refit[1].outputs(inputs)) < 0.01 * refit[0].outputs(inputs).norm()


@given(conv_networks(), st.data())
def test_what_is_spread_is_what_is_cut(drawn: Drawn, data) -> None:
    network = half(drawn.network)
    cut = smaller(network)
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.normal_()
    weights = {name: one.detach() for name, one in cut.named_parameters(remove_duplicate=False)}
    masked = network.refit(spread(network, weights))
    again = cut_graph(masked.trace, masked.present, masked.program.tensors)
    assert all(torch.equal(one, weights[name]) for name, one in again.named_parameters(remove_duplicate=False))
    assert verify_on(masked, again, lambda: [drawn.inputs]).broke_at is None


def rows_of(task: sn.Task) -> tuple[torch.Tensor, torch.Tensor]:
    whole = task.calibration.whole()
    return whole.inputs, whole.targets


def pruned(task: sn.Task, **more: object) -> sn.Run:
    return sn.prune(task, **{"goals": [sn.NumParameters("60%")], "compensate": "joint", "effort": "exact", **more})


def test_a_run_ends_nearer_than_by_least_squares_and_opens_again_to_the_bit(tmp_path) -> None:
    task = trained()
    run = pruned(task, augment="flip,shift", out=tmp_path / "run")
    unseen = task.with_calibration(held_out(task.calibration, 0)[1])
    start = compensated(unseen, [step.removed for step in run.history])
    losses = [measure(task, one, run.ships.costs).calibration_loss for one in (start, run.network)]
    assert losses[0] == run.history[-1].measures.calibration_loss, "the search is that of least squares"
    assert losses[1] == run.measures.calibration_loss
    assert far(task, run.network) < 0.9 * far(task, start)
    assert run.verification.holds
    again = sn.load(tmp_path / "run", model=task.model, data=[rows_of(task)])
    assert all(difference.holds for difference in check_files(again).values())
    inputs = rows_of(task)[0]
    assert torch.equal(again.model(inputs), run.model(inputs))
    assert again.measures.calibration_loss == run.measures.calibration_loss


@pytest.mark.parametrize("epochs", [0, 1])
def test_rows_that_judge_a_joint_refit_have_no_part_in_what_it_starts_from(epochs: int) -> None:
    task, seed = trained(), 3
    inputs, targets = rows_of(task)
    held = held_out(task.calibration, seed)[0].whole().inputs
    judging = (inputs.flatten(1)[:, None] == held.flatten(1)[None]).all(2).any(1)
    assert int(judging.sum()) == len(held) == len(inputs) // 5
    others = torch.where(judging[:, None, None, None], inputs + 1, inputs)
    config = RunConfig.of({"compensate": "joint", "seed": seed, "epochs": epochs})
    refit = []
    for one in (inputs, others):
        here = sn.Task(task.model, "cross-entropy", (one, targets), batch_size=64)
        network = gated(here)
        gone = [group.neurons[0] for group in network.groups]
        refit.append(compensation_for(config, here, network).after([gone]).program.tensors)
    same = all(torch.equal(tensor, refit[1][name]) for name, tensor in refit[0].items())
    assert same == bool(epochs), "where nothing follows that they would judge, all rows count"


def test_few_rows_are_gone_through_by_smaller_steps_and_more_often() -> None:
    def first_rate(rows: int) -> float:
        task = trained(rows=rows)
        start = half(gated(task))
        held, seen = held_out(task.calibration, 0)
        way = begun(Teacher.of(start, next(held.batches()).inputs), held, seen, NO_MORE_ROWS, 1, 0)
        return way._rates[0] / float(way._cut.get_parameter("0.weight").square().mean().sqrt())

    assert first_rate(1500) == pytest.approx(descent.RATE)
    assert first_rate(250) == pytest.approx(descent.RATE / 2)
    assert [most_epochs(rows) for rows in (2, 250, 1000, 2000)] == [STEPS, STEPS // 4, 60, 60]


def test_the_page_and_the_summary_show_the_network_that_was_handed_back(tmp_path) -> None:
    run = pruned(trained(), augment="flip", whole_curve=True, out=tmp_path / "run")
    assert (
        "made up for: the layers that read what went were refit by a formula (least-squares), and then all weights "
        in (run.summary().replace("Made", "made"))
    )
    folder = RunFolder.open(tmp_path / "run")
    among, place = with_handed_back(folder, folder.history())
    assert len(among) == len(run.history) + 1
    assert among[place].measures.calibration_loss == run.measures.calibration_loss
    assert among[place - 1].measures.calibration_loss > run.measures.calibration_loss
    assert not among[place].removed
    data = page_data(folder, "", folder.groups(), folder.history(), 1000)
    assert data["handed"] == place
    assert data["rises"][place] == 0
    losses = [step.measures.calibration_loss for step in run.history]
    assert data["rises"][place + 1] == pytest.approx(losses[place] - losses[place - 1], rel=1e-5)
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "what flip made of them: no labels, no further data." in page
    assert "handed back moved after the search" in page
    assert data["moved"] == "refit together"


def test_other_members_of_the_family_are_refit_as_well_from_the_run_and_from_its_folder(tmp_path) -> None:
    task, told = trained(), []
    run = pruned(task, out=tmp_path / "run")
    here = run.at(sn.NumParameters("80%"), tell=lambda what, fraction: told.append((what, fraction)))
    there = sn.load(tmp_path / "run", model=task.model, data=[rows_of(task)]).at(sn.NumParameters("80%"))
    inputs = rows_of(task)[0]
    assert torch.equal(here.model(inputs), there.model(inputs))
    gone = [step.removed for step in run.history]
    unseen = task.with_calibration(held_out(task.calibration, 0)[1])
    assert far(task, here.network) < far(task, compensated(unseen, gone[: len(here.plan.removed) + 1]))
    assert {what for what, _ in told} == {"all weights are refit together"}
    done = [fraction for _, fraction in told]
    assert done == sorted(done)
    assert (done[-1], len(done)) == (1.0, STEPS) == (1.0, most_epochs(240) * num_batches(range(192), ROWS_A_STEP))


def compensated(task: sn.Task, portions: list) -> GatedNetwork:
    return compensation_of("least-squares", task, gated(task)).after(portions)


def test_a_run_that_is_killed_while_it_refits_ends_in_the_same_bits(tmp_path) -> None:
    class KilledError(Exception):
        pass

    class Kills:
        def ranking(self, done: int, total: int) -> None: ...

        def step(self, step: sn.Step, fraction: float) -> None: ...

        def tell(self, what: str, fraction: float) -> None:
            if fraction > 0.1:
                raise KilledError

    task = trained()
    with pytest.raises(KilledError):
        pruned(task, out=tmp_path / "run", progress=Kills())
    resumed, straight = pruned(task, out=tmp_path / "run", resume=True), pruned(task)
    inputs = rows_of(task)[0]
    assert torch.equal(resumed.model(inputs), straight.model(inputs))


def test_the_effort_pays_for_epochs_and_half_of_it_at_most(tmp_path) -> None:
    task = trained()
    run = pruned(task, effort=60, out=tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["epochs"] == int(30 / PASSES_AN_EPOCH)
    assert config["passes"] == pytest.approx(60 - config["epochs"] * PASSES_AN_EPOCH)
    assert run.is_met
    resumed = pruned(task, effort=60, out=tmp_path / "run", resume=True)
    assert torch.equal(resumed.model(rows_of(task)[0]), run.model(rows_of(task)[0]))


def test_where_the_exact_search_fits_half_of_the_effort_the_rest_still_pays_for_the_epochs(tmp_path) -> None:
    task, folder = trained(), tmp_path / "run"
    run = pruned(task, effort=190, goals=[sn.RemovedNeurons(3)], out=folder)
    config = json.loads((folder / "config.json").read_text())
    assert "passes" not in config, "the law is about efforts that the exact search fits"
    assert config["epochs"] == int(95 / PASSES_AN_EPOCH) < most_epochs(240)
    (folder / "summary.json").unlink()
    resumed = pruned(task, effort=190, goals=[sn.RemovedNeurons(3)], out=folder, resume=True)
    assert torch.equal(resumed.model(rows_of(task)[0]), run.model(rows_of(task)[0]))


def test_an_effort_that_pays_for_no_epoch_ends_as_least_squares() -> None:
    task = trained()
    with pytest.raises(sn.BadInputError, match=r"^effort must be at least ([0-9.]+) forward passes") as told:
        pruned(task, effort=2)
    least = 1.01 * float(str(told.value).split("at least ")[1].split()[0])
    run = pruned(task, effort=least)
    assert run.is_met, "what a refusal says is enough is enough"
    assert run.config.content["epochs"] == 0
    assert run.measures.calibration_loss == run.history[-1].measures.calibration_loss


def test_a_refit_that_would_break_a_guard_is_undone(monkeypatch, caplog) -> None:
    def astray(task: sn.Task, network: GatedNetwork, *more: object) -> GatedNetwork:
        return network.refit({name: 5 * one for name, one in network.trace.tensors.items() if name.endswith("bias")})

    monkeypatch.setattr("shrinknet.run.together.refit_jointly", astray)
    task = trained()
    guarded = pruned(task, goals=[sn.RemovedNeurons(3)], guards=[sn.LossRise(0.5)])
    assert guarded.measures.validation_loss == guarded.history[-1].measures.validation_loss
    assert "A joint refit would break a guard, and is undone" in caplog.text
    unguarded = pruned(task, goals=[sn.RemovedNeurons(3)])
    assert unguarded.measures.validation_loss > unguarded.history[-1].measures.validation_loss + 0.5


def test_flips_and_shifts_move_pixels_and_change_none() -> None:
    generator, images = torch.Generator().manual_seed(0), torch.rand(40, 2, 8, 16)
    flipped = flip(images, generator)
    kept = [torch.equal(one, other) for one, other in zip(flipped, images, strict=True)]
    assert 0 < sum(kept) < 40
    assert torch.equal(torch.where(torch.tensor(kept)[:, None, None, None], flipped, flipped.flip(3)), images)
    shifted = shift(images, generator)
    assert shifted.shape == images.shape
    inner = images[:, :, 2:6, 4:12].flatten(1).sort(1).values  # in whichever place, but never lost
    assert all(bool(torch.isin(one, other).all()) for one, other in zip(inner, shifted, strict=True))
    assert not torch.equal(shifted, images)


def doubled(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.cat([inputs, inputs])


@pytest.mark.parametrize(("more", "sentence"), [
    ({"augment": "flip", "compensate": "mean"},
     "augment must be left out unless all weights are refit together. Got flip beside compensate='mean'. "
     "Say `compensate='joint'`."),
    ({"augment": "flop"}, "augment must be the name of an augmentation. Got 'flop'. Did you mean 'flip'?"),
    ({"augment": [doubled]}, "augment must be a function that returns as many inputs of the same shapes, [2, 1, 8, 8]. "
                             "Got [4, 1, 8, 8] from 'doubled'. Return inputs alone."),
])  # fmt: skip
def test_augmentations_that_cannot_be_are_refused_before_anything_is_scored(more: dict, sentence: str) -> None:
    with pytest.raises(sn.BadInputError) as told:
        pruned(trained(), **more)
    assert str(told.value).startswith(sentence)


def test_rows_that_are_no_images_are_neither_flipped_nor_shifted() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    task = sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 3))
    with pytest.raises(sn.BadInputError) as told:
        pruned(task, augment=("shift",))
    assert str(told.value) == (
        "augment must be left out, or a function of your own, of inputs that are no images [rows, channels, height, width]. "
        "Got 'shift' for inputs [2, 4]. Give package.module:function, of inputs and a torch.Generator, or leave it out."
    )


def test_augmentations_of_ones_own_are_not_imported_because_a_folder_names_them(tmp_path) -> None:
    task = trained()
    run = pruned(task, augment=[brighter], out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["augment"] == ["test_joint:brighter"]
    loaded = sn.load(tmp_path / "run", model=task.model, data=[rows_of(task)])
    inputs = rows_of(task)[0]
    assert torch.equal(loaded.model(inputs), run.model(inputs))
    with pytest.raises(sn.BadInputError, match=r"^augment must be trusted where it is code"):
        loaded.at(sn.NumParameters("80%"))
    trusted = sn.load(tmp_path / "run", model=task.model, data=[rows_of(task)], trust=True)
    assert trusted.at(sn.NumParameters("80%")).is_met


def brighter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images * (0.9 + 0.2 * torch.rand(len(images), 1, 1, 1, generator=generator))
