"""Losses of torch with any reduction, one value a sample: beside torch's own means and sums over the batch."""

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import shrinknet as sn
from shrinknet.task.coupling import couples_samples
from shrinknet.task.losses import find_loss

N, C, T = 6, 4, 5
torch.manual_seed(5)
LOGITS, VALUES, OTHERS = torch.randn(N, C), torch.randn(N, C), torch.randn(N, C)
AT_PLACES = torch.randn(N, C, T)
CLASSES, PLACES = torch.arange(N) % C, torch.arange(N * T).view(N, T) % C
SHARES, ZERO_ONE, SIGNS = torch.rand(N, C).softmax(1), torch.rand(N, C).round(), torch.arange(N) % 2 * 2 - 1
WEIGHT = torch.rand(C) + 0.5
LENGTHS = torch.tensor([2, 1, 3, 2, 2, 3])
WORDS = torch.randint(1, C, (N, 3))

PAIRS = {
    "classes": (lambda **o: nn.CrossEntropyLoss(**o), LOGITS, CLASSES),
    "smoothed classes": (lambda **o: nn.CrossEntropyLoss(label_smoothing=0.1, **o), LOGITS, CLASSES),
    "classes at places": (lambda **o: nn.CrossEntropyLoss(**o), AT_PLACES, PLACES),
    "probabilities": (lambda **o: nn.CrossEntropyLoss(**o), LOGITS, SHARES),
    "a function of classes": (lambda **o: partial(functional.cross_entropy, **o), LOGITS, CLASSES),
    "a smoothed function": (lambda **o: partial(functional.cross_entropy, label_smoothing=0.2, **o), LOGITS, CLASSES),
    "logarithms": (lambda **o: nn.NLLLoss(**o), LOGITS.log_softmax(1), CLASSES),
    "margins": (lambda **o: nn.MultiMarginLoss(**o), LOGITS, CLASSES),
    "logits": (lambda **o: nn.BCEWithLogitsLoss(**o), LOGITS, ZERO_ONE),
    "logits, some weigh more": (lambda **o: nn.BCEWithLogitsLoss(pos_weight=WEIGHT, **o), LOGITS, ZERO_ONE),
    "squares": (lambda **o: nn.MSELoss(**o), VALUES, OTHERS),
    "sizes": (lambda **o: nn.L1Loss(**o), VALUES, OTHERS),
    "Huber": (lambda **o: nn.HuberLoss(**o), VALUES, OTHERS),
    "Huber, narrow": (lambda **o: nn.HuberLoss(delta=0.3, **o), VALUES, OTHERS),
    "smooth sizes": (lambda **o: partial(functional.smooth_l1_loss, **o), VALUES, OTHERS),
    "counts": (lambda **o: nn.PoissonNLLLoss(**o), VALUES, OTHERS.abs().round()),
    "divergence": (lambda **o: nn.KLDivLoss(**o), LOGITS.log_softmax(1), SHARES),
    "mean and variance": (lambda **o: nn.GaussianNLLLoss(**o), (VALUES, OTHERS.abs() + 0.1), LOGITS),
    "two vectors": (lambda **o: nn.CosineEmbeddingLoss(margin=0.2, **o), (VALUES, OTHERS), SIGNS),
    "two numbers": (lambda **o: nn.MarginRankingLoss(**o), (VALUES[:, 0], OTHERS[:, 0]), SIGNS.float()),
    "a triplet": (lambda **o: nn.TripletMarginLoss(**o), {"a": VALUES, "b": OTHERS, "c": LOGITS}, None),
    "a triplet by its function": (lambda **o: partial(functional.triplet_margin_loss, **o), (VALUES, OTHERS, LOGITS), None),
}  # fmt: skip


def of_torch_itself(loss, outputs, targets) -> Tensor:
    """As a training loop calls it."""
    outputs = tuple(outputs.values()) if isinstance(outputs, dict) else outputs
    if isinstance(loss, nn.GaussianNLLLoss):
        return loss(outputs[0], targets, outputs[1])
    return loss(*(outputs if isinstance(outputs, tuple) else (outputs,)), *(() if targets is None else (targets,)))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_mean_over_samples_is_torchs_own_and_a_sum_is_each_samples_part(name: str, reduction: str) -> None:
    make, outputs, targets = PAIRS[name]
    given = make(reduction=reduction)
    before = copy.deepcopy(vars(given)) if isinstance(given, nn.Module) else None
    loss = find_loss(given)
    losses = loss.each(outputs, targets)
    whole = of_torch_itself(make(reduction=reduction), outputs, targets)
    assert float(losses.mean() if reduction == "mean" else losses.sum()) == pytest.approx(float(whole), rel=1e-5)
    assert not couples_samples(loss, outputs, targets)
    assert before is None or given.reduction == reduction
    again = pickle.loads(pickle.dumps(loss))
    assert torch.equal(again.each(outputs, targets), losses)


