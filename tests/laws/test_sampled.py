"""Laws of sampled curvature: over all signs there are, it is what `gauss-newton` says, whatever the loss."""

import logging
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import shrinknet as sn
from shrinknet.criteria import find_criterion, taylor_2_sampled
from shrinknet.criteria.taylor_2_sampled import Taylor2Sampled
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.sampled import slopes_and_curvatures
from shrinknet.execution.jobs import Workers

CLASSES = torch.tensor([0, 2, 1, 2, 0, 1])
SHARES = torch.linspace(0.1, 0.9, 18, dtype=torch.float64).view(6, 3)
WEIGHTS = torch.tensor([0.2, 1.0, 2.5])

LOSSES = {
    "classes": ("cross-entropy", CLASSES),
    "shares of classes": ("cross-entropy", SHARES / SHARES.sum(1, keepdim=True)),
    "weights and smoothing": (nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.2), CLASSES),
    "ignored": (nn.CrossEntropyLoss(ignore_index=2), CLASSES),
    "own answers": ("own-answers-kl", None),
    "squares": ("squared-error", CLASSES),
    "labels": ("binary-cross-entropy", SHARES),
    "huber": ("huber", SHARES),
    "one's own": (lambda outputs, targets: (outputs * outputs.roll(1, 1)).sum(1).exp() * targets.sum(1), SHARES),
}


def task_of(name: str, model: nn.Module | None = None) -> sn.Task:
    torch.manual_seed(3)
    model = model or nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    loss, targets = LOSSES[name]
    inputs = torch.randn(6, 4, dtype=torch.float64)
    return sn.Task(model.double(), loss, (inputs, targets) if targets is not None else inputs)


def over_all_signs(network: GatedNetwork, task: sn.Task) -> tuple[Tensor, Tensor]:
    """Mean, and mean square, of each sample's estimate over every choice of signs for three outputs."""
    (batch,) = task.calibration.batches()
    every = []
    for choice in product((-1.0, 1.0), repeat=3):
        signs = torch.tensor(choice, dtype=torch.float64)
        _, curvatures = slopes_and_curvatures(network, batch, 1, lambda like, signs=signs: signs.expand_as(like))
        every.append(curvatures[0])
    return torch.stack(every).mean(0), torch.stack(every).square().mean(0)


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_over_all_signs_is_gauss_newtons_curvature(name: str) -> None:
    task = task_of(name)
    network = gated(task).without([sn.Neuron("0", 1)])
    exact, slopes = (find_criterion(one).score(network, task.calibration) for one in ("gauss-newton", "taylor-1"))
    mean = network.by_group(over_all_signs(network, task)[0].mean(0) / 2)
    for group in network.groups:
        alive = network.alive(group)
        curvature = torch.from_numpy(exact.values[group.name] - slopes.values[group.name])
        assert torch.allclose(mean[group.name][alive], curvature[alive], rtol=1e-9, atol=1e-13)
    assert float(mean["0"][1]) == 0, "a neuron that is gone"


@pytest.mark.parametrize("name", ["classes", "shares of classes", "weights and smoothing", "squares"])
def test_one_draw_is_off_by_at_most_root_two_of_itself(name: str) -> None:
    """For a factor A of the Hessian, (z . A^T J)^2 has at most three times its squared mean as mean square."""
    task = task_of(name)
    mean, square = over_all_signs(gated(task), task)
    assert bool((square <= 3 * mean.square() * (1 + 1e-9) + 1e-20).all())


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_standard_errors_are_those_of_the_samples_scored_one_by_one(executor: str) -> None:
    """Batches of one sample have each sample's signs; the slow twin takes the deviation of their scores."""
    task = task_of("classes")
    one_by_one = task.in_batches_of(1)
    network = gated(task)
    criterion = Taylor2Sampled(seed=4)
    if executor == "serial":
        found = criterion.score(network, one_by_one.calibration)
    else:
        workers = Workers(one_by_one, sn.Scoring(executor="processes", workers=2), (), (), criterion, None)
        found = workers.score(network, lambda done, total: None)
        workers.close()
    each = [criterion.observed(network, batch, number) for number, batch in enumerate(one_by_one.calibration.batches())]
    for group in network.groups:
        scores = torch.stack([one[group.name] for one in each])
        assert torch.allclose(torch.from_numpy(found.values[group.name]), scores.mean(0), rtol=1e-12)
        twin = scores.std(0) / len(scores) ** 0.5
        assert torch.allclose(torch.from_numpy(found.standard_errors[group.name]), twin, rtol=1e-9)
    assert find_criterion("magnitude").score(network, one_by_one.calibration).standard_errors == {}


