"""The loss that a network computes from labels itself: the built-in one with the same numbers stands in for it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import shrinknet as sn

N, T = 6, 5
torch.manual_seed(4)
X, IDS, CLASSES = torch.randn(N, 4), torch.randint(50, (N, T)), torch.arange(N) % 3
SOME = IDS.where(torch.rand(N, T) > 0.3, -100)
SOME[:, 2] = 3


class Judging(nn.Module):
    """Returns its loss where it is given labels."""

    def __init__(self, loss) -> None:
        super().__init__()
        self.net, self.loss = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), loss

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"logits": logits} if labels is None else {"loss": self.loss(logits, labels), "logits": logits}


LOSSES = {
    "cross-entropy": (functional.cross_entropy, CLASSES),
    "binary-cross-entropy": (functional.binary_cross_entropy_with_logits, torch.rand(N, 3)),
    "mean-squared-error": (functional.mse_loss, torch.randn(N, 3)),
    "huber": (nn.SmoothL1Loss(), torch.randn(N, 3)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_networks_own_loss_is_found_by_what_it_says_of_rows(name: str) -> None:
    loss, targets = LOSSES[name]
    model = Judging(loss)
    task = sn.Task(model, "own-loss", {"x": X, "labels": targets})
    assert task.loss.name == name
    assert task.facts["loss"] == name
    found = task.loss.each(model(X), targets)
    assert float(found.mean()) == pytest.approx(float(model(X, targets)["loss"]), rel=1e-6)
    assert sn.rank(task) == sn.rank(sn.Task(model, name, {"x": X, "labels": targets}))


def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, label_smoothing=0.2)


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    sure = outputs.softmax(1).gather(1, targets[:, None])[:, 0]
    return ((1 - sure) ** 2 * functional.cross_entropy(outputs, targets, reduction="none")).mean()


def of_chosen_rows(outputs: Tensor, targets: Tensor) -> Tensor:
    """Which rows is seen in the values alone: no `torch.vmap`."""
    return functional.cross_entropy(outputs[targets >= 0], targets[targets >= 0], label_smoothing=0.2)


WORDS = {"smoothed": smoothed, "focal": focal, "of chosen rows": of_chosen_rows}


@pytest.mark.parametrize("name", WORDS)
def test_a_loss_of_nobody_else_is_taken_at_its_word_row_by_row(name: str) -> None:
    model = Judging(WORDS[name])
    task = sn.Task(model, "own-loss", {"x": X, "labels": CLASSES})
    assert task.facts["loss"] == "own-loss"
    assert not task.loss.couples_samples
    said = torch.stack([model(X[n : n + 1], CLASSES[n : n + 1])["loss"] for n in range(N)])
    torch.testing.assert_close(task.loss.each(model(X), CLASSES), said)

    def by_hand(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return torch.stack([WORDS[name](outputs["logits"][n, None], targets[n, None]) for n in range(len(targets))])

    other = sn.Task(model, by_hand, {"x": X, "labels": CLASSES})
    for criterion in ("ablation", "taylor-1", "taylor-2", "gauss-newton", "taylor-2-sampled"):
        expected = dict(sn.rank(other, criterion))
        assert dict(sn.rank(task, criterion)) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, weight=torch.tensor([1.0, 2.0, 5.0]))


def without_a_class(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, ignore_index=2)


@pytest.mark.parametrize("loss", [weighted, without_a_class], ids=["weighted", "a class ignored"])
def test_a_loss_whose_rows_count_otherwise_together_is_the_batchs_and_couples_them(loss) -> None:
    """Of one row alone a class weight is divided out: it would be lost without a word."""
    model = Judging(loss)
    task = sn.Task(model, "own-loss", {"x": X, "labels": CLASSES})
    assert task.loss.name == "own-loss"
    assert task.loss.couples_samples
    torch.testing.assert_close(task.loss.each(model(X), CLASSES), model(X, CLASSES)["loss"].expand(N))

    def by_hand(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return loss(outputs["logits"], targets).expand(len(targets))

    expected = dict(sn.rank(sn.Task(model, by_hand, {"x": X, "labels": CLASSES})))
    assert dict(sn.rank(task)) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    with pytest.raises(sn.BadInputError, match="'own-loss', which looks at the batch as a whole"):
        sn.rank(task, "empirical-fisher")


def test_a_coupling_as_small_as_that_of_an_untrained_network_is_seen() -> None:
    """All rows cost about log 3, whatever their labels: the batch's mean over labels is near to that over rows."""
    model = Judging(lambda o, t: functional.cross_entropy(o.expand(*o.shape[:2], 4), t, ignore_index=255))
    with torch.no_grad():
        model.net[2].weight.mul_(1e-4), model.net[2].bias.zero_()
    labels = torch.randint(3, (N, 4)).where(torch.arange(4) <= torch.arange(N)[:, None] % 4, 255)
    model.net = nn.Sequential(*model.net, nn.Unflatten(1, (3, 1)))
    assert sn.Task(model, "own-loss", {"x": X, "labels": labels}).loss.couples_samples


