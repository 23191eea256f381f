"""Tasks whose batches, outputs and targets are trees: the same scores as by hand, proven, reopened, refused in a sentence."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import shrinknet as sn
from shrinknet.criteria import criterion_names
from shrinknet.engine.gates import gated
from shrinknet.run.checking import check_files

N = 24
X, Z, IDS = torch.randn(N, 5), torch.randn(N, 5), torch.randint(0, 11, (N, 7))
MASK = (torch.arange(7) < torch.arange(N)[:, None] % 4 + 3).float()
CLASSES, BOXES = torch.arange(N) % 3, torch.randn(N, 2)


class Siamese(nn.Module):
    """Two inputs, a tuple of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return self.two(torch.relu(self.one(left))), self.two(torch.relu(self.one(right)))


class TwoHeads(nn.Module):
    """One input, a mapping of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.boxes = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.body(inputs))
        return OrderedDict(boxes=self.boxes(hidden), logits=self.classes(hidden))


class Masked(nn.Module):
    """Whole numbers beside floats, a switch, an output that is None."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(11, 4), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, scale: bool = True) -> dict[str, Any]:
        hidden = torch.relu(self.hidden(self.words(input_ids))) * attention_mask[..., None]
        mean = hidden.sum(1) / (attention_mask.sum(1, keepdim=True) if scale else 7)
        return {"logits": self.head(mean), "caches": None}


