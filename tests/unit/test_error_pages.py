"""Each exception has a page with its symptom, cause and mend; its words are those of the error itself."""

import inspect
import re
import traceback
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.main import get_command

import shrinknet as sn
from shrinknet.cli import main as command_line
from shrinknet.cli.words import in_flags
from shrinknet.core import errors
from shrinknet.core.records import Verification
from shrinknet.execution.processes import MOST_DEATHS, Processes
from shrinknet.export.onnx import Onnx

ROOT = Path(__file__).resolve().parents[2]
KINDS = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.ShrinknetError)]
ROWS = torch.randn(20, 4), torch.arange(20) % 3
IMAGES = torch.randn(20, 1, 8, 8), torch.arange(20) % 3


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 6, 3), nn.Linear(216, 3)

    def forward(self, x):
        return self.out(self.conv(x).relu().view(-1, 216))


def dense() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def pruned(model: nn.Module, rows=ROWS, **options: object) -> sn.Run:
    return sn.prune(sn.Task(model, "cross-entropy", rows), "magnitude", goals=[sn.RemovedNeurons(2)], **options)


def recursion_through_a_convolution(_: Path, patch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    sn.rank(sn.Task(model, "cross-entropy", IMAGES), "taylor-2-diagonal")


def file_that_computes_something_else(_: Path, patch: pytest.MonkeyPatch) -> None:
    answer = Onnx.answer
    patch.setattr(Onnx, "answer", lambda self, content: lambda rows: answer(self, content)(rows) + 1)
    pruned(dense(), artefact="onnx")


def workers_that_die(_: Path, patch: pytest.MonkeyPatch) -> None:
    def dying(self, shards):
        raise BrokenProcessPool

    patch.setattr(Processes, "_run", dying)
    sn.rank(sn.Task(dense(), "cross-entropy", ROWS), scoring=sn.Scoring(executor="processes", workers=2))


RAISED: dict[type[Exception], tuple[Callable[[Path, pytest.MonkeyPatch], object], tuple[str, ...]]] = {
    sn.BadInputError: (
        lambda folder, patch: pruned(dense(), step=0),
        ("--step must be a whole number of at least 1. Got 0. Leave it out to remove one at a time.",),
    ),
    sn.UnfollowedOperatorError: (
        recursion_through_a_convolution,
        ("Cannot take the paper's second-order recursion through", "are for networks of dense layers. Use 'taylor-2'"),
    ),
    sn.NothingToRemoveError: (
        lambda folder, patch: pruned(nn.Linear(4, 3)),
        ("model must be a network with neurons that can be removed. Got one where every neuron is frozen (network out",
         "See 'shrinknet inspect'."),
    ),
    sn.FixedWidthError: (
        lambda folder, patch: pruned(Fixed(), IMAGES).model,
        ("The model's own Python code fixes a width (", "in forward:", "shape '[-1, 216]' is invalid for input of size",
         "Use the exported form (run.exported, model.pt2), which is there and proven. With --keep conv the class comes"),
    ),
    sn.VerificationError: (
        lambda folder, patch: Verification((), 0, "'conv2'").raise_if_broken(),
        ("NOT proven: masked and cut networks differ at 'conv2'.",),
    ),
    sn.ExportError: (
        file_that_computes_something_else,
        ("--to onnx must give a file that computes what torch computes. Got a worst difference of", "the tolerance is",
         "Use another exporter."),
    ),
    sn.RunFolderError: (
        lambda folder, patch: sn.load(folder),
        ("RUN must be a run folder, written by 'shrinknet prune'. Got", "which has no config.json. Check the path."),
    ),
    sn.WorkerError: (
        workers_that_die,
        (f"Workers must live to finish a shard. Got {MOST_DEATHS} deaths with none finished. Look for 'out of memory' in",
         "give less --memory, or fewer --workers."),
    ),
}  # fmt: skip


def words_of(page: str) -> str:
    return " ".join((ROOT / page).read_text().replace("\n> ", " ").split())


@pytest.mark.parametrize("kind", KINDS)
def test_each_exception_is_public_and_has_a_page_of_its_own(kind: type[errors.ShrinknetError]) -> None:
    assert getattr(sn, kind.__name__) is kind
    assert kind.page not in {one.page for one in KINDS if one is not kind}
    text = (ROOT / kind.page).read_text()
    assert kind.page.removeprefix("docs/") in (ROOT / "mkdocs.yml").read_text()
    if kind is not errors.ShrinknetError:
        assert text.startswith(f"# {kind.__name__}\n")
        assert re.findall("^## (.*)$", text, re.MULTILINE) == ["Symptom", "Cause", "Mend"]
        assert f"[{kind.__name__}]({Path(kind.page).name})" in (ROOT / errors.ShrinknetError.page).read_text()


def test_every_exception_is_raised_here() -> None:
    assert {errors.ShrinknetError, *RAISED} == set(KINDS)


@pytest.mark.parametrize("kind", RAISED)
def test_the_symptom_on_the_page_is_what_the_error_says(kind, tmp_path, monkeypatch) -> None:
    does_it, parts = RAISED[kind]
    with pytest.raises(kind) as told:
        does_it(tmp_path, monkeypatch)
    assert type(told.value) is kind
    said = in_flags(str(told.value), get_command(command_line.app), ["prune"])
    for part in parts:
        assert part in said
        assert part in words_of(kind.page)
    printed = "".join(traceback.format_exception_only(told.value)).splitlines()
    assert printed[-1] == (
        f"See {kind.page}." if kind is not sn.BadInputError else f"{kind.__module__}.{kind.__name__}: {told.value}"
    )


def test_the_command_line_names_the_page_once_below_what_is_no_bad_input(tmp_path, monkeypatch, capsys) -> None:
    def typed(*words: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["shrinknet", *words])
        with pytest.raises(SystemExit, match="2"):
            command_line.main()
        return capsys.readouterr().err.splitlines()

    sentence, page = typed("report", str(tmp_path))
    assert sentence.startswith("RUN must be a run folder")
    assert page == "See docs/errors/run-folder.md."
    assert len(typed("inspect", str(tmp_path / "none.pt2"))) == 1