class Weighing(Judging):
    """Its loss has weights of its own, two outputs and two labels."""

    def __init__(self) -> None:
        super().__init__(smoothed)
        self.spread, self.value = nn.Parameter(torch.tensor(0.3)), nn.Linear(8, 1)

    def forward(
        self, x: Tensor, labels: Tensor | None = None, next_sentence_label: Tensor | None = None
    ) -> dict[str, Tensor]:
        hidden = self.net[:2](x)
        said = {"classes": self.net[2](hidden), "value": self.value(hidden)[:, 0]}
        if labels is None:
            return said
        errors = (said["value"] - next_sentence_label).square().mean()
        return {"loss": self.loss(said["classes"], labels) + errors * self.spread.exp() - self.spread, **said}


def test_several_outputs_and_labels_and_what_weighs_them_are_part_of_the_word(tmp_path) -> None:
    model, rows = Weighing(), {"x": X, "labels": CLASSES, "next_sentence_label": torch.randn(N)}
    task = sn.Task(model, "own-loss", rows)
    said = torch.stack([model(**{key: one[n : n + 1] for key, one in rows.items()})["loss"] for n in range(N)])
    found = task.loss.each(model(X), {key: rows[key] for key in ("labels", "next_sentence_label")})
    torch.testing.assert_close(found, said)
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(3)], out=tmp_path / "run")
    assert run.verification.holds
    smaller = float(run.model(**rows)["loss"])
    assert run.history[-1].measures.calibration_loss == pytest.approx(smaller, rel=1e-5)
    assert sn.load(tmp_path / "run", model=model, data=[rows]).plan == run.plan
    with pytest.raises(sn.BadInputError, match=r"A run is opened with the model itself, or by `trust=True`\."):
        sn.load(tmp_path / "run", data=[rows])


def test_workers_take_a_network_at_the_same_word() -> None:
    task = sn.Task(Judging(focal), "own-loss", {"x": X, "labels": CLASSES})
    serial = sn.rank(task, "taylor-1")
    assert sn.rank(task, "taylor-1", scoring=sn.Scoring(executor="processes", workers=2)) == serial


class Masking(Judging):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        said = super().forward(x, labels)
        return said if labels is None else {**said, "loss": said["loss"] * x.abs().mean()}


class Decaying(Judging):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        said = super().forward(x, labels)
        return said if labels is None else {**said, "loss": said["loss"] + self.net[0].weight.square().sum()}


FOLLOWS = r"^loss must be 'own-loss' only for a network whose loss follows from what it returns"
BAD = {
    "no labels": (nn.Linear(4, 3), r"^loss must be 'own-loss' only for a network whose forward takes labels and returns a loss\. Got a forward without labels\."),
    "no loss": (Judging(lambda o, t: None), r"Got none\. Name the loss that it was trained by"),
    "a loss that fails": (Judging(lambda o, t: o @ o), r"Got RuntimeError: .*Name the loss"),
    "a loss of inputs": (Masking(smoothed), FOLLOWS + r".*Got one that reads the input \['x'\], too\."),
    "a loss of weights": (Decaying(smoothed), FOLLOWS + r".*Got one that reads the weight 'net.0.weight', too\."),
    "a loss that branches": (Judging(lambda o, t: o.sum() if float(o.sum()) > 0 else -o.sum()), FOLLOWS),
    "a loss that counts": (Judging(lambda o, t: smoothed(o, t) / len(t)), r"says something else, as where len\(labels\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_network_without_such_a_loss_is_one_sentence(case: str) -> None:
    model, sentence = BAD[case]
    with pytest.raises(sn.BadInputError, match=sentence):
        sn.Task(model, "own-loss", (X, CLASSES))


def of_transformers():
    pytest.importorskip("cpu_torchvision", reason="transformers looks for torchvision", exc_type=ImportError)
    return pytest.importorskip("transformers")


def bert(t, kind: str, num_labels: int = 3) -> nn.Module:
    config = t.BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
                          max_position_embeddings=16, num_labels=num_labels)  # fmt: skip
    return getattr(t, f"BertFor{kind}")(config)


def gpt(t) -> nn.Module:
    config = t.GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=16, use_cache=False,
                          bos_token_id=None, eos_token_id=None, tie_word_embeddings=False)  # fmt: skip
    return t.GPT2LMHeadModel(config)


