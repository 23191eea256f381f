"""The distance from the network's own answers: no labels are needed, and slopes are zero at the start."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.criteria.base import criterion_names
from shrinknet.run.checking import check_files

N = 20
torch.manual_seed(2)
X, Z = torch.randn(N, 5), torch.randn(N, 5)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def classifier() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(left)) * torch.relu(self.body(right)))


class Named(nn.Module):
    """Outputs by their names, for each place."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.body, self.heads = nn.Linear(5, 8), nn.ModuleDict({name: nn.Linear(8, 4) for name in names})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.body(x))
        return {name: head(hidden) for name, head in self.heads.items()}


def divergence(now: Tensor, own: Tensor, axis: int) -> Tensor:
    shares = own.softmax(axis)
    found = (shares * (own.log_softmax(axis) - now.log_softmax(axis))).sum(axis)
    return found.reshape(len(found), -1).mean(1)


def squares(now: Tensor, own: Tensor) -> Tensor:
    return (now - own).square().reshape(len(own), -1).sum(1) / 2


PLACES = torch.randn(N, 6, 5)
MEANT = {
    "logits": (classifier, X, "own-answers-kl", lambda now, own: divergence(now, own, 1)),
    "one value": (lambda: seeded(lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))), X, "own-answers-squares", squares),
    "probabilities": (lambda: nn.Sequential(*classifier(), nn.Softmax(1)), X, "own-answers-squares", squares),
    "an autoencoder": (lambda: seeded(lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5))), X, "own-answers-squares", squares),
    "logits of tokens": (lambda: seeded(lambda: Named("logits")), PLACES, "own-answers-kl",
                         lambda now, own: divergence(now["logits"], own["logits"], 2)),
    "two heads": (lambda: seeded(lambda: Named("kinds", "boxes")), X, "own-answers",
                  lambda now, own: squares(now["kinds"], own["kinds"]) + squares(now["boxes"], own["boxes"])),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANT)
def test_ablation_is_the_distance_by_hand_and_starts_at_nothing(name: str) -> None:
    make, inputs, meant, distance = MEANT[name]
    model, inputs = make().double(), inputs.double()
    task = sn.Task(model, "own-answers", inputs, batch_size=8)
    assert task.loss.name == meant
    with torch.no_grad():
        own = model(inputs)
        found = dict(sn.rank(task))
        readers = [model[2]] if isinstance(model, nn.Sequential) else list(model.heads.values())
        for neuron, score in found.items():
            saved = [reader.weight.clone() for reader in readers]
            for reader in readers:
                reader.weight[:, neuron.index] = 0
            assert score == pytest.approx(float(distance(model(inputs), own).mean()), rel=1e-9, abs=1e-14)
            for reader, weight in zip(readers, saved, strict=True):
                reader.weight.copy_(weight)


@pytest.mark.parametrize("loss", ["own-answers-kl", "own-answers-squares"])
def test_second_order_is_half_the_curvature_as_there_is_no_slope(loss: str) -> None:
    model = classifier().double()
    found = dict(sn.rank(sn.Task(model, loss, X.double()), "taylor-2"))
    distance = squares if loss == "own-answers-squares" else lambda now, own: divergence(now, own, 1)
    hidden, own = torch.tanh(model[0](X.double())), model(X.double())

    def mean(factor: Tensor, index: int) -> Tensor:
        gates = torch.eye(8, dtype=torch.float64)[index].mul(factor - 1).add(1)
        return distance(model[2](hidden * gates), own).mean()

    for neuron, score in found.items():
        curvature = torch.autograd.functional.hessian(
            lambda g, k=neuron.index: mean(g, k), torch.ones((), dtype=torch.float64)
        )
        assert score == pytest.approx(float(curvature) / 2, rel=1e-9)


@pytest.mark.parametrize("criterion", criterion_names())
def test_criteria_that_see_slopes_alone_refuse_and_the_others_score(criterion: str) -> None:
    task = sn.Task(classifier(), "own-answers", X)
    if find_criterion(criterion).follows_slopes:
        for verb in (sn.rank, sn.prune):
            with pytest.raises(
                sn.BadInputError, match=r"used where the loss has slopes\. Got 'own-answers-kl', whose slope is 0"
            ):
                verb(task, criterion)
    else:
        assert any(score for _, score in sn.rank(task, criterion))


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Tensor:
        return X[row]


