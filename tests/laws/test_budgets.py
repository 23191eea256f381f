"""Budgets are judged by the file as it is measured, however wrong its forecast was."""

import io
import warnings
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import shrinknet as sn
from shrinknet.core.folder import RunFolder
from shrinknet.export.base import Built, Exporter
from shrinknet.export.inference import Answer, InferenceGraph, by_torch, in_rows
from shrinknet.run.checking import check_files

WIDTH = 40


def parameters_of(network: InferenceGraph) -> int:
    return sum(tensor.numel() for tensor in network.module.state_dict().values())


class Packed(Exporter):
    """Files as long as `length` says of the number of parameters; what is forecast is that of the untouched network."""

    name = "packed"
    suffix = ".packed"
    extra = "none"
    packages = ()
    length: ClassVar = staticmethod(lambda parameters: 4 * parameters)
    made: ClassVar[list[int]] = []

    def build(self, network: InferenceGraph, inputs: Tensor, calibration: Sequence[Tensor], quantize: str) -> Built:
        count = parameters_of(network)
        self.made.append(count)
        answer = by_torch(network.module)
        return Built(bytes(self.length(count)), answer, stand_in=answer)

    def answer(self, content: bytes) -> Answer:
        raise AssertionError("its stand-in is run")


def _pages(parameters: int) -> int:
    """Files come in pages, and small ones are packed tight: far below what is forecast from a large one."""
    return 40_000 if parameters > 200 else 20 * parameters


def _packed_below(parameters: int) -> int:
    return 4 * parameters if parameters > 150 else 2 * parameters


LENGTHS = {
    "as forecast": lambda parameters: 4 * parameters + 1000,
    "far below": _pages,
    "packed where small": _packed_below,
    "longer the smaller": lambda parameters: 1000 + 3 * parameters,
}


@pytest.fixture
def task() -> sn.Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))
    return sn.Task(model, "cross-entropy", (torch.randn(64, 4), torch.arange(64) % 3))


def parameters_left(gone: int) -> int:
    neurons = WIDTH - gone
    return neurons * (4 + 1 + 3) + 3


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("budget", [700, 1100, 1500, 2000, 4000, 9192])
def test_a_run_is_met_where_some_step_meets_it_by_measurement(task, monkeypatch, name, budget) -> None:
    monkeypatch.setattr(Packed, "length", staticmethod(LENGTHS[name]))
    goal = sn.FlashBytes(budget)
    fits = [gone for gone in range(WIDTH) if LENGTHS[name](parameters_left(gone)) <= budget]
    if not fits:
        with pytest.raises(sn.BadInputError, match=r"^goals must be within reach: at least \d"):
            sn.prune(task, "magnitude", goals=[goal], artefact=f"{__name__}:Packed")
        return
    run = sn.prune(task, "magnitude", goals=[goal], artefact=f"{__name__}:Packed")
    gone = len(run.plan.removed)
    assert run.is_met
    assert run.artefact is not None
    assert run.artefact.num_bytes <= budget
    room = [early for early in fits if early < gone and LENGTHS[name](parameters_left(early)) < 0.95 * budget]
    assert not room, f"{room} removals fit with room to spare, {gone} were made"