HUGGING_FACE = {
    "classes": (lambda t: bert(t, "SequenceClassification"), CLASSES, "cross-entropy"),
    "several labels": (lambda t: bert(t, "SequenceClassification"), torch.rand(N, 3).round(), "binary-cross-entropy"),
    "a value": (lambda t: bert(t, "SequenceClassification", 1), torch.rand(N), "mean-squared-error"),
    "classes of tokens": (lambda t: bert(t, "TokenClassification"), (SOME % 3).where(SOME >= 0, -100), "each-token"),
    "masked tokens": (lambda t: bert(t, "MaskedLM"), SOME, "each-token"),
    "next tokens": (gpt, SOME, "next-token"),
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_a_model_of_hugging_face_is_taken_at_its_word(name: str) -> None:
    make, labels, expected = HUGGING_FACE[name]
    torch.manual_seed(0)
    model = make(of_transformers()).eval()
    rows = {"input_ids": IDS, "attention_mask": torch.ones(N, T).long(), "labels": labels}
    before = dict(vars(model.config))
    task = sn.Task(model, "own-loss", rows)
    assert vars(model.config) == before
    assert task.loss.name == expected
    with torch.no_grad():
        found = task.loss.each(model(input_ids=IDS, attention_mask=rows["attention_mask"]), labels)
        said = [model(input_ids=IDS[n : n + 1], labels=labels[n : n + 1]).loss for n in range(N)]
    torch.testing.assert_close(found, torch.stack(said), rtol=1e-5, atol=1e-6)


def test_a_network_that_answers_questions_is_taken_at_its_word(tmp_path) -> None:
    """Where an answer starts and where it ends: two outputs, each with its targets; some lie beyond the text."""
    torch.manual_seed(0)
    model = bert(of_transformers(), "QuestionAnswering", 2).eval()
    ends = {"start_positions": torch.arange(N) % T, "end_positions": torch.arange(N) % (T + 1)}
    rows = {"input_ids": IDS, "attention_mask": torch.ones(N, T).long(), **ends}
    task = sn.Task(model, "own-loss", rows)
    assert task.loss.name == "paired-cross-entropy"
    with torch.no_grad():
        found = task.loss.each(model(input_ids=IDS, attention_mask=rows["attention_mask"]), ends)
        said = torch.stack(
            [
                model(input_ids=IDS[n : n + 1], **{name: one[n : n + 1] for name, one in ends.items()}).loss
                for n in range(N)
            ]
        )
    inside = said.isfinite()
    assert 0 < int(inside.sum()) < N
    torch.testing.assert_close(found[inside], said[inside], rtol=1e-5, atol=1e-6)
    run = sn.prune(task, "taylor-2-sampled", goals=[sn.RemovedNeurons(4)], step=2, out=tmp_path / "run")
    assert run.verification.holds
    assert sn.load(tmp_path / "run", data=[rows]).plan == run.plan


def test_a_loss_of_several_heads_of_hugging_face_is_taken_at_its_word(tmp_path) -> None:
    torch.manual_seed(0)
    model = bert(of_transformers(), "PreTraining").eval()
    rows = {"input_ids": IDS, "labels": SOME, "next_sentence_label": torch.arange(N) % 2}
    rows["labels"] = IDS.where(torch.arange(T) % 2 == 0, -100)  # as many in each row: the batch's mean is that of rows
    task = sn.Task(model, "own-loss", rows)
    with torch.no_grad():
        targets = {key: rows[key] for key in ("labels", "next_sentence_label")}
        found = task.loss.each(model(input_ids=IDS), targets)
        said = [model(**{key: one[n : n + 1] for key, one in rows.items()}).loss for n in range(N)]
    torch.testing.assert_close(found, torch.stack(said), rtol=1e-5, atol=1e-6)
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(4)], step=2, out=tmp_path / "run")
    assert run.verification.holds
    uneven = sn.Task(model, "own-loss", {**rows, "labels": SOME})
    assert uneven.loss.couples_samples


def test_a_run_of_a_language_model_is_proven_and_opens_again(tmp_path) -> None:
    torch.manual_seed(0)
    model = gpt(of_transformers()).eval()
    rows = {"input_ids": IDS, "labels": SOME}
    task = sn.Task(model, "own-loss", rows, validation=rows, metrics="perplexity")
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(2)], out=tmp_path / "run")
    assert run.verification.holds
    assert sn.load(tmp_path / "run", data=[rows]).plan == run.plan