def contrast(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    distance = (outputs[0] - outputs[1]).square().sum(1)
    return torch.where(targets == 0, distance, (1 - distance).clamp_min(0))


def both(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    right = functional.cross_entropy(outputs["logits"], targets["classes"], reduction="none")
    return right + (outputs["boxes"] - targets["boxes"]).square().sum(1)


TASKS: dict[str, tuple[type[nn.Module], Any, Any]] = {
    "two inputs": (Siamese, contrast, (X, Z, CLASSES % 2)),
    "two heads": (TwoHeads, both, {"inputs": X, "classes": CLASSES, "boxes": BOXES}),
    "one of two heads": (TwoHeads, "cross-entropy", (X, CLASSES)),
    "ids and a mask": (Masked, "cross-entropy", {"attention_mask": MASK, "input_ids": IDS, "labels": CLASSES}),
}


def task_of(name: str, **options: Any) -> sn.Task:
    torch.manual_seed(0)
    kind, loss, rows = TASKS[name]
    return sn.Task(kind(), loss, rows, batch_size=10, **options)


def by_hand(task: sn.Task, neuron: sn.Neuron) -> float:
    """The mean loss with that neuron's outgoing weights at zero, in the user's own module."""
    network = gated(task)
    group = next(one for one in network.groups if one.name == neuron.group)
    tensors = dict(task.model.named_parameters())
    saved = {part.parameter: tensors[part.parameter].detach().clone() for part in group.slices}
    with torch.no_grad():
        for part in group.slices:
            if part.role == "reads":
                places = [place for place, owner in enumerate(part.owners) if owner == neuron.index]
                tensors[part.parameter].index_fill_(part.axis, torch.tensor(places), 0)
        total = sum(
            float(task.loss.each(called(task, batch), batch.targets).sum()) for batch in task.calibration.batches()
        )
        for name, value in saved.items():
            tensors[name].copy_(value)
    return total / len(task.calibration)


def called(task: sn.Task, batch: Any) -> Any:
    args, kwargs = ((batch.inputs,), {}) if isinstance(batch.inputs, Tensor) else batch.inputs.call
    return task.model(*args, **kwargs)


@pytest.mark.parametrize("name", TASKS)
def test_ablation_is_the_loss_with_each_neuron_off_by_hand(name: str) -> None:
    task = task_of(name)
    batches = list(task.calibration.batches())
    with torch.no_grad():
        before = sum(float(task.loss.each(called(task, one), one.targets).sum()) for one in batches) / N
    found = dict(sn.rank(task))
    assert found
    for neuron, score in found.items():
        assert score == pytest.approx(by_hand(task, neuron) - before, abs=2e-6)


REFUSED = {("two inputs", "skeletonization")}  # one target for two outputs


@pytest.mark.parametrize("criterion", criterion_names())
@pytest.mark.parametrize("name", TASKS)
def test_every_criterion_scores_or_says_why_not(name: str, criterion: str) -> None:
    task = task_of(name)
    if (name, criterion) in REFUSED:
        with pytest.raises(
            sn.BadInputError, match=r"targets that are classes.*Use `criterion='taylor-1'` or `criterion='ablation'"
        ):
            sn.rank(task, criterion)
        return
    scores = sn.rank(task, criterion)
    assert len(scores) == len(gated(task).present) - 1
    if criterion in ("taylor-2", "gauss-newton"):
        assert any(score for _, score in scores)


class Apart(nn.Module):
    """Two inputs that share a layer, an element-wise product, a sum over places, outputs of which one is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(3, 2)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        first, other = torch.tanh(self.one(left)), torch.sigmoid(self.one(right)).mean(1)
        middle = self.two(torch.cat([first, other], 1)[:, :5] * other)
        return {"middle": middle, "end": self.three(middle.sin())}


def of_apart(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    return sum(((outputs[key] - targets[key]) ** 4).sum(1) for key in ("middle", "end"))  # type: ignore[return-value]


def test_the_papers_recursion_of_a_tree_is_that_written_out_for_each_reader() -> None:
    """Slopes and diagonals of a value that several read add up, and so do those of several outputs."""
    model = Apart().double()
    left, right = torch.randn(N, 4).double(), torch.randn(N, 3, 4).double()
    targets = {"middle": torch.randn(N, 3).double(), "end": torch.randn(N, 2).double()}
    task = sn.Task(model, of_apart, {"left": left, "right": right, **targets})
    with torch.no_grad():
        x1, x2 = model.one(left), model.one(right)
        first, other = x1.tanh(), x2.sigmoid().mean(1)
        middle, w2, w3 = model(left, right)["middle"], model.two.weight, model.three.weight
        off, away = middle - targets["middle"], model(left, right)["end"] - targets["end"]
        sin, cos = middle.sin(), middle.cos()
        g = 4 * off**3 + (4 * away**3 @ w3) * cos
        h = 12 * off**2 + (12 * away**2 @ w3**2) * cos**2 - (4 * away**3 @ w3) * sin
        read, g_read, h_read = first * other, g @ w2, h @ w2**2
        expected = (-read * g_read + read**2 * h_read / 2).mean(0), (read**2 * h_read / 2).mean(0)
    for criterion, scores in zip(("taylor-2-diagonal", "optimal-cell-damage"), expected, strict=True):
        found = dict(sn.rank(task, criterion))
        assert found == pytest.approx({sn.Neuron("one", k): float(score) for k, score in enumerate(scores)}, rel=1e-9)


def test_the_papers_recursion_is_exact_below_two_heads_whose_elements_are_judged_apart() -> None:
    rows = {"inputs": X.double(), "boxes": BOXES.double(), "logits": IDS[:, :3] / 9}
    task = sn.Task(TwoHeads().double(), squares, rows)
    exact, found = dict(sn.rank(task, "taylor-2")), dict(sn.rank(task, "taylor-2-diagonal"))
    assert found == pytest.approx(exact, rel=1e-9)


def squares(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    return sum((outputs[key] - targets[key]).square().sum(1) for key in ("logits", "boxes"))  # type: ignore[return-value]


def test_positions_that_a_loss_reads_together_have_the_diagonal_of_each() -> None:
    """Of outputs [N, T, C] each element is taken by itself: over T added up, blocks beside the diagonal came along."""

    def total(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.sum((1, 2)) - targets).square()

    rows = torch.randn(N, 3, 5).double()
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    found = dict(sn.rank(sn.Task(model, total, (rows, torch.randn(N).double())), "optimal-cell-damage"))
    with torch.no_grad():
        read = model[:2](rows)
        expected = (read**2 * (2 * model[2].weight.square().sum(0)) / 2).sum(1).mean(0)
    for neuron, score in found.items():
        assert score == pytest.approx(float(expected[neuron.index]), rel=1e-9)


def test_relevance_in_a_tree_is_the_slope_of_the_sum_of_all_linear_errors() -> None:
    task = sn.Task(TwoHeads().double(), both, {"inputs": X.double(), "classes": CLASSES, "boxes": BOXES.double()})
    network = gated(task)
    gates = torch.ones(N, len(network.present), dtype=torch.float64, requires_grad=True)
    outputs = network.program.outputs(X.double(), network.gating_by_sample(gates))
    error = (outputs["logits"] - functional.one_hot(CLASSES, 3)).abs().sum() + (outputs["boxes"] - BOXES).abs().sum()
    (slopes,) = torch.autograd.grad(error, gates)
    expected = network.by_group(-slopes.mean(0))
    for neuron, score in sn.rank(task, "skeletonization"):
        assert score == pytest.approx(float(expected[neuron.group][neuron.index]), rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "answers"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1), lambda y: y.softmax(1)),
        (nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.1), lambda y: y.softmax(1)),
        (nn.CrossEntropyLoss(ignore_index=-100), lambda y: y.softmax(1)),
    ],
    ids=["smoothed", "a class ignored", "-100 ignored"],
)
def test_relevance_under_torchs_cross_entropy_is_of_probabilities_and_of_what_counts(loss, answers) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    classes = torch.where(torch.arange(N) % 4 == 0, -100, CLASSES) if loss.label_smoothing == 0 else CLASSES
    task = sn.Task(model, loss, (X.double(), classes))
    network = gated(task)
    gates = torch.ones(N, len(network.present), dtype=torch.float64, requires_grad=True)
    outputs = answers(network.program.outputs(X.double(), network.gating_by_sample(gates)))
    errors = (outputs - functional.one_hot(classes.clamp(min=0), 3)).abs().sum(1)
    (slopes,) = torch.autograd.grad(errors[classes != loss.ignore_index].sum(), gates)
    expected = network.by_group(-slopes.mean(0))
    for neuron, score in sn.rank(task, "skeletonization"):
        assert score == pytest.approx(float(expected[neuron.group][neuron.index]), rel=1e-9)


@pytest.mark.parametrize("criterion", ["taylor-2-diagonal", "optimal-cell-damage", "skeletonization"])
def test_what_a_criterion_is_not_for_is_said_before_anything_is_written(criterion: str, tmp_path: Path) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.two = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 2)

        def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            return self.two(self.norm(self.one(left))), self.two(self.norm(self.one(right)))

    task = sn.Task(Normed(), contrast, (X, Z, CLASSES % 2))
    with pytest.raises(sn.ShrinknetError, match=r"Use `?'?(criterion='taylor-1'` or `criterion='ablation|taylor-2)"):
        sn.prune(task, criterion=criterion, goals=[sn.RemovedNeurons(2)], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", TASKS)
def test_second_order_is_the_second_derivative_by_differences(name: str) -> None:
    task = task_of(name)
    task = task.with_model(task.model.double())
    torch.manual_seed(0)
    kind, loss, rows = TASKS[name]
    task = sn.Task(kind().double(), loss, rows, batch_size=10)
    network = gated(task)
    found = dict(sn.rank(task, "taylor-2"))

    def mean(neuron: sn.Neuron, gate: float) -> float:
        gates = torch.ones(1, len(network.present), dtype=torch.float64)
        spans = {group.name: network.trace.ids_of(group).start for group in network.groups}
        gates[0, spans[neuron.group] + neuron.index] = gate
        batches = task.calibration.batches()
        outputs = ((network.program.outputs(one.inputs, network.gating_by_sample(gates)), one) for one in batches)
        return sum(float(task.loss.each(y, one.targets).detach().sum()) for y, one in outputs) / N

    step = 1e-4
    for neuron, score in found.items():
        low, middle, high = (mean(neuron, 1 + move) for move in (-step, 0, step))
        slope, curvature = (high - low) / (2 * step), (high - 2 * middle + low) / step**2
        assert score == pytest.approx(-slope + curvature / 2, abs=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_a_run_is_proven_comes_back_in_its_class_and_opens_again(name: str, tmp_path) -> None:
    _, loss, rows = TASKS[name]
    task = task_of(name)
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(3)], out=tmp_path / "run")
    assert run.verification.holds
    assert len(run.verification.differences) == 2 * len(network_outputs(task))
    assert type(run.model) is type(task.model)
    own = loss if callable(loss) else None
    again = sn.load(tmp_path / "run", data=[rows], loss=own)
    assert again.plan == run.plan
    assert {file: one.holds for file, one in check_files(again).items()} == {
        "model.pt2": True,
        "model.safetensors": True,
    }
    assert type(sn.load(tmp_path / "run", model=task.model, data=[rows], loss=own).model) is type(task.model)


def network_outputs(task: sn.Task) -> list[Tensor]:
    from shrinknet.task.trees import tensors_of

    return tensors_of(called(task, next(task.calibration.batches())))


def test_the_exported_network_takes_and_gives_the_names_of_the_users_own() -> None:
    run = sn.prune(task_of("ids and a mask"), "magnitude", goals=[sn.RemovedNeurons(2)])
    outputs = run.exported.module()(input_ids=IDS[:5], attention_mask=MASK[:5])
    assert outputs["caches"] is None
    expected = run.model(input_ids=IDS[:5], attention_mask=MASK[:5])["logits"]
    assert torch.allclose(outputs["logits"], expected, atol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_workers_give_the_same_bits(name: str) -> None:
    many = sn.Scoring(executor="processes", workers=2)
    assert sn.rank(task_of(name), "taylor-1", scoring=many) == sn.rank(task_of(name), "taylor-1")


class Rows(Dataset[Any]):
    def __init__(self, form: Callable[[int], Any]) -> None:
        self.form = form

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Any:
        return self.form(row)


Pair = namedtuple("Pair", ["left", "right", "label"])


@dataclass
class Labelled:
    left: Tensor
    right: Tensor
    label: Tensor


class Sided(NamedTuple):
    """Inputs by the names of the arguments, in another order."""

    right: Tensor
    left: Tensor


@dataclass
class SidedClass:
    right: Tensor
    left: Tensor


def collate(rows: list[tuple[Tensor, Tensor, int]]) -> dict[str, Tensor]:
    left, right, labels = zip(*rows, strict=True)
    return {"left": torch.stack(left), "right": torch.stack(right), "target": torch.tensor(labels)}


SAME = {
    "three tensors": (X, Z, CLASSES % 2),
    "a pair of inputs": ((X, Z), CLASSES % 2),
    "a list of inputs": ([X, Z], CLASSES % 2),
    "a mapping": {"right": Z, "left": X, "label": CLASSES % 2},
    "arrays": {"right": Z.numpy(), "left": X.numpy(), "y": (CLASSES % 2).numpy()},
    "a named tuple": Pair(X, Z, CLASSES % 2),
    "a data class": Labelled(X, Z, CLASSES % 2),
    "a named tuple of inputs": (Sided(Z, X), CLASSES % 2),
    "a data class of inputs": (SidedClass(Z, X), CLASSES % 2),
    "a data set of named tuples": Rows(lambda row: (Sided(Z[row], X[row]), CLASSES[row] % 2)),
    "a data set of tuples": Rows(lambda row: (X[row], Z[row], CLASSES[row] % 2)),
    "a data set of nested tuples": Rows(lambda row: ((X[row], Z[row]), CLASSES[row] % 2)),
    "a data set of mappings": Rows(lambda row: {"left": X[row], "right": Z[row], "labels": CLASSES[row] % 2}),
    "a loader with a collate of its own": DataLoader(
        Rows(lambda row: (X[row], Z[row], int(CLASSES[row] % 2))), 10, collate_fn=collate
    ),
}


@pytest.mark.parametrize("form", SAME)
def test_a_batch_means_the_same_in_every_form(form: str) -> None:
    torch.manual_seed(0)
    found = sn.rank(sn.Task(Siamese(), contrast, SAME[form], batch_size=10))
    assert found == sn.rank(task_of("two inputs"))


class Pairs(nn.Module):
    """One argument that is a pair, beside one that need not be given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Siamese()

    def forward(self, pair: tuple[Tensor, Tensor], scale: float = 1.0) -> tuple[Tensor, Tensor]:
        left, right = self.net(*pair)
        return left * scale, right * scale


def test_a_forward_that_needs_one_argument_is_given_a_pair_as_it_is() -> None:
    """Spread, its second part would be taken for the scale."""
    torch.manual_seed(0)
    task = sn.Task(Pairs(), contrast, ((X, Z), CLASSES % 2), batch_size=10)
    assert [score for _, score in sn.rank(task)] == [score for _, score in sn.rank(task_of("two inputs"))]


def test_the_users_own_way_to_take_a_batch_apart() -> None:
    packed = torch.cat([X, Z], 1), CLASSES % 2
    torch.manual_seed(0)
    task = sn.Task(Siamese(), contrast, packed, batch_size=10,
                   unpack=lambda batch: ((batch[0][:, :5],), {"right": batch[0][:, 5:]}, batch[1]))  # fmt: skip
    assert sn.rank(task) == sn.rank(task_of("two inputs"))


BAD = {
    "several outputs and a built-in loss": (
        lambda: sn.Task(Siamese(), "squared-error", (X, Z, torch.randn(N, 4))),
        r"^output must be the name or number of an output, for squared-error: 0, 1\. Got 2 outputs \(0, 1\)\. Say which",
    ),
    "an output that is not there": (
        lambda: sn.Task(TwoHeads(), "cross-entropy", (X, CLASSES), output="classes"),
        r"^output must be the name or number of an output, for cross-entropy: boxes, logits\. Got 'classes'\.",
    ),
    "targets in a class that torch does not know": (
        lambda: sn.Task(Siamese(), contrast, (X, Z, SidedClass(X, Z))),
        r"^calibration targets must be tensors, and containers that torch knows\. Got a SidedClass, which it does not\. "
        r"Register its class with torch\.utils\._pytree\.register_dataclass, or take it apart: unpack=",
    ),
    "an unpack that fails": (
        lambda: sn.Task(Siamese(), contrast, (X, Z, CLASSES), unpack=lambda batch: batch["left"]),
        r"^unpack must be a function of a batch .* Got one that said of a batch of calibration data: TypeError: ",
    ),
    "a row too few": (
        lambda: sn.Task(Siamese(), contrast, (X, Z[:20], CLASSES)),
        r"^calibration must be tensors with as many rows each\. Got inputs\[0\] \[24, 5\], inputs\[1\] \[20, 5\]",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_one_sentence(case: str) -> None:
    make, sentence = BAD[case]
    with pytest.raises(sn.BadInputError, match=sentence):
        make()


def test_an_output_is_named_or_counted() -> None:
    by_name, by_number, alone = (
        sn.rank(sn.Task(model, "cross-entropy", (X, CLASSES), output=output), "taylor-1")
        for output in ("logits", 1, None)
        if (model := seeded(TwoHeads)) is not None
    )
    assert by_name == by_number == alone


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


FACTORY = """
import torch
from test_trees import TwoHeads, Masked

def masked():
    torch.manual_seed(0)
    return Masked()

def heads():
    torch.manual_seed(0)
    return TwoHeads()
"""


def test_the_command_takes_arrays_by_the_names_of_the_arguments(tmp_path, monkeypatch) -> None:
    import numpy as np
    from typer.testing import CliRunner

    from shrinknet.cli.main import app

    (tmp_path / "factories_of_trees.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    arrays = {"input_ids": IDS.numpy(), "attention_mask": MASK.numpy(), "targets": CLASSES.numpy()}
    np.savez("rows.npz", **arrays, split=np.arange(N) % 3)
    np.savez("plain.npz", inputs=X.numpy(), targets=CLASSES.numpy(), split=np.arange(N) % 3)
    words = ["--remove", "2", "--criterion", "taylor-1"]
    done = CliRunner().invoke(app, ["prune", "factories_of_trees:masked", "--data", "rows.npz", "--out", "run", *words])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(app, ["verify", "run"]).exit_code == 0
    words += ["--output", "logits"]
    done = CliRunner().invoke(app, ["prune", "factories_of_trees:heads", "--data", "plain.npz", "--out", "two", *words])
    assert done.exit_code == 0, done.output
    assert sn.load("two").task.loss.reads == 1
    np.savez("odd.npz", input_ids=IDS.numpy(), targets=CLASSES.numpy(), mask=MASK.numpy())
    refused = CliRunner().invoke(app, ["rank", "factories_of_trees:masked", "--data", "odd.npz"])
    assert "forward needs (input_ids, attention_mask). Got no 'attention_mask' but 'mask'. Name" in str(
        refused.exception
    )


class Sides(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.relu(self.left(left) + self.right(right)))


@pytest.mark.parametrize("by_place", [("left", "right"), ("left",), ()])
def test_an_exported_network_is_called_in_the_form_of_its_export_however_data_are_named(by_place, tmp_path) -> None:
    from shrinknet.loading.models import load_model

    model, rows = Sides(), {"left": torch.randn(N, 4), "right": torch.randn(N, 3)}
    args = tuple(rows[name][:2] for name in by_place)
    kwargs = {name: rows[name][:2] for name in rows if name not in by_place}
    free = {name: {0: torch.export.Dim("batch")} for name in rows}
    torch.export.save(torch.export.export(model, args, kwargs, dynamic_shapes=free), tmp_path / "net.pt2")
    opened = load_model(str(tmp_path / "net.pt2")).model
    for given in ({**rows, "targets": CLASSES}, (rows["left"], rows["right"], CLASSES), (rows, CLASSES)):
        task = sn.Task(opened, "cross-entropy", given)
        with torch.no_grad():
            torch.testing.assert_close(called(task, task.calibration.whole()), model(**rows))
    odd = {"links": rows["left"], "right": rows["right"], "targets": CLASSES}
    sentence = r"needs \(left, right\)\. Got no 'left' but 'links'\. Name the arrays so"
    with pytest.raises(sn.BadInputError, match=sentence):
        sn.Task(opened, "cross-entropy", odd)


class AnyNames(nn.Module):
    """Arguments by any name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, **given: Tensor) -> Tensor:
        return self.net(given["pixels"])


def test_a_forward_that_takes_any_name_is_called_by_name_and_refused_where_it_is_traced() -> None:
    task = sn.Task(AnyNames(), "cross-entropy", {"pixels": X, "labels": CLASSES})
    assert task.calibration.whole().inputs.call[1].keys() == {"pixels"}
    with pytest.raises(sn.BadInputError, match=r"^model must be a network that torch\.export can follow"):
        sn.rank(task)


def test_truth_values_stay_truth_values_for_a_loss_of_ones_own_and_are_classes_elsewhere() -> None:
    rows, same = torch.randn(12, 4), torch.arange(12) % 2 == 0
    model, seen = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), set[torch.dtype]()

    def own(outputs, targets):
        seen.add(targets.dtype)
        return torch.where(targets, outputs[:, 0], outputs[:, 1]).square()

    assert sn.rank(sn.Task(model, own, (rows, same)), "taylor-1")
    assert seen == {torch.bool}
    for loss in ("cross-entropy", nn.CrossEntropyLoss(label_smoothing=0.1)):
        of_truth, of_classes = (sn.rank(sn.Task(model, loss, (rows, one))) for one in (same, same.long()))
        assert of_truth == of_classes


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


class OfAPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, pair):
        return self.last(torch.relu(self.body(pair.left - pair.right)))


def test_a_container_of_ones_own_as_an_argument_prunes_but_cannot_be_written(tmp_path: Path) -> None:
    rows = {"pair": Pair(torch.randn(12, 6), torch.randn(12, 6)), "labels": torch.arange(12) % 3}
    task = sn.Task(OfAPair(), "cross-entropy", rows)
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(4)])
    assert type(run.model) is OfAPair
    for write in (lambda: run.save(tmp_path / "a"), lambda: sn.prune(task, "magnitude", out=tmp_path / "a")):
        with pytest.raises(sn.BadInputError, match=r"container of one's own. Got 'Pair'\. Let forward take a tuple"):
            write()
    assert not (tmp_path / "a").exists()


class Lengths(OfAPair):
    def forward(self, pair):
        return super().forward(Pair(pair.left.mean(1), pair.right.mean(1)))


def test_the_fields_of_a_container_of_ones_own_are_named_where_sizes_stay_free() -> None:
    rows = {"pair": Pair(torch.randn(12, 5, 6), torch.randn(12, 7, 6)), "labels": torch.arange(12) % 3}
    task = sn.Task(Lengths(), "cross-entropy", rows, free={"pair_left": [1]})
    assert gated(task).trace.free == {"pair_left": {1: (2, None)}}


class AnyName(OfAPair):
    def forward(self, left, **others):
        return self.last(torch.relu(self.body(left - others["right"])))


def test_a_forward_of_other_names_is_told_to_name_them() -> None:
    rows = {"left": torch.randn(12, 6), "right": torch.randn(12, 6), "labels": torch.arange(12) % 3}
    with pytest.raises(sn.BadInputError, match=r"Let forward name its arguments in place of \*\*kwargs\."):
        sn.rank(sn.Task(AnyName(), "cross-entropy", rows), "magnitude")
