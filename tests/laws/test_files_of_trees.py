"""Files of networks that take and give several tensors: names, numbers, budgets, and who opens them later."""

import json
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from test_trees import TASKS, N, X, Z, task_of
from torch import Tensor, nn
from torch.nn import functional

import shrinknet as sn
from shrinknet.export.artefact import Artefact
from shrinknet.export.base import find_exporter
from shrinknet.export.inference import InferenceGraph
from shrinknet.run.checking import check_files
from shrinknet.surgery.remove import cut_graph
from shrinknet.task.trees import inputs_of, tensors_of

pytest.importorskip("executorch")
pytest.importorskip("onnxruntime")


class Listening(nn.Module):
    """A voice detector that goes on where it was: frames and a state in, a probability and the new state out."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.front, self.cell, self.head = nn.Conv1d(3, width, 3), nn.GRUCell(width, width), nn.Linear(width, 1)

    def forward(self, frames: Tensor, state: Tensor) -> dict[str, Tensor]:
        state = self.cell(torch.relu(self.front(frames)).mean(2), state)
        return {"speech": self.head(state), "state": state}


class Odd(nn.Module):
    """A pair as one argument, a switch; the same tensor twice, an input that comes back, whole numbers, names of nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, pair: tuple[Tensor, Tensor], input: Tensor, double: bool = False) -> Any:
        hidden = torch.relu(self.one(pair[0]) + self.one(pair[1])) * input[:, None]
        out = self.two(hidden)
        return OrderedDict(relu=(out, out), linear=None, best=out.argmax(1), input=input)