@pytest.mark.parametrize("name", PAIRS)
def test_without_a_reduction_a_sample_is_the_mean_of_its_elements(name: str) -> None:
    make, outputs, targets = PAIRS[name]
    elements = of_torch_itself(make(reduction="none"), outputs, targets)
    found = find_loss(make(reduction="none")).each(outputs, targets)
    torch.testing.assert_close(found, elements.reshape(N, -1).mean(1), rtol=1e-5, atol=1e-6)


def test_a_mean_over_the_batch_alone_is_a_sum_over_each_sample() -> None:
    loss = nn.KLDivLoss(reduction="batchmean")
    found = find_loss(loss).each(LOGITS.log_softmax(1), SHARES)
    assert float(found.mean()) == pytest.approx(float(loss(LOGITS.log_softmax(1), SHARES)), rel=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ctc_takes_samples_first_and_divides_by_the_targets_length(reduction: str) -> None:
    outputs, steps = torch.randn(N, 7, C).log_softmax(2), torch.full((N,), 7)
    loss = nn.CTCLoss(reduction=reduction)
    found = find_loss(loss).each(outputs, (WORDS, steps, LENGTHS))
    whole = loss(outputs.transpose(0, 1), WORDS, steps, LENGTHS)
    assert float(found.mean() if reduction == "mean" else found.sum()) == pytest.approx(float(whole), rel=1e-5)
    by_row = [
        nn.CTCLoss(reduction=reduction)(outputs[n][:, None], WORDS[n : n + 1], steps[n : n + 1], LENGTHS[n : n + 1])
        for n in range(N)
    ]
    torch.testing.assert_close(found, torch.stack(by_row))


def test_what_is_ignored_counts_for_nothing_and_each_sample_for_the_same() -> None:
    """The slow twin: torch's own, asked of one sample after the other."""
    targets = PLACES.where(torch.rand(N, T) > 0.4, -100)
    targets[2] = -100
    odd = targets.where(targets >= 0, 255)
    for loss, wanted in (
        ("cross-entropy", targets),
        (nn.CrossEntropyLoss(), targets),
        (nn.CrossEntropyLoss(ignore_index=255), odd),
        (partial(functional.cross_entropy, ignore_index=255), odd),
        (nn.NLLLoss(ignore_index=255), odd),
    ):
        outputs = AT_PLACES.log_softmax(1) if isinstance(loss, nn.NLLLoss) else AT_PLACES
        task = sn.Task(nn.Conv1d(C, C, 1), loss, (outputs, wanted))
        expected = torch.stack(
            [
                functional.cross_entropy(one[None], its[None]).nan_to_num(0)
                for one, its in zip(outputs, targets, strict=True)
            ]
        )
        found = task.loss.each(outputs, wanted)
        torch.testing.assert_close(found, expected)
        assert found[2] == 0
        assert not task.loss.couples_samples
        many = torch.stack([outputs, outputs.roll(1, 0)])
        torch.testing.assert_close(task.loss.of_candidates(many, wanted)[0], expected)


def test_class_weights_multiply_and_stay_in_proportion_to_torchs_own_mean() -> None:
    loss = nn.CrossEntropyLoss(WEIGHT)
    found = find_loss(loss).each(LOGITS, CLASSES)
    torch.testing.assert_close(found, functional.cross_entropy(LOGITS, CLASSES, WEIGHT, reduction="none"))
    assert float(found.mean() / WEIGHT[CLASSES].mean()) == pytest.approx(float(loss(LOGITS, CLASSES)), rel=1e-6)
    exact = find_loss(loss).each(LOGITS.double(), CLASSES)
    assert exact.dtype == torch.float64
    assert loss.weight is WEIGHT


BUILT_IN = {
    "cross-entropy": (nn.CrossEntropyLoss(), functional.cross_entropy, nn.CrossEntropyLoss),
    "binary-cross-entropy": (nn.BCEWithLogitsLoss(), functional.binary_cross_entropy_with_logits),
    "absolute-error": (nn.L1Loss(), functional.l1_loss, nn.L1Loss(reduction="none")),
    "huber": (nn.HuberLoss(), functional.huber_loss, nn.SmoothL1Loss(), partial(functional.huber_loss, delta=1.0)),
    "mean-squared-error": (nn.MSELoss(), functional.mse_loss, partial(functional.mse_loss, reduction="mean")),
    "MSELoss(reduction='sum')": (nn.MSELoss(reduction="sum"),),
    "CrossEntropyLoss(label_smoothing=0.1)": (nn.CrossEntropyLoss(label_smoothing=0.1),),
    "cross_entropy(ignore_index=0)": (partial(functional.cross_entropy, ignore_index=0),),
    "CrossEntropyLoss(weight=tensor [4])": (nn.CrossEntropyLoss(WEIGHT),),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_losses_without_options_are_the_built_in_ones_others_say_their_options(name: str) -> None:
    assert [find_loss(loss).name for loss in BUILT_IN[name]] == [name] * len(BUILT_IN[name])


def test_a_users_own_module_stays_what_it_is() -> None:
    class Focal(nn.CrossEntropyLoss):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            each = functional.cross_entropy(outputs, targets, reduction="none")
            return each * (1 - (-each).exp()).square()

    own = Focal()
    assert find_loss(own).of is own


def dense(num_outputs: int = C) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(C, 7), nn.Tanh(), nn.Linear(7, num_outputs)).double()


class Spread(nn.Module):
    """Mean and variance."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.spread = nn.Linear(C, 7), nn.Linear(7, C), nn.Linear(7, C)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.body(x))
        return self.mean(hidden), functional.softplus(self.spread(hidden)) + 0.1


SCORED = {
    "gaussian": (Spread, nn.GaussianNLLLoss(), OTHERS),
    "huber": (dense, "huber", OTHERS),
    "absolute": (dense, nn.L1Loss(), OTHERS),
    "weighted": (dense, nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), CLASSES),
    "some ignored": (dense, "cross-entropy", CLASSES.where(torch.arange(N) > 1, -100)),
}


@pytest.mark.parametrize("name", SCORED)
def test_ablation_and_second_order_are_those_of_the_loss_by_hand(name: str) -> None:
    make, loss, targets = SCORED[name]
    torch.manual_seed(0)
    model = make().double()
    targets = targets.double() if targets.is_floating_point() else targets
    task = sn.Task(model, loss, (VALUES.double(), targets), batch_size=4)
    group = "body" if isinstance(model, Spread) else "0"
    readers = [model.mean, model.spread] if isinstance(model, Spread) else [model[2]]

    def mean(factor: Tensor, index: int) -> Tensor:
        columns = {
            reader: reader.weight * torch.eye(7, dtype=torch.float64)[index].mul(factor - 1).add(1)
            for reader in readers
        }
        hidden = torch.tanh((model.body if isinstance(model, Spread) else model[0])(VALUES.double()))
        outputs = [functional.linear(hidden, weight, reader.bias) for reader, weight in columns.items()]
        given = (outputs[0], functional.softplus(outputs[1]) + 0.1) if len(outputs) == 2 else outputs[0]
        return task.loss.each(given, targets).sum() / N

    one = torch.ones((), dtype=torch.float64)
    ablated, parabola = dict(sn.rank(task)), dict(sn.rank(task, "taylor-2"))
    for index in range(7):
        neuron = sn.Neuron(group, index)
        assert ablated[neuron] == pytest.approx(float(mean(one * 0, index) - mean(one, index)), abs=1e-12)
        slope = torch.autograd.functional.jacobian(lambda g, k=index: mean(g, k), one)
        curvature = torch.autograd.functional.hessian(lambda g, k=index: mean(g, k), one)
        assert parabola[neuron] == pytest.approx(float(-slope + curvature / 2), abs=1e-12)


class Towers(nn.Module):
    """One dense network for each of its inputs, logarithms of shares where asked."""

    def __init__(self, *, are_shares: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.are_shares = nn.Linear(C, 7), nn.Linear(7, C), are_shares

    def one(self, x: Tensor) -> Tensor:
        outputs = self.head(torch.tanh(self.body(x)))
        return outputs.log_softmax(-1) if self.are_shares else outputs

    def forward(self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Any:
        found = [self.one(x) for x in (first, second, third) if x is not None]
        return tuple(found) if len(found) > 1 else found[0]


STEPS = torch.randn(N, 7, C)
COUNTS = OTHERS.abs().round().long()
TOWERS = {
    "CTC": (nn.CTCLoss(), (STEPS,), (WORDS, torch.full((N,), 7), LENGTHS), lambda o, *t: functional.ctc_loss(o.transpose(0, 1), *t)),
    "CTC, summed": (nn.CTCLoss(reduction="sum"), (STEPS,), (WORDS, torch.full((N,), 7), LENGTHS), lambda o, *t: functional.ctc_loss(o.transpose(0, 1), *t, reduction="sum")),
    "divergence": (nn.KLDivLoss(reduction="batchmean"), (VALUES,), (SHARES,), lambda o, t: functional.kl_div(o, t, reduction="batchmean")),
    "whole counts": (nn.PoissonNLLLoss(full=True), (VALUES,), (COUNTS,), lambda o, t: functional.poisson_nll_loss(o, t.to(o.dtype), full=True)),
    "cosine": (nn.CosineEmbeddingLoss(margin=0.1), (VALUES, OTHERS), (SIGNS,), lambda a, b, t: functional.cosine_embedding_loss(a, b, t, margin=0.1)),
    "triplet": (nn.TripletMarginLoss(swap=True), (VALUES, OTHERS, LOGITS), (), lambda *o: functional.triplet_margin_loss(*o, swap=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", TOWERS)
def test_ablation_is_torchs_own_loss_of_each_sample_of_the_network_rebuilt(name: str) -> None:
    """The slow twin: a network without the neuron, and torch asked of one sample after the other."""
    loss, inputs, targets, of_one = TOWERS[name]
    inputs, targets = ([one.double() if one.is_floating_point() else one for one in some] for some in (inputs, targets))
    torch.manual_seed(0)
    model = Towers(are_shares=name[:3] in ("CTC", "div")).double()

    def mean(network: Towers) -> float:
        rows = [[one[n : n + 1] for one in (*inputs, *targets)] for n in range(N)]
        given = [([network.one(x) for x in row[: len(inputs)]], row[len(inputs) :]) for row in rows]
        return float(torch.stack([of_one(*outputs, *wanted) for outputs, wanted in given]).mean())

    rows = dict(zip(("first", "second", "third"), inputs, strict=False))
    rows |= {"targets": tuple(targets) if len(targets) > 1 else targets[0]} if targets else {}
    task = sn.Task(model, loss, rows, batch_size=4)
    before, found = mean(model), dict(sn.rank(task))
    assert len(found) == 7
    for neuron, score in found.items():
        keep = [unit for unit in range(7) if unit != neuron.index]
        smaller = copy.deepcopy(model)
        smaller.body.weight, smaller.body.bias = (nn.Parameter(one[keep]) for one in model.body.parameters())
        smaller.head.weight = nn.Parameter(model.head.weight[:, keep])
        assert score == pytest.approx(mean(smaller) - before, abs=1e-10)


class TwoVectors(nn.Module):
    """Two vectors of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(C, 7), nn.Linear(7, C), nn.Linear(7, C)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.body(x))
        return self.one(hidden), self.two(hidden)


