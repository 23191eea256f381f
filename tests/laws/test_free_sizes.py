"""Sizes that stay free: scores, proofs, files and reopened runs hold at other lengths than the example's."""

from typing import Any

import numpy as np
import pytest
import torch
from test_files_of_trees import called, typed
from test_trees import Rows, by_hand
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import shrinknet as sn
from shrinknet.core.quiet import quiet
from shrinknet.criteria import criterion_names
from shrinknet.export.base import find_exporter
from shrinknet.run.checking import check_files
from shrinknet.task.trees import inputs_of, tensors_of

N, LENGTH, OTHERS = 24, 9, (4, 13, 32)


class Reading(nn.Module):
    """Ids and a mask through places, attention and a dense block; at most 32 words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Parameter(torch.randn(32, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden, self.out, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.words(input_ids) + self.places[: input_ids.shape[1]]
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = (x + self.out(functional.gelu(self.hidden(x)))) * attention_mask[..., None]
        return {"logits": self.head(x.sum(1) / attention_mask.sum(1, keepdim=True))}


class Seeing(nn.Module):
    """A picture of any size, whose parts are put together again: sides of multiples of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.up, self.head = nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Conv2d(6, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        hidden = torch.relu(self.one(image))
        return self.head(hidden + self.up(torch.relu(self.two(hidden))))


class Hearing(nn.Module):
    """Frames of any number, a state in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.cell, self.head = nn.Conv1d(3, 8, 3), nn.GRUCell(8, 8), nn.Linear(8, 1)

    def forward(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell(torch.relu(self.front(frames)).mean(2), state)
        return self.head(state), state


class Fixing(nn.Module):
    """A mean over the places, of which a graph of one size writes down the number."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)).sum(1) / x.shape[1])


class Listening(nn.Module):
    """Steps of any number through torch's own recurrent layers; those of a GRU along the first axis."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, both: bool = False) -> None:
        super().__init__()
        self.is_second = kind is not nn.GRU
        self.cells = kind(4, 6, layers, batch_first=self.is_second, bidirectional=both)
        self.head = nn.Linear(12 if both else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        read, _ = self.cells(x if self.is_second else x.transpose(0, 1))
        return self.head(read.mean(1 if self.is_second else 0))


def pixels(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none").flatten(1).mean(1)


def heard(outputs: Any, targets: Tensor) -> Tensor:
    return (outputs[0][:, 0] - targets).square()


def words(length: int, count: int = N) -> dict[str, Tensor]:
    mask = (torch.arange(length) < torch.arange(count)[:, None] % 4 + length - 3).float()
    return {"input_ids": torch.randint(11, (count, length)), "attention_mask": mask}


def read_task(seed: int = 0, **options: Any) -> sn.Task:
    torch.manual_seed(seed)
    rows = words(LENGTH) | {"labels": torch.arange(N) % 3}
    free = {"input_ids": [1], "attention_mask": [1]}
    return sn.Task(Reading(), "cross-entropy", rows, batch_size=10, **{"free": free} | options)


def seen_task(seed: int = 0, free: Any = None) -> sn.Task:
    torch.manual_seed(seed)
    rows = torch.randn(8, 1, 8, 8), torch.randint(2, (8, 8, 8))
    return sn.Task(Seeing(), pixels, rows, free=free or {"image": [2, 3]})


def heard_task(seed: int = 0) -> sn.Task:
    torch.manual_seed(seed)
    rows = {"frames": torch.randn(N, 3, 9), "state": torch.zeros(N, 8), "labels": torch.rand(N)}
    return sn.Task(Hearing(), heard, rows, free={"frames": [2]})


def mean_task(seed: int = 0) -> sn.Task:
    torch.manual_seed(seed)
    return sn.Task(Fixing(), "cross-entropy", (torch.randn(N, 6, 4), torch.arange(N) % 3), free={"x": [1]})


def steps_task(seed: int, *kind: Any) -> sn.Task:
    torch.manual_seed(seed)
    return sn.Task(Listening(*kind), "cross-entropy", (torch.randn(N, 6, 4), torch.arange(N) % 3), free={"x": [1]})


OF_SIZE = {
    "lstm": (lambda seed=0: steps_task(seed, nn.LSTM, 2, True), lambda size: torch.randn(5, size, 4), (2, 40)),
    "gru": (lambda seed=0: steps_task(seed, nn.GRU), lambda size: torch.randn(5, size, 4), (3, 21)),
    "mean": (mean_task, lambda size: torch.randn(5, size, 4), (2, 40)),
    "reading": (read_task, lambda size: inputs_of((), words(size, 5)), (4, 13, 32)),
    "seeing": (seen_task, lambda size: torch.randn(5, 1, size, size + 4), (6, 10, 16)),
    "hearing": (
        heard_task,
        lambda size: inputs_of((), {"frames": torch.randn(5, 3, size), "state": torch.randn(5, 8)}),
        (4, 20),
    ),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", OF_SIZE)
def test_what_ships_is_the_masked_network_at_every_size(name: str, seed: int, tmp_path) -> None:
    import onnxruntime

    make, inputs, sizes = OF_SIZE[name]
    task = make(seed)
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(4)], artefact="onnx", out=tmp_path / "run")
    assert run.verification.holds
    assert all(one.holds for one in check_files(run).values())
    shipped = torch.export.load(tmp_path / "run" / "model.pt2").module()
    session = onnxruntime.InferenceSession(run.shipped.content, providers=["CPUExecutionProvider"])
    assert run.artefact.notes[-1].startswith("free: axis ")
    for size in sizes:
        given = inputs(size)
        expected = tensors_of(run.network.outputs(given))
        fed = dict(
            zip((one.name for one in session.get_inputs()), (one.numpy() for one in tensors_of(given)), strict=True)
        )
        answers = [called(shipped, given), list(map(torch.from_numpy, session.run(None, fed)))]
        answers += [] if run.fixed_width else [called(run.model, given)]  # the attention's own code says its width
        for answer in answers:
            for one, other in zip(tensors_of(answer), expected, strict=True):
                assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", OF_SIZE)
def test_the_same_is_found_as_with_fixed_sizes(name: str) -> None:
    task = OF_SIZE[name][0]()
    fixed = sn.trace(task.model, task.example_inputs)
    free = sn.trace(task.model, task.example_inputs, task.free)
    assert free.groups == fixed.groups
    before = task._with(free={})
    for criterion in criterion_names() if name == "mean" else ("taylor-1", "ablation", "taylor-2"):
        if criterion == "random":
            continue
        try:
            expected = dict(sn.rank(before, criterion))
        except sn.ShrinknetError:
            continue  # what one size is refused, any is
        found = dict(sn.rank(task, criterion))
        for neuron, score in expected.items():
            assert found[neuron] == pytest.approx(score, rel=1e-4, abs=1e-6)


def test_a_run_with_free_sizes_opens_again_with_them(tmp_path) -> None:
    task = read_task()
    rows = words(LENGTH) | {"labels": torch.arange(N) % 3}
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(3)], out=tmp_path / "run")
    again = sn.load(tmp_path / "run", data=[rows])
    assert again.task.free == {"input_ids": (1,), "attention_mask": (1,)}
    assert again.plan == run.plan
    manifest = again.export("onnx", tmp_path / "net.onnx")
    assert manifest.notes[-1] == "free: axis 1 of 'input_ids' (2 to 32), axis 1 of 'attention_mask' (2 to 32)"
    given = inputs_of((), words(17, 4))
    opened = called(again.exported.module(), given)["logits"]
    assert torch.allclose(opened, run.network.outputs(given)["logits"], atol=1e-5)


def padded(rows: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    ids, kinds = zip(*rows, strict=True)
    length = max(map(len, ids))
    padded = torch.stack([functional.pad(one, (0, length - len(one))) for one in ids])
    mask = torch.stack([(torch.arange(length) < len(one)).float() for one in ids])
    return {"input_ids": padded, "attention_mask": mask, "labels": torch.tensor(kinds)}


@pytest.mark.parametrize("criterion", ["ablation", "taylor-1", "taylor-2"])
def test_batches_of_other_lengths_are_scored_as_by_hand(criterion: str) -> None:
    torch.manual_seed(0)
    rows = [(torch.randint(11, (3 + k % 10,)), k % 3) for k in range(N)]
    rows.sort(key=lambda row: -len(row[0]))
    loader = DataLoader(Rows(rows.__getitem__), 8, collate_fn=padded)
    task = sn.Task(Reading(), "cross-entropy", loader, free={"input_ids": [1], "attention_mask": [1]})
    assert len({one.inputs.tensors[0].shape[1] for one in task.calibration}) > 1
    found = dict(sn.rank(task, criterion))
    if criterion == "ablation":
        with torch.no_grad():
            losses = [task.loss.each(called(task.model, one.inputs), one.targets).sum() for one in task.calibration]
        before = float(sum(losses)) / N
        for neuron in list(found)[::5]:
            if neuron.group == "hidden":
                assert found[neuron] == pytest.approx(by_hand(task, neuron) - before, abs=2e-6)
    run = sn.prune(task, criterion, goals=[sn.RemovedNeurons(2)])
    assert run.verification.holds


def test_a_plain_recurrent_layer_ships_as_pt2_and_is_refused_by_onnx(tmp_path) -> None:
    """Torch's exporter to ONNX writes its steps down one by one."""
    task = steps_task(0, nn.RNN)
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(2)], artefact="pt2", out=tmp_path / "run")
    rows = torch.randn(5, 15, 4)
    assert torch.allclose(run.exported.module()(rows), run.network.outputs(rows), atol=1e-6)
    with pytest.raises(
        sn.ExportError, match=r"Got aten\.rnn_tanh\.input over a free number of steps: .* writes each step"
    ):
        run.export("onnx", tmp_path / "net.onnx")