def test_a_ranking_says_how_sure_its_scores_are(caplog) -> None:
    caplog.set_level(logging.INFO, "shrinknet")
    task = task_of("classes")
    sn.rank(task, "taylor-2-sampled")
    errors = Taylor2Sampled().score(gated(task), task.calibration).standard_errors
    middle, most = (f"{how(np.concatenate(list(errors.values()))):.2g}" for how in (np.median, np.max))
    said = f"The scores' standard error, over the samples, is {middle} in the middle and {most} at most."
    assert said in caplog.messages


def test_the_error_falls_with_the_root_of_the_draws() -> None:
    task = task_of("classes")
    network = gated(task)
    exact = find_criterion("gauss-newton").score(network, task.calibration)

    def error(draws: int) -> float:
        found = (Taylor2Sampled(seed, draws).score(network, task.calibration) for seed in range(40))
        return sum(float(abs(one.values["0"] - exact.values["0"]).mean()) for one in found) / 40

    assert 2.5 < error(4) / error(64) < 6, "four times less for sixteen times the draws"


def test_signs_follow_seed_and_batch_alone() -> None:
    task = task_of("classes")
    network = gated(task)
    one, again, other = (Taylor2Sampled(seed).score(network, task.calibration) for seed in (1, 1, 2))
    assert all((one.values[name] == again.values[name]).all() for name in one.values)
    assert any((one.values[name] != other.values[name]).any() for name in one.values)


def test_no_two_batches_and_no_two_draws_share_signs(monkeypatch) -> None:
    """One batch's signs are not another's a few places on: what is sampled of them would be off together."""
    drawn: list[str] = []

    def remember(network, batch, draws, signs):
        drawn.extend("".join("+-"[int(one < 0)] for one in signs(torch.zeros(256))) for _ in range(draws))
        return torch.zeros(1, len(network.present)), torch.zeros(draws, 1, len(network.present))

    monkeypatch.setattr(taylor_2_sampled, "slopes_and_curvatures", remember)
    torch.manual_seed(3)
    rows = torch.randn(12, 4), torch.arange(12) % 3
    task = sn.Task(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), "cross-entropy", rows, batch_size=2)
    Taylor2Sampled(seed=1, draws=2).score(gated(task), task.calibration)
    assert len(drawn) == 12
    pieces = {one: {one[place : place + 32] for place in range(len(one) - 32)} for one in drawn}
    assert all(not pieces[one] & pieces[other] for one, other in combinations(drawn, 2))


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"draws": 0}, {"draws": True}])
def test_what_signs_cannot_be_drawn_by_is_refused(arguments) -> None:
    (name,) = arguments
    with pytest.raises(sn.BadInputError, match=rf"^{name} must be a whole number of at least"):
        Taylor2Sampled(**arguments)


class Mixing(nn.Module):
    """Rows and places on one axis, turned round and back: nobody knows whose a place is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x.reshape(-1, 2).flip(0).flip(0)))).reshape(x.shape[0], -1)[:, :3]


def test_where_nobody_knows_whose_a_place_is_samples_are_looked_at_one_by_one() -> None:
    task = task_of("classes", Mixing())
    network = gated(task)
    assert not network.program.has_samples_apart
    exact, slopes = (find_criterion(one).score(network, task.calibration) for one in ("gauss-newton", "taylor-1"))
    mean = over_all_signs(network, task)[0].mean(0) / 2
    expected = torch.from_numpy(exact.values["first"] - slopes.values["first"])
    assert torch.allclose(network.by_group(mean)["first"], expected, rtol=1e-9, atol=1e-13)