class Sure(nn.Sequential):
    """Probabilities, of which some are 1 to the last bit."""

    def __init__(self) -> None:
        super().__init__(*dense(), nn.Sigmoid())
        with torch.no_grad():
            self[2].bias += torch.tensor([0.0, 0, 0, 60])


TOLD_BY_TARGETS = {
    "like or unlike": (TwoVectors, nn.CosineEmbeddingLoss(margin=0.4), SIGNS.double()),
    "near or far": (dense, nn.HingeEmbeddingLoss(), (2 * ZERO_ONE - 1).double()),
    "0 or 1": (Sure, nn.BCELoss(), torch.tensor([1.0, 0, 0, 1]).expand(N, C).double()),
}


@pytest.mark.parametrize("name", TOLD_BY_TARGETS)
def test_slopes_are_found_where_targets_say_which_case_it_is(name: str) -> None:
    """Whether they stand out of rounding is asked without moving such targets, nor probabilities beyond 1."""
    make, loss, targets = TOLD_BY_TARGETS[name]
    torch.manual_seed(0)
    model = make().double()
    task = sn.Task(model, loss, (VALUES.double(), targets))
    body = model.body if isinstance(model, TwoVectors) else model[0]
    gates = torch.ones(7, dtype=torch.float64, requires_grad=True)
    hook = (model[1] if isinstance(model, nn.Sequential) else body).register_forward_hook(
        lambda _, __, out: out * gates if isinstance(model, nn.Sequential) else torch.atanh(torch.tanh(out) * gates)
    )
    task.loss.each(model(VALUES.double()), targets).mean().backward()
    hook.remove()
    for neuron, score in sn.rank(task, "taylor-1"):
        assert score == pytest.approx(-float(gates.grad[neuron.index]), rel=1e-9)