def test_coming_back_up_makes_few_files(task, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(Packed, "length", staticmethod(_pages))
    Packed.made.clear()
    run = sn.prune(task, "magnitude", goals=[sn.FlashBytes(3000)], artefact=f"{__name__}:Packed", out=tmp_path / "run")
    assert run.is_met
    assert run.reason == "reached the goal, by measurement: at most 3,000 bytes of flash"
    assert len(run.plan.removed) == WIDTH - (150 - 3) // 8
    assert len(Packed.made) <= 3 + 6, "the untouched network's, the smallest one's, the last one's, and log2(40)"
    assert sn.load(tmp_path / "run", data=[(torch.randn(64, 4), torch.arange(64) % 3)], trust=True).is_met


def test_another_budget_of_a_run_comes_back_up_too(task, monkeypatch) -> None:
    monkeypatch.setattr(Packed, "length", staticmethod(_pages))
    run = sn.prune(task, "magnitude", goals=[sn.FlashBytes(3000)], artefact=f"{__name__}:Packed", whole_curve=True)
    again = run.at(sn.FlashBytes(3000))
    assert len(again.plan.removed) == len(run.plan.removed)
    assert again.is_met


def test_a_file_that_fits_is_met_where_a_guard_ends_the_search(task, monkeypatch) -> None:
    monkeypatch.setattr(Packed, "length", staticmethod(lambda parameters: 4 * parameters if parameters > 320 else 10))
    guarded = sn.Task(task.model, "cross-entropy", *[(torch.randn(64, 4), torch.arange(64) % 3)] * 2)
    run = sn.prune(guarded, goals=[sn.FlashBytes(700)], guards=[sn.LossRise(0.0)], artefact=f"{__name__}:Packed")
    assert "guard" in run.reason or run.is_met
    assert run.is_met == (run.artefact.num_bytes <= 700)


@pytest.mark.parametrize(("kind", "goal"), [
    ("executorch", sn.FlashBytes(500)), ("executorch", sn.PeakRamBytes(16)), ("onnx", sn.FlashBytes(100)),
], ids=["a .pte file", "an arena", "an .onnx file"])  # fmt: skip
def test_budgets_below_the_smallest_file_are_refused_at_the_start(task, kind, goal, tmp_path) -> None:
    pytest.importorskip({"executorch": "executorch", "onnx": "onnx"}[kind])
    with pytest.raises(
        sn.BadInputError,
        match=r"^goals must be within reach: at least [\d,]+ of [\d,]+ bytes of \w+ stay, whatever goes",
    ):
        sn.prune(task, "magnitude", goals=[goal], artefact=kind, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_many_neurons_go_several_at_a_step_unless_asked_otherwise(tmp_path, caplog) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(2, 2500), nn.ReLU(), nn.Linear(2500, 2))
    task = sn.Task(wide, "cross-entropy", (torch.randn(8, 2), torch.arange(8) % 2))
    with caplog.at_level("INFO", "shrinknet"):
        run = sn.prune(task, "random", "single-ranking", goals=[sn.RemovedNeurons(10)], out=tmp_path / "run")
    assert "3 neurons go at each step, as there are 2500: `step=1` takes one." in caplog.text
    assert [len(step.removed) for step in run.history] == [0, 3, 3, 3, 1]
    assert run.config.search.step == 3
    for one in (run, sn.load(tmp_path / "run", data=[(torch.randn(8, 2), torch.arange(8) % 2)])):
        assert (one.config.method, one.config.criterion) == ("single-ranking", "random")
    asked = sn.prune(task, "random", "single-ranking", goals=[sn.RemovedNeurons(4)], step=1)
    assert [len(step.removed) for step in asked.history] == [0, 1, 1, 1, 1]
    resumed = sn.prune(
        task, "random", "single-ranking", goals=[sn.RemovedNeurons(10)], out=tmp_path / "run", resume=True
    )
    assert resumed.plan == run.plan


class Pages(sn.Goal):
    """A goal of one's own about what is measured."""

    def __init__(self, most):
        self.most = most

    def reached(self, start, now):
        return now.costs.flash_bytes <= self.most


@pytest.mark.parametrize("name", ["as forecast", "longer the smaller"])
def test_an_own_goal_missed_by_measurement_goes_on_until_it_is_met(task, monkeypatch, name) -> None:
    monkeypatch.setattr(Packed, "length", staticmethod(LENGTHS[name]))
    own = sn.prune(task, "magnitude", goals=[Pages(1700)], artefact=Packed)
    ours = sn.prune(task, "magnitude", goals=[sn.FlashBytes(1700)], artefact=Packed)
    assert own.plan == ours.plan
    assert own.is_met
    assert own.artefact.num_bytes <= 1700 < own.artefact.forecast_bytes + 1000


def script(network: InferenceGraph, inputs: Tensor) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network.flat, in_rows(inputs)), file)
    return file.getvalue()


class Script(sn.Exporter):
    """As short as one may be: bytes, and what opens them."""

    def build(self, network, inputs, calibration, quantize):
        return script(network, inputs)

    def answer(self, content):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sn.by_tensors(torch.jit.load(io.BytesIO(content)))


class Raises(Script):
    def build(self, network, inputs, calibration, quantize):
        return {}["missing"]


class GivesText(Script):
    def build(self, network, inputs, calibration, quantize):
        return "text"


class GivesNoBytes(Script):
    def build(self, network, inputs, calibration, quantize):
        return bytearray(b"text")


class NoFunction(Script):
    def answer(self, content):
        return None


class Breaks(Script):
    def answer(self, content):
        return lambda rows: rows @ rows


class OneRow(Script):
    def answer(self, content):
        return lambda rows: super(OneRow, self).answer(content)(rows)[:1]


class Off(Script):
    def answer(self, content):
        return lambda rows: super(Off, self).answer(content)(rows) + 1


