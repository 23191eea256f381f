"""Losses whose value for one sample depends on the others: each score is the rise of the mean over batches."""

import pytest
import torch
from references import derivatives as slow
from torch import nn
from torch.nn import functional

import shrinknet as sn
from shrinknet.analysis.cancellation import cancellation
from shrinknet.analysis.error_surface import error_surface
from shrinknet.analysis.pruning_limit import neuron_limit
from shrinknet.criteria import find_criterion
from shrinknet.criteria.skeletonization import Skeletonization
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import least_bytes
from shrinknet.task.data import Batch
from shrinknet.task.losses import find_loss
from shrinknet.task.scoring import SHARE_OF_ONE_PASS

torch.manual_seed(3)
INPUTS, CLASSES = torch.randn(14, 5, dtype=torch.float64), torch.arange(14) % 3


def dice(outputs, targets):
    """One number for the batch, given to each of its samples."""
    share, wanted = outputs.softmax(1), functional.one_hot(targets, outputs.shape[1])
    return (1 - 2 * (share * wanted).sum() / (share.sum() + wanted.sum())).expand(len(targets))


def contrastive(outputs, targets):
    """What one sample costs is how near the samples of other classes are."""
    distances = (outputs[:, None] - outputs).square().sum(-1)
    return ((targets[:, None] != targets) * (-distances).exp()).mean(1)


def class_weighted(outputs, targets):
    """Each class counts the same, however many of its samples a batch has."""
    counts = torch.bincount(targets, minlength=outputs.shape[1])
    return functional.cross_entropy(outputs, targets, reduction="none") * len(targets) / counts[targets]


def correlation(outputs, targets):
    """One less the correlation of two columns over the batch, which is not defined for one sample."""
    return (1 - torch.corrcoef(outputs.T)[0, 1]).expand(len(targets))


def mean_for_all(outputs, targets):
    return functional.cross_entropy(outputs, targets).expand(len(targets))


def two_by_two(outputs, targets):
    """Neighbours in pairs, as siamese networks are trained; only batches of even length will do."""
    first, second = outputs.unflatten(0, (-1, 2)).unbind(1)
    return (first - second).square().sum(1).repeat_interleave(2)


COUPLED = (dice, contrastive, class_weighted, correlation, mean_for_all, two_by_two)
SCORES = {"ablation": 1.0, "taylor-1": 0.0, "taylor-2": 0.5, "gauss-newton": 0.5}


def dense(activation=nn.Tanh) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 4), activation(), nn.Linear(4, 3)).double()


def mean_over_batches(network: nn.Module, loss, size: int) -> float:
    with torch.no_grad():
        parts = zip(INPUTS.split(size), CLASSES.split(size), strict=True)
        return sum(float(loss(network(x), y).mean()) * len(x) for x, y in parts) / len(INPUTS)


@pytest.mark.parametrize("size", [14, 4])
@pytest.mark.parametrize("loss", COUPLED)
def test_ablation_is_the_rise_of_the_mean_over_batches(loss, size: int) -> None:
    torch.manual_seed(0)
    model = dense()
    task = sn.Task(model, loss, (INPUTS, CLASSES), batch_size=size)
    assert task.loss.couples_samples
    scores = dict(sn.rank(task))
    start = mean_over_batches(model, loss, size)
    for neuron, score in scores.items():
        without = dense()
        without.load_state_dict(model.state_dict())
        reader = without[int(neuron.group) + 2]
        reader.weight.data[:, neuron.index] = 0
        assert start + score == pytest.approx(mean_over_batches(without, loss, size), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("loss", COUPLED)
def test_taylor_scores_are_derivatives_of_the_loss_of_the_whole_batch(loss, activation) -> None:
    torch.manual_seed(1)
    task = sn.Task(dense(activation), loss, (INPUTS, CLASSES))
    network = gated(task)
    (batch,) = task.calibration.batches()
    found = {name: find_criterion(name).score(network, [batch]) for name in ("taylor-1", "taylor-2", "gauss-newton")}
    for neuron in (neuron for group in network.groups for neuron in group.neurons):
        slope, curvature = slow.slope_and_curvature(network, batch, neuron)
        assert found["taylor-1"][neuron] == pytest.approx(-slope, rel=1e-9, abs=1e-12)
        assert found["taylor-2"][neuron] == pytest.approx(-slope + curvature / 2, rel=1e-8, abs=1e-12)
        if activation is nn.ReLU:
            assert found["gauss-newton"][neuron] == pytest.approx(-slope + curvature / 2, rel=1e-8, abs=1e-12)


def test_convolutions_and_networks_without_lanes_are_scored_so_too() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 1)).double()
    inputs, targets = torch.randn(6, 1, 5, 5, dtype=torch.float64), torch.randint(0, 3, (6, 5, 5))

    def loss(outputs, targets):
        share, wanted = outputs.softmax(1), functional.one_hot(targets, 3).movedim(-1, 1)
        return (1 - 2 * (share * wanted).sum() / (share.sum() + wanted.sum())).expand(len(targets))

    scores = dict(sn.rank(sn.Task(body, loss, (inputs, targets))))
    with torch.no_grad():
        read = body[1](body[0](inputs))
        start = float(loss(body[2](read), targets)[0])
        for index in range(5):
            less = read.clone()
            less[:, index] = 0
            rise = float(loss(body[2](less), targets)[0]) - start
            assert scores[sn.Neuron("0", index)] == pytest.approx(rise, rel=1e-10, abs=1e-14)