def test_workers_and_accuracy_know_a_loss_of_torch() -> None:
    task = sn.Task(dense(), nn.CrossEntropyLoss(WEIGHT), (VALUES, CLASSES))
    assert task.loss.accuracy is not None
    assert task.loss.accuracy.name == "argmax"
    many = sn.Scoring(executor="processes", workers=1)
    assert sn.rank(task, "magnitude", scoring=many) == sn.rank(task, "magnitude")


def test_rows_whose_class_is_ignored_count_for_no_accuracy() -> None:
    targets = CLASSES.where(torch.arange(N) > 1, -100)
    rows = VALUES.double(), targets
    task = sn.Task(dense(), "cross-entropy", rows, validation=rows)
    run = sn.prune(task, goals=[sn.RemovedNeurons(1)])
    right = (dense()(rows[0]).argmax(1) == targets)[2:].double().mean()
    assert run.history[0].measures.metrics["accuracy"] == pytest.approx(float(right))


def test_next_token_is_the_mean_over_the_tokens_that_follow() -> None:
    outputs, ids = torch.randn(N, T, C), torch.randint(C, (N, T)).where(torch.rand(N, T) > 0.3, -100)
    ids[:, 1] = 2
    loss = find_loss("next-token")
    expected = torch.stack([functional.cross_entropy(one[:-1], its[1:]) for one, its in zip(outputs, ids, strict=True)])
    torch.testing.assert_close(loss.each(outputs, ids), expected)
    torch.testing.assert_close(loss.of_candidates(torch.stack([outputs, outputs * 2]), ids)[0], expected)
    whole = functional.cross_entropy(outputs.transpose(1, 2), ids.where(ids >= 0, -100), reduction="none")
    each = find_loss("each-token").each(outputs, ids)
    torch.testing.assert_close(each, whole.sum(1) / (ids >= 0).sum(1))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.body, self.head = nn.Embedding(9, 6), nn.Linear(6, 8), nn.Linear(8, 9)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(torch.relu(self.body(self.words(input_ids))))}