def test_steps_of_any_number_are_scored_as_the_network_rebuilt_by_hand() -> None:
    """Batches of other lengths, scored as the network rebuilt by hand."""
    torch.manual_seed(0)
    rows = [(torch.randn(3 + k % 10, 4), k % 3) for k in range(N)]
    loader = DataLoader(Rows(rows.__getitem__), 5, collate_fn=beside)
    task = sn.Task(Listening(nn.LSTM), "cross-entropy", loader, free={"x": [1]})
    assert len({one.inputs.shape[1] for one in task.calibration}) > 1

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return float(sum(task.loss.each(model(one.inputs), one.targets).sum() for one in task.calibration)) / N

    before, found = loss(task.model), dict(sn.rank(task))
    assert len(found) == 6
    for neuron, score in found.items():
        keep = torch.tensor([unit for unit in range(6) if unit != neuron.index])
        gates = torch.cat([keep + 6 * gate for gate in range(4)])
        smaller = Listening(nn.LSTM)
        smaller.cells, smaller.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)
        own, its = task.model.state_dict(), smaller.state_dict()
        for name, value in own.items():
            if name.startswith("cells."):
                value = value[gates]
            its[name].copy_(value[:, keep] if name in ("cells.weight_hh_l0", "head.weight") else value)
        assert score == pytest.approx(loss(smaller) - before, abs=2e-6)