def heard(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return (outputs["speech"][:, 0] - targets).square() + 0.1 * outputs["state"].square().mean(1)


def of_the_first(outputs: Any, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs["relu"][0], targets, reduction="none")


ROWS = {name: rows for name, (_, _, rows) in TASKS.items()} | {
    "state": {"frames": torch.randn(N, 3, 9), "state": torch.randn(N, 8).tanh(), "labels": torch.rand(N)},
    "odd": {"pair": (X, Z), "input": torch.arange(N) % 4 > 0, "labels": torch.arange(N) % 3},
}
LOSSES = {name: loss if callable(loss) else None for name, (_, loss, _) in TASKS.items()} | {
    "state": heard,
    "odd": of_the_first,
}


def listening_task(seed: int = 0, **options: Any) -> sn.Task:
    torch.manual_seed(seed)
    return sn.Task(Listening(), heard, ROWS["state"], batch_size=10, **options)


def odd_task() -> sn.Task:
    torch.manual_seed(0)
    return sn.Task(Odd(), of_the_first, ROWS["odd"])


MAKE = {name: (lambda name=name: task_of(name)) for name in TASKS} | {"state": listening_task, "odd": odd_task}
NAMES: dict[str, tuple[list[str], list[str]]] = {
    "two inputs": (["left", "right"], ["output_0", "output_1"]),
    "two heads": (["inputs"], ["boxes", "logits"]),
    "one of two heads": (["inputs"], ["boxes", "logits"]),
    "ids and a mask": (["input_ids", "attention_mask"], ["logits"]),
    "state": (["frames", "state"], ["speech", "state_out"]),
    "odd": (["pair_0", "pair_1", "input"], ["relu_0", "relu_1", "best", "input_out"]),
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory) -> Callable[[str, str], sn.Run]:
    """A run of each network with each kind of file, made once."""

    @cache
    def made(name: str, kind: str) -> sn.Run:
        out = tmp_path_factory.mktemp("made") / "run"
        return sn.prune(MAKE[name](), "magnitude", goals=[sn.RemovedNeurons(2)], artefact=kind, out=out)

    return made


@pytest.mark.parametrize("kind", ["onnx", "executorch", "pt2"])
@pytest.mark.parametrize("name", MAKE)
def test_a_file_of_several_tensors_is_proven_named_and_opens_again(name: str, kind: str, run_of, tmp_path) -> None:
    run = run_of(name, kind)
    task, manifest = run.task, run.artefact
    inputs, outputs = NAMES[name]
    assert [one.name for one in manifest.inputs] == inputs
    assert [one.name for one in manifest.outputs] == outputs
    given = tensors_of(task.example_inputs)
    assert [(one.dtype, one.shape[1:]) for one in manifest.inputs] == [
        (str(one.dtype).removeprefix("torch."), tuple(one.shape[1:])) for one in given
    ]
    checks = check_files(run)
    assert all(one.holds for one in checks.values())
    assert manifest.num_bytes == pytest.approx(manifest.forecast_bytes, rel=0.02, abs=192)  # segments are aligned
    assert manifest.arena_bytes == manifest.forecast_arena_bytes
    rows = next(task.calibration.batches()).inputs
    found = tensors_of(find_exporter(kind).answer(run.shipped.content)(rows))
    for one, expected in zip(found, tensors_of(called(run.model, rows)), strict=True):
        assert torch.allclose(one, expected, atol=1e-5)
    again = sn.load(run.folder.path, data=[ROWS[name]], loss=LOSSES[name])
    assert (again.artefact, again.summary()) == (manifest, run.summary())
    assert again.shipped == run.shipped
    anew = again.export(kind, tmp_path / "again")
    assert (anew.inputs, anew.outputs) == (manifest.inputs, manifest.outputs)
    assert kind == "pt2" or anew.sha256 == manifest.sha256  # a .pt2 file says in whose modules its nodes stand


def called(model: nn.Module, inputs: Any) -> Any:
    args, kwargs = ((inputs,), {}) if isinstance(inputs, Tensor) else inputs.call
    with torch.no_grad():
        return model(*args, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_is_fed_by_name(name: str, run_of) -> None:
    import onnxruntime

    run = run_of(name, "onnx")
    session = onnxruntime.InferenceSession(run.shipped.content, providers=["CPUExecutionProvider"])
    rows = next(run.task.calibration.batches()).inputs
    fed = dict(zip(NAMES[name][0], (one.numpy() for one in tensors_of(rows)), strict=True))
    for key, expected in zip(NAMES[name][1], tensors_of(called(run.model, rows)), strict=True):
        (found,) = session.run([key], fed)
        assert np.allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["state", "two inputs"])
def test_the_forecast_of_several_inputs_is_what_the_file_measures(name: str, seed: int) -> None:
    task = MAKE[name]()
    trace, exporter = sn.trace(task.model, task.example_inputs), find_exporter("executorch")
    artefact = Artefact(task, trace, "executorch")
    draw = np.random.default_rng(seed)
    gone = [one for group in trace.groups for one in group.neurons[: int(draw.integers(group.width))]]
    present = trace.present(tuple(gone))
    built = exporter.build(InferenceGraph.of(trace, cut_graph(trace, present)), task.example_inputs, [], "none")
    forecast = artefact.costs(present)
    assert forecast.peak_ram_bytes == built.arena.num_bytes
    assert forecast.flash_bytes == pytest.approx(len(built.content), rel=0.02, abs=192)


@pytest.mark.parametrize(("kind", "name"), [
    ("executorch", "state"), ("executorch", "ids and a mask"),
    ("executorch", "two heads"), ("cortex-m", "state"), ("cortex-m", "two inputs"),
])  # fmt: skip
def test_int8_of_several_inputs_looks_at_all_of_them(kind: str, name: str, tmp_path) -> None:
    if kind == "cortex-m":
        pytest.importorskip("tosa_serializer")
    task = MAKE[name]()
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(2)], artefact=kind, quantize="int8", allow_float=True,
                   out=tmp_path / "run")  # fmt: skip
    assert [one.name for one in run.artefact.inputs] == NAMES[name][0]
    assert [one.name for one in run.artefact.outputs] == NAMES[name][1]
    assert all(one.holds for one in check_files(run).values())
    within = 0.04 if kind == "executorch" else 0.02  # XNNPACK pads blocks
    assert run.artefact.num_bytes == pytest.approx(run.artefact.forecast_bytes, rel=within)


def test_a_file_whose_second_output_is_wrong_is_refused(monkeypatch) -> None:
    exporter = type(find_exporter("onnx"))
    honest = exporter.answer

    def off(self: Any, content: bytes) -> Any:
        return lambda rows: (lambda y: (y[0], y[1] + 0.1))(honest(self, content)(rows))

    monkeypatch.setattr(exporter, "answer", off)
    with pytest.raises(sn.ExportError, match=r"must give a file that computes what torch computes"):
        sn.prune(listening_task(), "magnitude", goals=[sn.RemovedNeurons(2)], artefact="onnx")