def test_perplexity_of_next_tokens_is_of_the_tokens_that_follow() -> None:
    torch.manual_seed(0)
    ids, model = torch.randint(9, (N, T)), Tokens()
    task = sn.Task(model, "next-token", (ids, ids), validation=(ids, ids), metrics="perplexity")
    run = sn.prune(task, goals=[sn.RemovedNeurons(2)])
    logits = model(ids)["logits"]
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).exp()
    assert run.history[0].measures.metrics["perplexity"] == pytest.approx(float(expected), rel=1e-5)
    assert "accuracy" not in run.history[0].measures.metrics


IMAGES = torch.randn(N, 3, 5, 7)
BAD = {
    "targets with channels last": (
        nn.Conv2d(3, 3, 1), "squared-error", (IMAGES, IMAGES.permute(0, 2, 3, 1)),
        r"of the outputs' shape \[N, 3, 5, 7\]\. Got float32 of shape \[N, 5, 7, 3\]\. Targets fit as targets\.permute\(0, 3, 1, 2\)\."),
    "the same for torch's own": (
        nn.Conv2d(3, 3, 1), nn.SmoothL1Loss(beta=2.0), (IMAGES, IMAGES.permute(0, 2, 3, 1)),
        r"Targets fit as targets\.permute\(0, 3, 1, 2\)\."),
    "the same for sizes": (
        nn.Conv2d(3, 3, 1), "absolute-error", (IMAGES, IMAGES.permute(0, 2, 3, 1)),
        r"Targets fit as targets\.permute\(0, 3, 1, 2\)\."),
    "classes turned round": (
        nn.Conv2d(3, 4, 1), "cross-entropy", (IMAGES, torch.zeros(N, 7, 5).long()),
        r"classes, one for each sample and position\. .* Targets fit as targets\.permute\(0, 2, 1\)\."),
    "classes along the last axis": (
        nn.Linear(C, 3), "cross-entropy", (torch.randn(N, T, C), torch.zeros(N, T).long()),
        r"Outputs fit as outputs\.movedim\(-1, 1\): say `loss='each-token'`"),
    "classes along the last axis, torch's own": (
        nn.Linear(C, 3), nn.CrossEntropyLoss(label_smoothing=0.1), (torch.randn(N, T, C), torch.zeros(N, T).long()),
        r"Outputs fit as outputs\.movedim\(-1, 1\): say `loss='each-token'`"),
    "numbers that torch would stretch": (
        nn.Linear(C, 1), nn.SmoothL1Loss(beta=2.0), (VALUES, VALUES[:, 0]),
        r"^targets must be of the outputs' shape \[N, 1\] for SmoothL1Loss\(beta=2\.0\)\. Got \[N\]\. Give targets\.view_as\(outputs\)"),
    "no variance": (
        nn.Linear(C, 2), nn.GaussianNLLLoss(), (VALUES, VALUES[:, :2]),
        r"^loss must be given input, target, var for GaussianNLLLoss, first of the outputs, then of the targets\. Got outputs \[6, 2\] and targets \[6, 2\]\."),
    "next tokens of classes": (
        nn.Linear(C, 3), "next-token", (VALUES, CLASSES % 3),
        r"whole numbers, one for each token of outputs \[N, T, classes\], for next-token\. Got int64 of shape \[N\] for \[N, 3\]\."),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_targets_of_the_wrong_kind_are_one_sentence(case: str) -> None:
    model, loss, rows, sentence = BAD[case]
    with pytest.raises(sn.BadInputError, match=sentence):
        sn.Task(model, loss, rows)


LONG, FLAT = nn.Linear(C, 1), nn.Sequential(nn.Linear(C, 1), nn.Flatten(0))
COLUMN, ROW = torch.rand(N, 1).round(), torch.rand(N).round()
OF_NUMBERS = (
    nn.MSELoss,
    nn.L1Loss,
    nn.HuberLoss,
    nn.SmoothL1Loss,
    nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss,
    nn.SoftMarginLoss,
)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", OF_NUMBERS)
def test_whatever_the_reduction_targets_are_of_the_outputs_shape(kind: type[nn.Module], reduction: str) -> None:
    """[N, 1] and [N] are stretched to [N, N] by torch: a silent fault of many trainings."""
    for model, fitting, odd, shapes in (
        (LONG, COLUMN, ROW, (r"\[N, 1\]", r"\[N\]")),
        (FLAT, ROW, COLUMN, (r"\[N\]", r"\[N, 1\]")),
    ):
        assert len(sn.Task(model, kind(reduction=reduction), (VALUES, fitting)).calibration) == N
        sentence = (
            rf"^targets must be of the outputs' shape {shapes[0]} for {kind.__name__}.*\. Got {shapes[1]}\. "
            r"Give targets\.view_as\(outputs\): torch would compare each with all\."
        )
        with pytest.raises(sn.BadInputError, match=sentence):
            sn.Task(model, kind(reduction=reduction), (VALUES, odd))
    assert len(sn.Task(LONG, "mean-squared-error", (VALUES, ROW)).calibration) == N, "ours takes both for the same"


OF_OLD = {
    "cross_entropy(reduction='sum')": (functional.cross_entropy, {"size_average": False}, CLASSES),
    "mse_loss(reduction='sum')": (functional.mse_loss, {"size_average": False, "reduce": True}, OTHERS),
    "mean-squared-error": (functional.mse_loss, {"reduce": False}, OTHERS),
    "cross-entropy": (functional.cross_entropy, {"size_average": True}, CLASSES),
}


@pytest.mark.parametrize("name", OF_OLD)
def test_what_reductions_were_called_before_means_the_same(name: str) -> None:
    function, said, targets = OF_OLD[name]
    loss = find_loss(partial(function, **said))
    assert loss.name == name
    with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
        whole = function(LOGITS, targets, **said)
    found = loss.each(LOGITS, targets)
    torch.testing.assert_close(found.sum() if "sum" in name else found.mean(), whole.mean())


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 5), nn.Linear(5, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x))).log_softmax(-1)