def test_memory_never_cuts_a_batch_that_the_loss_looks_at_as_a_whole() -> None:
    model = dense()
    whole = sn.rank(sn.Task(model, dice, (INPUTS, CLASSES)))
    per_sample = least_bytes(gated(sn.Task(model, dice, (INPUTS, CLASSES))))
    room = sn.Scoring(memory=per_sample * SHARE_OF_ONE_PASS * 8)
    with pytest.raises(
        sn.BadInputError, match=r"^batch_size must be at most \d+, as memory holds no more and the loss"
    ):
        sn.rank(sn.Task(model, dice, (INPUTS, CLASSES)), scoring=room)
    assert sn.rank(sn.Task(model, "cross-entropy", (INPUTS, CLASSES)), scoring=room)
    assert sn.rank(sn.Task(model, dice, (INPUTS, CLASSES)), scoring=sn.Scoring(memory="1GiB")) == whole


REFUSED = {
    "empirical-fisher": lambda task: sn.rank(task, "empirical-fisher"),
    "taylor-2-diagonal": lambda task: sn.rank(task, "taylor-2-diagonal"),
    "optimal-cell-damage": lambda task: sn.prune(task, "optimal-cell-damage"),
    "confidence": lambda task: sn.race(task),
    "screen": lambda task: sn.prune(task, scoring=sn.Scoring(screen=3)),
    "newton": lambda task: sn.prune(task, compensate="newton"),
    "cancellation": lambda task: cancellation(task),
    "surface": lambda task: error_surface(task, sn.Neuron("0", 0)),
    "limit": lambda task: neuron_limit(task, max_loss_rise=0.1),
    "slopes": lambda task: gated(task).gate_slopes(Batch(INPUTS, CLASSES)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_the_loss_of_each_sample_alone_is_refused_in_one_sentence(what: str) -> None:
    task = sn.Task(dense(), dice, (INPUTS, CLASSES))
    with pytest.raises(sn.BadInputError) as told:
        REFUSED[what](task)
    assert "must be used with a loss whose value for one sample does not depend on the others. Got 'dice'" in str(
        told.value
    )
    assert str(told.value).count("Got ") == 1


def test_what_does_not_look_at_the_loss_of_each_sample_works(tmp_path) -> None:
    task = sn.Task(dense(), dice, (INPUTS, CLASSES), (INPUTS, CLASSES), batch_size=7)
    for criterion in ("magnitude", "activation", "unit-obs", Skeletonization(smoothing=0.8)):
        assert len(sn.rank(task, criterion)) == 10
    run = sn.prune(task, goals=[sn.RemovedNeurons(3)], compensate="mean", out=tmp_path / "run")
    rows = torch.utils.data.TensorDataset(INPUTS, CLASSES)
    loaded = sn.prune(sn.Task(dense(), dice, torch.utils.data.DataLoader(rows, 7)), goals=[sn.RemovedNeurons(1)])
    assert "at most 7 rows." in loaded.summary()
    assert run.config.couples_samples is True
    assert (
        "The loss 'dice' looks at batches as a whole: losses are means over batches of at most 7 rows." in run.summary()
    )
    assert "couples_samples" in (tmp_path / "run" / "report" / "index.html").read_text()
    other = sn.prune(sn.Task(dense(), "cross-entropy", (INPUTS, CLASSES)), goals=[sn.RemovedNeurons(1)])
    assert not other.config.couples_samples


def fixed_size(outputs, targets):
    """A loss that holds something of each sample of one batch, and takes no other."""
    return functional.cross_entropy(outputs, targets, reduction="none") * torch.linspace(1, 2, 14, dtype=outputs.dtype)


def hinge_between_classes(outputs, targets):
    """0 as long as classes are far apart, as they are in a trained network."""
    near = (1 - (outputs[:, None] - outputs).abs().sum(-1)).clamp_min(0)
    return ((targets[:, None] != targets) * near).sum(1)


APART = {
    "nll": lambda o, t: functional.nll_loss(o.log_softmax(1), t, reduction="none"),
    "summed over outputs": lambda o, t: (o - functional.one_hot(t, 3)).abs().sum(1),
    "of one precision": lambda o, t, w: functional.cross_entropy(o, t, w, reduction="none"),
    "of float32 inside": lambda o, t: functional.cross_entropy(o.float(), t, reduction="none"),
    "that squeezes": lambda o, t: (o[:, :1].squeeze() - t).square(),
    "ignoring some rows": lambda o, t: functional.cross_entropy(o, t.where(t > 0, -100), reduction="none"),
}


def test_couplings_that_hide_are_found() -> None:
    assert sn.Task(dense(), fixed_size, (INPUTS, CLASSES)).loss.couples_samples
    apart = nn.Sequential(nn.Linear(3, 3)).double()
    nn.init.eye_(apart[0].weight)
    nn.init.zeros_(apart[0].bias)
    far = 10 * functional.one_hot(CLASSES, 3).double()
    task = sn.Task(apart, hinge_between_classes, (far, CLASSES))
    assert not task.loss.of(apart(far), CLASSES).any()
    assert task.loss.couples_samples
    sorted_rows = CLASSES.repeat(100).sort().values
    many = 10 * functional.one_hot(sorted_rows, 3).double()
    assert sn.Task(apart, hinge_between_classes, (many, sorted_rows), batch_size=100).loss.couples_samples
    one = sn.Task(dense(), dice, (INPUTS[:1], CLASSES[:1]))
    assert one.loss.couples_samples, "one row: candidates would still be folded into its batch"


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_loss_of_each_sample_alone_is_not_taken_for_another(name: str, precision) -> None:
    loss = APART[name]
    if name == "of one precision":
        weight = torch.tensor([1, 2, 3], dtype=precision)
        loss = lambda o, t: APART[name](o, t, weight)  # noqa: E731
    for rows in (14, 3, 2):
        given = INPUTS[:rows].to(precision)
        assert not sn.Task(dense().to(precision), loss, (given, CLASSES[:rows])).loss.couples_samples, rows


@pytest.mark.parametrize("name", ["cross-entropy", "squared-error"])
def test_losses_by_name_never_couple(name: str) -> None:
    assert not sn.Task(dense(), name, (INPUTS, CLASSES)).loss.couples_samples
    assert find_loss(name).facts == {"loss": name}


class Noisy:
    def __call__(self, outputs, targets):
        return functional.cross_entropy(outputs, targets, reduction="none") + torch.rand(len(targets))


class Counting:
    calls = 0

    def __call__(self, outputs, targets):
        self.calls += 1
        return functional.cross_entropy(outputs, targets, reduction="none") / self.calls


def in_place(outputs, targets):
    return functional.cross_entropy(outputs.sub_(1), targets, reduction="none")


@pytest.mark.parametrize(("loss", "got"), [
    (Noisy(), "Got 'Noisy', which said two things."), (Counting(), "Got 'Counting', which said two things."),
    (in_place, "Got 'in_place', which changes them in place."),
])  # fmt: skip
def test_a_loss_that_draws_remembers_or_changes_what_it_is_given_is_refused(loss, got: str) -> None:
    with pytest.raises(sn.BadInputError) as told:
        sn.Task(dense(), loss, (INPUTS, CLASSES))
    assert got in str(told.value)


class Along(nn.Module):
    def __init__(self, what) -> None:
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x)


MIXES_ROWS = [
    lambda x: x * x.softmax(0), lambda x: x - x.mean(0, keepdim=True), lambda x: x.cumsum(0),
    lambda x: functional.batch_norm(x, None, None, training=True), lambda x: (x @ x.T).softmax(1) @ x,
]  # fmt: skip


@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("what", MIXES_ROWS)
def test_a_network_in_which_samples_depend_on_each_other_is_refused(what, precision) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), Along(what), nn.Linear(6, 3)).to(precision)
    with pytest.raises(sn.BadInputError, match=r"^model must be a network that answers each row by itself"):
        sn.Task(model, "cross-entropy", (INPUTS, CLASSES))


def test_roundings_that_grow_are_not_taken_for_rows_that_mix() -> None:
    def unlike_by_rounding(x):  # other kernels for other numbers of rows, and layers behind that make much of it
        return x * (1 + 1e-3 * len(x) * torch.finfo(x.dtype).eps / torch.finfo(torch.float32).eps)

    model = nn.Sequential(nn.Linear(5, 6), Along(unlike_by_rounding), nn.Linear(6, 3))
    assert sn.Task(model, "cross-entropy", (INPUTS, CLASSES)).loss.name == "cross-entropy"
    assert all(one.dtype == torch.float32 for one in model.parameters())