@pytest.mark.parametrize("seed", range(2))
def test_a_network_with_a_state_prunes_and_goes_on_where_it_was(seed: int) -> None:
    """Two steps of the smaller network are two steps of the masked one: the state that comes out can go in."""
    run = sn.prune(listening_task(seed), "taylor-1", goals=[sn.RemovedNeurons(3)])
    assert run.verification.holds
    assert type(run.model) is Listening
    state, masked = torch.zeros(4, 8), torch.zeros(4, 8)
    for _ in range(2):
        frames = torch.randn(4, 3, 9)
        given = called(run.model, inputs_of((), {"frames": frames, "state": state}))
        expected = run.network.outputs(inputs_of((), {"frames": frames, "state": masked}))
        assert torch.allclose(given["speech"], expected["speech"], atol=1e-5)
        state, masked = given["state"], expected["state"]


def typed(*words: str) -> Any:
    from typer.testing import CliRunner

    from shrinknet.cli.main import app

    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("name", ["two inputs", "ids and a mask", "state", "odd"])
@pytest.mark.parametrize("rows", [1, 3])
def test_inspect_and_bench_take_a_pt2_of_several_tensors(name: str, rows: int, tmp_path) -> None:
    task = MAKE[name]()
    args, kwargs = task.calibration.whole().inputs[:rows].call
    path = str(tmp_path / "net.pt2")
    torch.export.save(torch.export.export(task.model.eval(), args, kwargs), path)
    shown = typed("inspect", path, "--json")
    assert shown.exit_code == 0, shown.output
    groups = json.loads(shown.output)["groups"]
    assert [one["name"] for one in groups] == [one.name for one in sn.trace(task.model, task.example_inputs).groups]
    output = {"two inputs": "1", "state": "speech", "odd": "0", "ids and a mask": "logits"}[name]
    done = typed("bench", path, "--json", "--samples", "4", "--loss", "squared-error", "--output", output)
    assert done.exit_code == 0, done.output
    assert '"neurons": ' in done.output
    if name == "two inputs":
        refused = typed("bench", path, "--plan")
        assert str(refused.exception).startswith("output must be the name or number of an output, for cross-entropy")


def test_a_pt2_without_rows_and_a_factory_without_an_example_say_what_to_do(tmp_path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, by: Tensor) -> Tensor:
            return x * by

    path = str(tmp_path / "net.pt2")
    torch.export.save(torch.export.export(Scaled(), (torch.ones(2, 3), torch.tensor(2.0))), path)
    assert str(typed("inspect", path).exception).startswith("spec must be a .pt2 file with an example of its inputs")
    said = str(typed("inspect", "torch.nn:Identity").exception)
    assert said.startswith("--example-input must be given with a factory. Got nothing. Write the shape of one sample")


def test_what_torchs_exporter_cannot_take_is_named() -> None:
    class Rare(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](torch.special.bessel_j0(self[0](x)))

    task = sn.Task(Rare(nn.Linear(5, 8), nn.Linear(8, 3)), "cross-entropy", (torch.randn(12, 5), torch.arange(12) % 3))
    with pytest.raises(sn.ExportError, match=r"Got the operator prims\.bessel_j0\.default: DispatchError: No ONNX"):
        sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(2)], artefact="onnx")


class OneHead(nn.Module):
    """Attention as it is written without heads: values [rows, places, width]."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(6, 6) for _ in range(4))
        self.form = form

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        given = [self.query(x), self.key(x), self.value(x)]
        options = {"attn_mask": mask[:, None] > 0, "scale": 0.3} if self.form == "masked" else {"is_causal": True}
        if self.form == "five axes":
            given = [one.unflatten(2, (2, 1, 3)).movedim(1, 3) for one in given]
        seen = functional.scaled_dot_product_attention(*given, **options)
        seen = seen.movedim(3, 1).flatten(2) if self.form == "five axes" else seen
        return self.out(seen).mean(1)


@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("form", ["masked", "causal", "five axes"])
def test_attention_of_any_rank_goes_to_onnx(form: str, free: bool) -> None:
    """Torch's exporter knows values [rows, heads, places, width] alone."""
    pytest.importorskip("onnxruntime")
    rows = {"x": torch.randn(12, 5, 6), "mask": torch.ones(12, 5).tril(1), "labels": torch.arange(12) % 3}
    sizes = {"x": [1], "mask": [1]} if free else {}
    task = sn.Task(OneHead(form), "cross-entropy", rows, free=sizes)
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(1)], artefact="onnx", tie="none")
    assert run.artefact.difference.holds