def test_a_role_whose_first_batch_has_another_length_is_proven(tmp_path) -> None:
    """What is known of values speaks of the first batch of calibration data."""
    torch.manual_seed(0)
    rows = [(torch.randint(11, (3 + k % 10,)), k % 3) for k in range(N)]
    roles = [DataLoader(Rows(rows.__getitem__), size, collate_fn=padded) for size in (4, 5)]
    task = sn.Task(Reading(), "cross-entropy", *roles, free={"input_ids": [1], "attention_mask": [1]})
    lengths = [next(role.batches()).inputs.tensors[0].shape[1] for role in (task.calibration, task.validation)]
    assert len({*lengths}) == 2
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(4)], out=tmp_path / "run")
    assert run.verification.holds
    assert run.verification.shapes_checked > 10


def beside(rows: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    places, kinds = zip(*rows, strict=True)
    return nn.utils.rnn.pad_sequence(places, batch_first=True), torch.tensor(kinds)


def test_batches_of_other_lengths_whose_number_the_graph_wrote_down_are_refused() -> None:
    """Scored with the first batch's number, they would be wrong without a word."""
    torch.manual_seed(0)
    rows = [(torch.randn(5 - k // 8, 4), k % 3) for k in range(N)]
    loader = DataLoader(Rows(rows.__getitem__), 8, collate_fn=beside)
    with pytest.raises(sn.BadInputError, match=r"^free must be inputs with the axes along which batches differ"):
        sn.rank(sn.Task(Fixing(), "cross-entropy", loader), "magnitude")
    assert sn.rank(sn.Task(Fixing(), "cross-entropy", loader, free={"x": [1]}), "taylor-1")


class Flattening(Fixing):
    """Takes its places apart and puts them together again, so that a graph of one size takes no other."""

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.relu(self.one(x)).flatten(1)
        return self.two(flat.unflatten(1, (x.shape[1], flat.shape[1] // x.shape[1])).mean(1))


def test_batches_of_other_lengths_that_the_graph_does_not_take_are_refused() -> None:
    rows = [(torch.randn(5 - k // 8, 4), k % 3) for k in range(N)]
    loader = DataLoader(Rows(rows.__getitem__), 8, collate_fn=beside)
    what = r"^free must be inputs with the axes along which batches differ.*of which the graph with the first batch's"
    with pytest.raises(sn.BadInputError, match=what):
        sn.rank(sn.Task(Flattening(), "cross-entropy", loader), "magnitude")


class Placed(Fixing):
    """Looks its places up in a table of 12."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.places(torch.arange(x.shape[1])))


def test_a_length_that_the_network_itself_does_not_take_twice_is_refused() -> None:
    task = sn.Task(Placed(), "cross-entropy", (torch.randn(N, 9, 4), torch.arange(N) % 3), free={"x": [1]})
    what = r"^free must be axes along which the network takes twice and half the length\. Got .*index out of range"
    with pytest.raises(sn.BadInputError, match=what):
        sn.rank(task, "magnitude")


BAD = {
    "no such input": ({"ids": [1]}, r"^free must be of inputs of the network \(input_ids, attention_mask\)\. Got 'ids'\."),
    "no such axis": ({"input_ids": [2]}, r"^free must be axes of 'input_ids' from 1 to 1\. Got 2\. Axis 0 counts the samples"),
    "one of two": ({"input_ids": [1]}, r"^free must be axes whose size the network leaves open\. Got axis 1 of 'input_ids', which it fixes at 9"),
    "no largest": ({"input_ids": {1: "many"}, "attention_mask": [1]}, r"^free must be names of inputs, each with the axes whose sizes"),
    "shorter than rows": ({"input_ids": {1: 8}, "attention_mask": {1: 8}}, r"^free must be at most 8 along axis 1 of 'input_ids'\. Got rows of 9\."),
    "no axes": ({"input_ids": [True]}, r"^free must be names of inputs, each with the axes whose sizes stay free\."),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_free_is_one_sentence(case: str) -> None:
    free, sentence = BAD[case]
    with pytest.raises(sn.BadInputError, match=sentence):
        sn.rank(read_task(free=free), "magnitude")


def test_a_file_that_fixes_sizes_is_refused() -> None:
    with pytest.raises(
        sn.BadInputError, match=r"^artefact must be .*`artefact='onnx'` or `artefact='pt2'` for a task with free sizes"
    ):
        sn.prune(read_task(), "magnitude", goals=[sn.RemovedNeurons(2)], artefact="cortex-m", quantize="int8")


BOUNDED = {
    "reading": (lambda: read_task(), lambda size: inputs_of((), words(size, 3)), 32),  # the network's own largest
    "seeing": (lambda: seen_task(free={"image": {2: 20, 3: 24}}), lambda size: torch.randn(3, 1, size, size + 4), 20),
}


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("name", BOUNDED)
def test_a_pte_file_takes_every_size_up_to_the_largest_and_plans_memory_for_it(
    name: str, quantize: str, tmp_path
) -> None:
    make, inputs, most = BOUNDED[name]
    run = sn.prune(
        make(), "magnitude", goals=[sn.RemovedNeurons(4)], step=4, artefact="executorch", quantize=quantize,
        allow_float=True, tie="none", out=tmp_path / "run",
    )  # fmt: skip
    assert run.artefact.notes[-1].endswith("memory is planned for the largest")
    assert run.artefact.arena_bytes == run.artefact.forecast_arena_bytes
    answer = find_exporter("executorch", quantize).answer(run.shipped.content)
    for size in (4, 10, most):
        given = inputs(size)
        for one, other in zip(tensors_of(answer(given)), tensors_of(run.network.outputs(given)), strict=True):
            assert one.shape == other.shape
            assert quantize == "int8" or torch.allclose(one, other, atol=1e-5)
    with pytest.raises(RuntimeError), quiet():
        answer(inputs(most + 4))
    assert all(one.holds for one in check_files(run).values())
    if quantize == "none":
        assert run.artefact.arena_bytes == run.history[-1].measures.costs.peak_ram_bytes


def test_the_arena_of_free_sizes_is_that_of_a_network_fixed_at_the_largest() -> None:
    arenas = []
    for side, free in ((8, {"image": {2: 16, 3: 16}}), (16, {})):
        torch.manual_seed(0)
        rows = torch.randn(8, 1, side, side), torch.randint(2, (8, side, side))
        task = sn.Task(Seeing(), pixels, rows, free=free)
        run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(2)], step=2, artefact="executorch")
        arenas.append(run.artefact.arena_bytes)
    assert arenas[0] == arenas[1]


def test_a_pte_file_needs_a_largest_size_and_operators_that_leave_sizes_open() -> None:
    with pytest.raises(sn.BadInputError, match=r"^free must be said with the largest size for `artefact='executorch'`"):
        sn.prune(mean_task(), "magnitude", goals=[sn.RemovedNeurons(2)], artefact="executorch")
    rows = torch.randn(N, 6, 4), torch.arange(N) % 3
    task = sn.Task(Listening(nn.LSTM), "cross-entropy", rows, free={"x": {1: 12}})
    with pytest.raises(
        sn.ExportError, match=r"Got aten\.lstm\.input over a free number of steps: .*writes each step down"
    ):
        sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(2)], artefact="executorch")


def test_batches_longer_than_the_largest_size_are_refused() -> None:
    torch.manual_seed(0)
    rows = [(torch.randn(7 + k // 8, 4), k % 3) for k in range(N)]
    loader = DataLoader(Rows(rows.__getitem__), 8, collate_fn=beside)
    with pytest.raises(sn.BadInputError, match=r"^free must be at most 8 along axis 1 of 'x'\. Got rows of 9\."):
        sn.rank(sn.Task(Fixing(), "cross-entropy", loader, free={"x": {1: 8}}), "magnitude")
    assert sn.rank(sn.Task(Fixing(), "cross-entropy", loader, free={"x": {1: 9}}), "magnitude")


FACTORY = """
import torch
from test_free_sizes import Reading

def reading():
    torch.manual_seed(0)
    return Reading()
"""


def test_the_command_line_says_what_is_free(tmp_path, monkeypatch) -> None:
    (tmp_path / "factories_of_free.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    arrays = {name: value.numpy() for name, value in words(LENGTH).items()}
    np.savez("rows.npz", **arrays, targets=np.arange(N) % 3, split=np.arange(N) % 3)
    said = ["--free", "input_ids:1", "--free", "attention_mask:1"]
    done = typed(
        "prune", "factories_of_free:reading", "--data", "rows.npz", "--out", "run", "--remove", "2", "--criterion",
        "magnitude", *said,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert typed("verify", "run").exit_code == 0
    exported = typed("export", "run", "--to", "onnx")
    assert exported.exit_code == 0, exported.output
    assert "free: axis 1 of 'input_ids'" in (tmp_path / "run/artefacts/model.onnx.json").read_text()
    odd = typed("rank", "factories_of_free:reading", "--data", "rows.npz", "--free", "input_ids")
    assert str(odd.exception) == (
        "--free must be INPUT:AXIS or INPUT:AXIS:LARGEST. Got 'input_ids'. Write --free input_ids:1, or --free input_ids:1:128."
    )
    said = ["--free", "input_ids:1:16", "--free", "attention_mask:1:16", "--to", "executorch"]
    done = typed(
        "prune", "factories_of_free:reading", "--data", "rows.npz", "--out", "planned", "--remove", "2", "--criterion",
        "magnitude", *said,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "(2 to 16); memory is planned for the largest" in (tmp_path / "planned/artefacts/model.pte.json").read_text()
    assert typed("verify", "planned").exit_code == 0