FORMS = {
    "a tensor": X, "a tuple of one": (X,), "inputs and targets that nobody needs": (X, torch.arange(N)),
    "by name": {"input": X}, "a data set of tensors": TensorDataset(X), "a data set": Rows(),
    "a loader": DataLoader(Rows(), 7), "a loader of tuples": DataLoader(TensorDataset(X), 7), "an array": X.numpy(),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_inputs_alone_will_do_in_every_form(form: str) -> None:
    expected = dict(sn.rank(sn.Task(classifier(), "own-answers", X)))
    found = dict(sn.rank(sn.Task(classifier(), "own-answers", FORMS[form])))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("rows", [(X, Z), {"left": X, "right": Z}, TensorDataset(X, Z), ((X, Z),)])
def test_what_forward_needs_is_no_target(rows: Any) -> None:
    expected = dict(sn.rank(sn.Task(seeded(Two), "own-answers", (X, Z, torch.zeros(N)))))
    assert dict(sn.rank(sn.Task(seeded(Two), "own-answers", rows))) == pytest.approx(expected)


def test_other_losses_still_want_targets() -> None:
    with pytest.raises(
        sn.BadInputError, match=r"calibration targets must be one tensor for cross-entropy\. Got nothing"
    ):
        sn.Task(classifier(), "cross-entropy", X)


def test_answers_are_those_of_the_untouched_network_while_neurons_go(tmp_path) -> None:
    model = classifier()
    task = sn.Task(model, "own-answers", X, validation=Z, test=Z, accuracy="agreement")
    run = sn.prune(task, goals=[sn.RemovedNeurons(4)], out=tmp_path / "run")
    last = run.history[-1].measures
    own, now = model(Z), run.model(Z)
    assert last.validation_loss == pytest.approx(float(divergence(now, own, 1).mean()), rel=1e-4)
    assert run.history[0].measures.metrics["accuracy"] == 1
    assert last.metrics["accuracy"] == pytest.approx(float((own.argmax(1) == now.argmax(1)).double().mean()))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["loss"] == "own-answers-kl"
    again = sn.load(tmp_path / "run", data=[X, Z, Z])
    assert again.plan == run.plan
    assert all(one.holds for one in check_files(again).values())
    resumed = sn.prune(task, goals=[sn.RemovedNeurons(4)], out=tmp_path / "run", resume=True)
    assert resumed.plan == run.plan


def test_workers_see_the_same_answers() -> None:
    task = sn.Task(classifier(), "own-answers", X, batch_size=8)
    assert sn.rank(task, scoring=sn.Scoring(executor="processes", workers=1)) == sn.rank(task)


FACTORY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
"""


def test_the_command_needs_no_targets(tmp_path, monkeypatch) -> None:
    import numpy as np
    from typer.testing import CliRunner

    from shrinknet.cli.main import app

    (tmp_path / "a_net_of_its_own.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    np.savez("rows.npz", inputs=X.numpy(), split=np.arange(N) % 3)
    words = ["a_net_of_its_own:net", "--data", "rows.npz", "--loss", "own-answers"]
    done = CliRunner().invoke(app, ["prune", *words, "--out", "run", "--remove", "2"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run" / "config.json").read_text())["loss"] == "own-answers-kl"
    for verb in (["verify", "run"], ["cut", "run", "--remove", "3", "--out", "more"]):
        done = CliRunner().invoke(app, verb)
        assert done.exit_code == 0, (done.output, done.exception)
    refused = CliRunner().invoke(app, ["rank", *words, "--criterion", "taylor-1"])
    assert "whose slope is 0 as targets are the network's own answers" in str(refused.exception)
    refused = CliRunner().invoke(app, ["rank", *words[:3]])
    assert "one tensor for cross-entropy" in str(refused.exception)


class Similarities(nn.Module):
    """Each row beside all others, as CLIP gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        given = torch.relu(self.body(x))
        return given @ given.T


def test_answers_whose_sizes_follow_the_rows_are_refused_in_a_sentence() -> None:
    for size in (5, 24):
        with pytest.raises(sn.BadInputError, match="must be a network that answers each row by itself"):
            sn.Task(Similarities(), "own-answers", torch.randn(12, 4), batch_size=size)