def test_ctc_is_ablated_and_has_slopes_and_second_derivatives_are_refused_in_a_sentence() -> None:
    torch.manual_seed(0)
    model, steps = Steps().double(), torch.randn(N, 7, 3).double()
    task = sn.Task(model, nn.CTCLoss(), (steps, (WORDS, torch.full((N,), 7), LENGTHS)))
    loss = nn.CTCLoss()
    with torch.no_grad():
        found = dict(sn.rank(task))
        before = loss(model(steps).transpose(0, 1), WORDS, torch.full((N,), 7), LENGTHS)
        model.head.weight[:, 2] = 0
        after = loss(model(steps).transpose(0, 1), WORDS, torch.full((N,), 7), LENGTHS)
    assert found[sn.Neuron("body", 2)] == pytest.approx(float(after - before), rel=1e-9)
    assert any(score for _, score in sn.rank(task, "taylor-1"))
    for criterion in ("taylor-2", "gauss-newton"):
        with pytest.raises(
            sn.BadInputError, match=r"must be one whose derivatives torch has, .* Got derivative for aten::_ctc"
        ):
            sn.rank(task, criterion)


def test_whole_numbers_are_numbers_where_a_loss_compares_numbers() -> None:
    rows, labels = torch.randn(12, 4), torch.randint(0, 2, (12, 3))
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    loss = nn.BCEWithLogitsLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
    whole, floating = (sn.rank(sn.Task(model, loss, (rows, one))) for one in (labels, labels.float()))
    assert whole == floating