FAULTS = {
    Raises: r"must be given a network whose operators it knows\. Got this network: KeyError: 'missing'\. The network as",
    GivesText: r"must build the bytes of a file, or Built\(bytes, \.\.\.\)\. Got str\.",
    GivesNoBytes: r"must build the bytes of a file, or Built\(bytes, \.\.\.\)\. Got bytearray\.",
    NoFunction: r"must open its own file and run it on rows\. Got TypeError: 'NoneType' object is not callable\.",
    Breaks: r"must open its own file and run it on rows\. Got RuntimeError: .*\. Mend what its answer returns\.",
    OneRow: r"must answer with outputs \[64, 3\] here\. Got \[1, 3\]\.",
    Off: r"must give a file that computes what torch computes\. Got a worst difference of",
}


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_what_an_exporter_of_ones_own_does_wrong_is_one_sentence_that_names_it(task, kind) -> None:
    with pytest.raises(sn.ExportError, match=rf"^artefact='(\w+:)?{kind.__name__}' {FAULTS[kind]}"):
        sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(3)], artefact=kind)


def test_packages_that_are_not_there_are_named(task, monkeypatch) -> None:
    monkeypatch.setattr(Script, "packages", ("no_such_package",))
    with pytest.raises(
        sn.BadInputError,
        match=r"^artefact='Script' must be used where 'no_such_package' is installed\..*Run: pip install no_such_package$",
    ):
        sn.prune(task, artefact=Script())


@pytest.mark.parametrize("kind", [f"{__name__}:Script", Script, Script()], ids=["path", "class", "object"])
def test_an_own_exporter_is_given_by_path_class_or_object(task, tmp_path, kind) -> None:
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(3)], artefact=kind, out=tmp_path / "run")
    assert run.artefact.kind == RunFolder(tmp_path / "run").config["artefact"] == f"{__name__}:Script"
    assert (tmp_path / "run/artefacts/model.script").read_bytes() == run.shipped.content


def rows() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(64, 4), torch.arange(64) % 3)]


def test_a_file_of_an_own_exporter_asks_for_it_when_it_is_used(task, tmp_path, caplog) -> None:
    """Opening, cutting and other files want nothing."""
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(3)], out=tmp_path / "run")
    with caplog.at_level("WARNING", "shrinknet"):
        run.export(Script)
    assert (
        "artefacts/model.script is of an exporter of your own: whoever verifies the run says `trust=True`."
        in caplog.text
    )
    opened = sn.load(tmp_path / "run", data=rows())
    assert opened.at(sn.RemovedNeurons(5)).verification.holds
    opened.export("pt2")
    asked = rf"^artefact must be named again where it is code.* Got '{__name__}:Script' in the folder\. If .*or say `trust=True`\."
    with pytest.raises(sn.BadInputError, match=asked):
        check_files(opened)
    for named in ({"trust": True}, {"artefact": Script()}):
        checks = check_files(sn.load(tmp_path / "run", data=rows(), **named))
        assert checks["artefacts/model.script"].holds


def test_an_exporter_that_cannot_be_imported_is_given_again(task, tmp_path) -> None:
    class Mine(Script):
        """As one in a notebook."""

    sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(3)], artefact=Mine(), out=tmp_path / "run")
    assert RunFolder(tmp_path / "run").config["artefact"] == "Mine"
    opened = sn.load(tmp_path / "run", data=rows(), trust=True)
    assert opened.artefact.kind == "Mine"
    with pytest.raises(
        sn.BadInputError, match=r"Got 'Mine' in the folder\. If that exporter is your own, give it here once more\.$"
    ):
        opened.at(sn.RemovedNeurons(5))
    again = sn.load(tmp_path / "run", data=rows(), artefact=Mine)
    assert again.at(sn.RemovedNeurons(5)).artefact.kind == "Mine"
    assert all(one.holds for one in check_files(again).values())


def test_sizes_that_a_file_fixes_are_refused_before_anything_is_scored(monkeypatch) -> None:
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.two(self.one(x).relu().mean(1))

    free = sn.Task(Pooled(), "cross-entropy", (torch.randn(20, 5, 4), torch.arange(20) % 3), free={"x": [1]})
    monkeypatch.setattr("shrinknet.run.driver.first_step", lambda *given: pytest.fail("too late"))
    with pytest.raises(
        sn.BadInputError,
        match=r"^artefact must be `artefact='executorch'`, `artefact='onnx'` or `artefact='pt2'` for a task with free sizes, which other files fix\. Got `artefact='.*:Script'`\.",
    ):
        sn.prune(free, goals=[sn.RemovedNeurons(1)], artefact=Script)
