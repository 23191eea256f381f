"""Every criterion gives the same bits in this process and in workers, whatever form the data have."""

from typing import get_args

import numpy as np
import pytest
import torch
from elsewhere import Rows
from torch import nn
from torch.utils.data import DataLoader

import shrinknet as sn
from shrinknet.compensation.compensate import Compensation
from shrinknet.core.config import Compensate
from shrinknet.criteria import criterion_names, find_criterion
from shrinknet.criteria.base import Again, mean_over_samples
from shrinknet.criteria.sequential_attention import SequentialAttention
from shrinknet.criteria.skeletonization import Skeletonization
from shrinknet.engine.gates import gated
from shrinknet.execution import jobs
from shrinknet.execution.jobs import Workers
from shrinknet.task.data import Batch

FORMS = {
    "tensors": lambda *rows: rows,
    "dataset": Rows,
    "loader": lambda *rows: DataLoader(Rows(*rows), batch_size=8),
}


class Spread(sn.Criterion):
    """The variance of what readers see of a neuron, in two looks: the mean first; float32 throughout."""

    name, unit = "spread", "variance"

    def begin(self, network):
        return network, None

    def observe(self, state, batch):
        network, means = state
        found = {}
        for site, value in network.values_read(batch.inputs).items():
            (group,) = (g for g in network.groups if int(network.program.ids[site][0]) in network.trace.ids_of(g))
            found[group.name] = (value if means is None else (value - means[group.name]).square()).sum(0)
        return found

    def conclude(self, state, sums):
        network, means = state
        found = mean_over_samples(sums)
        return Again((network, {name: mean.float() for name, mean in found.items()})) if means is None else found


class LastBatch(sn.Criterion):
    """What stands in its state is the weights alone; the number of a batch is its place, by whomever it is read."""

    name, unit = "last batch", "none"

    def begin(self, network):
        return {"0": network.trace.tensors["0.weight"].sum(1), "2": network.trace.tensors["2.weight"].sum(1)}

    def observe(self, state, batch):
        return {name: value * batch.number for name, value in state.items()}

    def conclude(self, state, sums):
        return sums


CRITERIA = {
    **{name: find_criterion(name) for name in criterion_names()},
    "sequential-attention": SequentialAttention(rounds=3, steps=2),
    "skeletonization, smoothed": Skeletonization(smoothing=0.8),
    "of one's own, in two looks": Spread(),
    "of one's own, with a state": LastBatch(),
}


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 4, generator=generator), torch.arange(20) % 3


def network_of_two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def tasks(model: nn.Module) -> dict[str, sn.Task]:
    return {name: sn.Task(model, "cross-entropy", form(*rows()), batch_size=8) for name, form in FORMS.items()}