class Triplet(nn.Module):
    """One network, called on each part: with three arguments, with a tuple, with one part alone."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net, self.form = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), form

    def forward(self, *parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net(part) for part in parts)


class Three(Triplet):
    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
        return super().forward(anchor, positive, negative)


class AsOne(Triplet):
    def forward(self, parts: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
        return super().forward(*parts)


@pytest.mark.parametrize("loss", [nn.TripletMarginLoss(margin=0.4), functional.triplet_margin_loss])
@pytest.mark.parametrize("form", ["plain", "as one", "a mapping"])
def test_a_triplet_is_a_plain_tuple_and_needs_no_targets(form: str, loss) -> None:
    """As people write it: `TripletMarginLoss()(a, p, n)`."""
    parts = a, p, n = torch.randn(3, 20, 5)
    model = AsOne(form) if form == "as one" else Three(form)
    named = dict(zip(("anchor", "positive", "negative"), parts, strict=True))
    rows = {"plain": tuple(parts), "as one": (tuple(parts),), "a mapping": named}[form]
    task = sn.Task(model, loss, rows)
    (batch,) = task.calibration.batches()
    assert batch.targets is None
    ranked = sn.rank(task)
    assert len(ranked) == 7
    for neuron, score in ranked:
        cut = copy.deepcopy(model.net)
        with torch.no_grad():
            cut[2].weight[:, neuron.index] = 0
            rise = loss(cut(a), cut(p), cut(n)) - loss(model.net(a), model.net(p), model.net(n))
        assert score == pytest.approx(float(rise), abs=1e-6)


def test_pairs_with_signs_are_a_plain_tuple() -> None:
    """As people write it: `CosineEmbeddingLoss()(x1, x2, y)`."""

    class Pair(Triplet):
        def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, ...]:
            return super().forward(x1, x2)

    x1, x2, signs = torch.randn(20, 5), torch.randn(20, 5), torch.arange(20) % 2 * 2 - 1
    model, loss = Pair("pair"), nn.CosineEmbeddingLoss(margin=0.1)
    for given in (signs, signs.float()):
        task = sn.Task(model, loss, (x1, x2, given))
        found = task.loss.each(model(x1, x2), given)
        assert float(found.mean().detach()) == pytest.approx(float(loss(*model(x1, x2), signs).detach()), rel=1e-6)


def test_a_network_that_a_loop_calls_on_each_part_is_told_how_to_be_one_call() -> None:
    parts = tuple(torch.randn(3, 20, 5))
    with pytest.raises(sn.BadInputError, match=r"^calibration must be a batch with what the network's forward takes \(input\)\. Got 2 parts .*run\.model\.net"):  # fmt: skip
        sn.Task(Triplet("alone").net, nn.TripletMarginLoss(), parts)