@pytest.fixture(scope="module")
def whole():
    """A traced network, tasks on it, and its exported form."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    made = tasks(network_of_two_layers())
    yield gated(made["tensors"]), made, Workers(made["tensors"], sn.Scoring(), (), (), CRITERIA["random"], None)._model
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_gives_the_same_bits_by_every_executor_on_every_form_of_data(
    name: str, whole, elsewhere, monkeypatch
) -> None:
    monkeypatch.setattr(jobs, "Processes", elsewhere)
    network, made, model = whole
    network = network.without([sn.Neuron("0", 2)])
    expected = CRITERIA[name].score(network, made["tensors"].calibration)
    assert any(len(set(values)) > 1 for values in expected.values.values()), "it tells neurons apart"
    for form, task in made.items():
        workers = Workers(task, sn.Scoring(executor="processes", workers=1), (), (), CRITERIA[name], None)
        workers.__dict__["_model"] = model
        by_workers = workers.score(network, lambda done, total: None)
        workers.close()
        here = CRITERIA[name].score(network, task.calibration)
        for group, values in expected.values.items():
            np.testing.assert_array_equal(here.values[group], values, err_msg=form)
            np.testing.assert_array_equal(by_workers.values[group], values, err_msg=form)


@pytest.mark.parametrize("kind", [kind for kind in get_args(Compensate) if kind not in ("auto", "none")])
def test_every_criterion_scores_refit_networks_alike_on_every_form_of_data(kind: str, whole) -> None:
    network, made, _ = whole
    found = {}
    for form, task in made.items():
        compensation = Compensation(kind, task, network)
        gone = [sn.Neuron("0", 2)]
        refit = compensation.scoring(compensation.refit(network.without(gone), gone))
        found[form] = {name: criterion.score(refit, task.calibration) for name, criterion in CRITERIA.items()}
    for form, name in ((form, name) for form in FORMS for name in CRITERIA):
        for group, values in found["tensors"][name].values.items():
            np.testing.assert_array_equal(found[form][name].values[group], values, err_msg=f"{name} of {form}")


@pytest.mark.parametrize("kind", ["mean", "least-squares"])
def test_workers_and_compensation_are_one_sentence(kind: str) -> None:
    task = tasks(network_of_two_layers())["tensors"]
    with pytest.raises(sn.BadInputError, match=r"compensate must be none where workers score\. Got '"):
        sn.prune(task, compensate=kind, scoring=sn.Scoring(executor="processes"))


@pytest.mark.parametrize("name", ["magnitude", "random"])
def test_no_worker_starts_for_a_criterion_that_needs_no_data(name: str, monkeypatch) -> None:
    def never(*given):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(jobs, "Processes", never)
    task = tasks(network_of_two_layers())["dataset"]
    assert sn.rank(task, name, scoring=sn.Scoring(executor="processes")) == sn.rank(task, name)


def test_a_group_may_have_any_name(whole, elsewhere, monkeypatch, tmp_path) -> None:
    """Results are kept in files of named arrays; names that those files know as something else are names."""
    monkeypatch.setattr(jobs, "Processes", elsewhere)
    model = nn.Sequential()
    model.add_module("file", nn.Linear(4, 6))
    model.add_module("b", nn.ReLU())
    model.add_module("allow_pickle", nn.Linear(6, 3))
    task = sn.Task(model, "cross-entropy", rows(), batch_size=8)
    by_workers = sn.rank(task, scoring=sn.Scoring(executor="processes"), shards=tmp_path / "shards")
    assert by_workers == sn.rank(task)


def test_results_of_other_options_or_groups_are_not_taken_for_these(whole) -> None:
    _, made, model = whole

    def key(criterion, only=()):
        workers = Workers(made["tensors"], sn.Scoring(), (), only, criterion, None)
        workers.__dict__["_model"] = model
        return workers._key

    same = [Skeletonization(smoothing=0.8), Skeletonization(smoothing=0.8)]
    assert key(same[0]) == key(same[1])
    others = [key(Skeletonization(smoothing=0.9)), key(Skeletonization()), key(same[0], ("0",)), key(Spread())]
    assert len({key(same[0]), *others}) == 5


def test_a_criterion_that_overrides_more_than_the_three_is_one_sentence() -> None:
    words = r"criterion must be one that writes begin, observe and conclude, .* Got .*Old, which overrides score\. Let"
    with pytest.raises(sn.BadInputError, match=words):

        class Old(sn.Criterion):
            name = "old"

            def conclude(self, state, sums):
                return sums

            def score(self, network, batches):
                return None


def test_a_criterion_that_concludes_with_other_shapes_is_one_sentence() -> None:
    class Short(sn.Criterion):
        name = "short"

        def conclude(self, network, sums):
            return {"0": torch.zeros(7), "2": torch.zeros(4)}

    class Few(Short):
        name = "few"

        def conclude(self, network, sums):
            return {"0": torch.zeros(7)}

    task = tasks(network_of_two_layers())["tensors"]
    words = r"^criterion must be one that concludes with a score for each neuron of each group\. Got "
    with pytest.raises(sn.BadInputError, match=words + r"\(4,\) from 'short' for group '2' of \(5,\)\."):
        sn.rank(task, Short())
    with pytest.raises(sn.BadInputError, match=words + r"nothing from 'few' for group '2' of \(5,\)\."):
        sn.rank(task, Few())


def test_a_state_that_cannot_travel_is_one_sentence() -> None:
    class Closed(LastBatch):
        def begin(self, network):
            return lambda: network

    task = tasks(network_of_two_layers())["tensors"]
    with pytest.raises(sn.BadInputError, match=r"^criterion must be one whose state can travel to workers"):
        jobs.packed(Closed().begin(gated(task)), gated(task))


def test_a_look_at_batches_that_come_once_may_be_repeated() -> None:
    task = tasks(network_of_two_layers())["dataset"]
    network = gated(task)
    once, often = (Spread().score(network, source) for source in (task.calibration.batches(), task.calibration))
    assert all((once.values[name] == often.values[name]).all() for name in often.values)


def test_batches_made_by_hand_have_their_place_as_their_number() -> None:
    task = tasks(network_of_two_layers())["tensors"]
    network = gated(task)
    by_hand = [Batch(batch.inputs, batch.targets) for batch in task.calibration]
    for criterion in (Skeletonization(smoothing=0.8), LastBatch()):
        ours, theirs = criterion.score(network, by_hand), criterion.score(network, task.calibration)
        assert all((ours.values[name] == theirs.values[name]).all() for name in theirs.values)
