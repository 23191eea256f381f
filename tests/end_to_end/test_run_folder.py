"""A run folder: nothing in it changes without a word, nothing it says is run, and no kill, disk or link breaks it."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.cli import console
from shrinknet.core.folder import RunFolder, digest_of_plan
from shrinknet.core.records import Difference, Manifest
from shrinknet.core.sealed import SEAL
from shrinknet.report.page import write_page
from shrinknet.run.checking import check_files

ROWS = torch.randn(40, 4, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 2
GOALS = [sn.RemovedNeurons(4)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2))


def task(loss: Any = "cross-entropy") -> sn.Task:
    return sn.Task(network(), loss, ROWS, ROWS, ROWS)


def prune(out: Path, **options: Any) -> sn.Run:
    return sn.prune(task(), "magnitude", goals=GOALS, out=out, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    prune(out, step=2)
    return out


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def bits(folder: Path) -> dict[str, bytes]:
    """The files of a run, without the clock and the page that shows it."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    text = found.pop("history.csv").decode()
    found["history"] = "\n".join(
        ",".join(line.split(",")[:-2] + line.split(",")[-1:]) for line in text.splitlines()
    ).encode()
    return {name: content for name, content in found.items() if name not in {SEAL, "report/index.html"}}


EDITS = ["config.json", "environment.json", "groups.json", "history.csv", "plan.json", "original.pt2",
         "verification.json", "summary.json", "answers.csv", "architecture.json"]  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("change", ["edited", "missing"])
def test_what_was_changed_is_refused_by_whoever_opens_it(name: str, change: str, copied) -> None:
    content = (copied / name).read_bytes()
    if change == "edited":
        (copied / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    else:
        (copied / name).unlink()
    with pytest.raises(sn.RunFolderError, match=r"^folder must be "):
        sn.load(copied, data=[ROWS, ROWS, ROWS])


def test_a_table_that_was_added_is_refused_and_a_strangers_file_is_not(copied) -> None:
    (copied / ".DS_Store").write_text("a file manager was here")
    assert sn.load(copied, data=[ROWS]).is_met
    (copied / "racing.csv").write_text("step,group\n")
    with pytest.raises(sn.RunFolderError, match=r"whose 'racing.csv' was changed, added or taken away since"):
        sn.load(copied, data=[ROWS])


def edited(folder: Path, name: str, change: Any) -> None:
    """Change a JSON file and make hash and seal fit again, as somebody with time would."""
    content = json.loads((folder / name).read_text())
    change(content)
    if name == "plan.json":
        content["sha256"] = digest_of_plan(content)
    (folder / name).write_text(json.dumps(content))
    RunFolder(folder).seal()


def _reverse(plan: Any) -> None:
    plan["removed"].reverse()


def _keep_others(plan: Any) -> None:
    plan["kept"]["0.weight"]["0"] = [0, 1, 2, 3, 4]


@pytest.mark.parametrize("change", [_reverse, _keep_others])
def test_what_stands_twice_must_agree_even_where_it_is_sealed(change, copied) -> None:
    edited(copied, "plan.json", change)
    with pytest.raises(sn.RunFolderError, match=r"^plan.json must say what the rest of the run folder says"):
        sn.load(copied, data=[ROWS])


@pytest.mark.parametrize("as_text", [True, False])
def test_an_edited_plan_is_not_applied(as_text: bool, copied) -> None:
    plan = json.loads((copied / "plan.json").read_text())
    assert sn.apply_plan(network(), copied)[0].out_features == 5
    _keep_others(plan)
    (copied / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(sn.BadInputError, match=r"Got one that was changed since it was written"):
        sn.apply_plan(network(), plan if as_text else copied)


def test_other_weights_are_another_network(copied) -> None:
    torch.manual_seed(5)
    other = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2))
    with pytest.raises(sn.RunFolderError, match=r"^model must be the network that the run began with"):
        sn.load(copied, model=other, data=[ROWS])
    assert isinstance(sn.load(copied, model=network(), data=[ROWS]).model[0], nn.Linear)


@pytest.mark.parametrize(
    "verb", [("verify",), ("cut", "--remove", "5", "--out", "small"), ("report",), ("export", "--to", "pt2")]
)
def test_the_verbs_look(verb: tuple[str, ...], copied, type_command) -> None:
    (copied / "summary.json").write_text((copied / "summary.json").read_text().replace("true", "false"))
    answer = type_command(verb[0], copied, *verb[1:])
    assert answer.status == 2
    assert "whose 'summary.json' was changed, added or taken away since." in answer.err


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt2"])
def test_verify_sees_a_change_that_is_smaller_than_its_tolerance(name: str, copied, type_command, tmp_path) -> None:
    np.savez(tmp_path / "data.npz", inputs=ROWS[0].numpy(), targets=ROWS[1].numpy(), split=np.arange(40) % 3)
    assert type_command("verify", copied, "--data", tmp_path / "data.npz").status == 0
    content = bytearray((copied / name).read_bytes())
    if name == "model.pt2":
        content += b"\0"
    else:
        content[-4] ^= 1  # the last bit of a weight
    (copied / name).write_bytes(bytes(content))
    answer = type_command("verify", copied, "--data", tmp_path / "data.npz")
    assert answer.status == 1
    assert f"NOT verified: {name}." in answer.err


def test_other_statistics_of_a_norm_are_another_network(tmp_path) -> None:
    def normed() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 2)).eval()

    sn.prune(sn.Task(normed(), "cross-entropy", ROWS), "magnitude", goals=GOALS, out=tmp_path / "run")
    assert sn.load(tmp_path / "run", model=normed(), data=[ROWS]).is_met
    other = normed()
    other[1].running_mean += 1
    with pytest.raises(sn.RunFolderError, match=r"Got one with other weights in '1.running_mean'"):
        sn.load(tmp_path / "run", model=other, data=[ROWS])


def test_an_export_into_the_folder_is_sealed_with_it(copied) -> None:
    run = sn.load(copied, data=[ROWS])
    run.export("pt2")
    assert sn.load(copied, data=[ROWS]).is_met
    (copied / "artefacts" / "model.pt2").write_bytes(b"another")
    with pytest.raises(sn.RunFolderError, match=r"whose 'artefacts/model.pt2' was changed"):
        sn.load(copied, data=[ROWS])


@pytest.mark.parametrize(
    "kind", ["a line is missing", "a line is edited", "lines change places", "a column is missing"]
)
def test_a_changed_history_ends_a_resumed_run_in_a_sentence(kind: str, copied) -> None:
    lines = (copied / "history.csv").read_text().splitlines(keepends=True)
    if kind == "a line is missing":
        lines.pop(2)
    elif kind == "a line is edited":
        lines[2] = lines[2].replace("0.", "1.", 1)
    elif kind == "lines change places":
        lines[1:] = lines[:0:-1]
    else:
        lines = [line.rpartition(",")[0] + "\n" for line in lines]
    (copied / "history.csv").write_text("".join(lines))
    with pytest.raises(sn.RunFolderError, match=r"^folder must be a run folder whose history.csv shrinknet wrote"):
        prune(copied, step=2, resume=True)


def test_a_history_without_its_end_is_gone_on_with(finished, copied) -> None:
    lines = (copied / "history.csv").read_text().splitlines(keepends=True)
    (copied / "history.csv").write_text("".join(lines[:-1]))  # a step of which only one row was written
    prune(copied, step=2, resume=True)
    assert bits(copied) == bits(finished)


class KilledError(BaseException):
    """The process ends here: nothing that catches errors sees it."""


def killed_at(monkeypatch, place: int, work: Any, name: str = "replace") -> None:
    """Work in a process that ends before the k-th time that a file takes its place, or is synced."""
    count, real = [0], getattr(os, name)

    def counted(*given: Any) -> Any:
        count[0] += 1
        if count[0] == place:
            raise KilledError
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, counted)
        with pytest.raises(KilledError):
            work()


@pytest.mark.parametrize(("name", "place"), [
    *(("replace", place) for place in (1, 2, 3, 4, 6, 9, 11)), *(("fsync", place) for place in (1, 4, 5, 6, 7, 8)),
])  # fmt: skip
def test_a_kill_at_any_file_leaves_a_run_that_resumes_to_the_same_bits(
    name: str, place: int, finished, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "run"
    for _ in range(2):  # the second one where the first resumed run stands
        killed_at(monkeypatch, place, lambda: prune(out, step=2, resume=True), name)
    prune(out, step=2, resume=True)
    assert bits(out) == bits(finished)
    assert not list(out.rglob(".*.part"))


@pytest.mark.parametrize("place", [1, 3, 5, 7])
def test_a_training_killed_at_any_file_ends_in_the_same_bits(place: int, tmp_path, monkeypatch) -> None:
    def train(out: Path) -> None:
        sn.sparsify(task(), "gradual-threshold", epochs=3, batch_size=10, out=out, resume=True)

    train(tmp_path / "whole")
    killed_at(monkeypatch, place, lambda: train(tmp_path / "broken"))
    train(tmp_path / "broken")
    for name in ("state.safetensors", "model.safetensors", "masks.safetensors", "sparse.safetensors", "summary.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_run_that_is_not_finished_is_told_how_to_go_on(tmp_path) -> None:
    class Stops:
        def ranking(self, done: int, total: int) -> None: ...

        def tell(self, what: str, fraction: float) -> None: ...

        def step(self, step: Any, fraction: float) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path / "run", progress=Stops())
    with pytest.raises(
        sn.RunFolderError, match=r"^folder must be a finished run\. Got .*, which has no plan\.json\. Go on"
    ):
        sn.load(tmp_path / "run", data=[ROWS])


def test_a_folder_is_written_by_one_run_at_a_time(copied) -> None:
    with RunFolder(copied).held(), pytest.raises(sn.RunFolderError, match=r"in which a run is under way. Wait until"):
        prune(copied, step=2, resume=True)
    prune(copied, step=2, resume=True)


@pytest.mark.parametrize(("signals", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_is_stopped_is_told_how_to_go_on(signals, status: int, tmp_path, type_command, monkeypatch) -> None:
    words = ("prune", "nets_of_a_stranger:build", "--weights", "weights.safetensors", "--data", "data.npz", "--criterion",
             "magnitude", "--remove", "3", "--out", tmp_path / "run")  # fmt: skip
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts deaf to Ctrl-C
    with monkeypatch.context() as patch:
        patch.setattr(console.Bar, "step", lambda *given: os.kill(os.getpid(), signals))
        answer = type_command(*words)
    signal.signal(signal.SIGINT, before)
    assert answer.status == status
    assert f"Stopped; what was done is in {tmp_path / 'run'}. Go on with the same command and --resume." in answer.err
    assert type_command(*words, "--resume").status == 0


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "there is no space left on the disk. Free some space, then resume the run."),
        (errno.EROFS, "the disk can only be read. Name a folder on another disk."),
        (errno.EACCES, "nothing may be written there. Change its permissions, or name another folder."),
        (errno.EIO, "Input/output error. Look at the disk."),
    ],
)
def test_a_disk_that_takes_no_more_is_one_sentence(number: int, words: str, tmp_path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(sn.RunFolderError) as caught:
            prune(tmp_path / "run")
    assert str(caught.value) == (
        f"out must be a folder that can be written to. Got '{tmp_path}/run/config.json', which cannot be written: {words}"
    )
    prune(tmp_path / "run")


def test_a_folder_that_is_gone_is_one_sentence(tmp_path) -> None:
    class Deletes:
        def ranking(self, done: int, total: int) -> None: ...

        def tell(self, what: str, fraction: float) -> None: ...

        def step(self, step: Any, fraction: float) -> None:
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(sn.RunFolderError, match=r"which cannot be written: its folder is gone"):
        prune(tmp_path / "run", progress=Deletes())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["report/.index.html.part", "report", "history.csv", ".config.json.part", "artefacts"])
def test_nothing_is_written_through_a_link(name: str, copied, tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "victim"
    victim.write_text("untouched")
    shutil.rmtree(copied / name) if (copied / name).is_dir() else (copied / name).unlink(missing_ok=True)
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).symlink_to(victim if "." in Path(name).name else outside)
    with pytest.raises(sn.RunFolderError, match=r"is a link or a device"):
        prune(copied, step=2, resume=True)
    with pytest.raises(sn.RunFolderError, match=r"is a link or a device"):
        sn.load(copied, data=[ROWS])
    folder = RunFolder(copied)  # and where somebody puts it there after the look
    for write in (
        lambda: write_page([folder], copied / "report" / "index.html"),
        lambda: folder.write("artefacts/a", b"x"),
        lambda: folder.append(folder_step()),
    ):
        with contextlib.suppress(sn.ShrinknetError):
            write()
    assert victim.read_text() == "untouched"
    assert [path.name for path in outside.iterdir()] == ["victim"]


def folder_step() -> sn.Step:
    costs = sn.Costs(1, 1, 1, 1, 1)
    return sn.Step(9, (sn.Neuron("0", 1),), (0.0,), sn.Measures(0.0, None, costs), 0.0)


EVIL = """
from pathlib import Path
Path(__file__).with_name("i-was-here").touch()
import torch
def rows():
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    return (x, torch.arange(40) % 2),
def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
"""


@pytest.mark.parametrize("what", ["data", "loss", "accuracy"])
def test_nothing_that_a_folder_names_is_imported(what: str, copied, tmp_path, monkeypatch) -> None:
    (tmp_path / f"evil_{what}.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"evil_{what}:{'rows' if what == 'data' else 'loss'}"
    edited(copied, "config.json", lambda config: config.update({what: name}))
    data = None if what == "data" else [ROWS]
    if what == "accuracy":
        sn.load(copied, data=data)
    else:
        with pytest.raises(sn.BadInputError, match=rf"^{what} must be named again where it is code.*Got '{name}'"):
            sn.load(copied, data=data)
    assert not (tmp_path / "i-was-here").exists()
    if what != "accuracy":
        assert sn.load(copied, data=data, trust=True).is_met
        assert (tmp_path / "i-was-here").exists()


@pytest.mark.parametrize("where", ["config.json", "artefacts/model.json"])
def test_no_exporter_that_a_folder_names_is_imported(where: str, copied, tmp_path, monkeypatch) -> None:
    module = f"evil_{where[:6]}"
    (tmp_path / f"{module}.py").write_text(EVIL + "class Exporter: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder, name = RunFolder(copied), f"{module}:Exporter"
    if where == "config.json":
        edited(copied, where, lambda config: config.update({"artefact": name}))
    else:
        (copied / "artefacts").mkdir(exist_ok=True)
        (copied / "artefacts" / "model").write_bytes(b"evil")
        digest = hashlib.sha256(b"evil").hexdigest()
        same = Difference("float32", 0.0, 1.0, 1)
        folder.write_json(
            where,
            Manifest(name, "none", "model", 4, digest, None, 4, None, (), (), same, "torch", 0.0, {}, 1, True, {}),
        )
        folder.seal()
    opened = sn.load(copied, data=[ROWS])
    with pytest.raises(sn.BadInputError, match=rf"^artefact must be named again where it is code: .*Got '{name}'"):
        _ = opened.ships.exporter if where == "config.json" else check_files(opened)
    assert not (tmp_path / "i-was-here").exists()
    trusted = sn.load(copied, data=[ROWS], trust=True)
    with pytest.raises(sn.BadInputError, match=r"^artefact must be the name of an exporter\. Got .* which is none"):
        _ = trusted.ships.exporter if where == "config.json" else check_files(trusted)
    assert (tmp_path / "i-was-here").exists(), "the trap works"


def halves(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none") / 2


def test_a_run_with_a_loss_of_its_own_opens_again(tmp_path) -> None:
    sn.prune(task(halves), "magnitude", goals=GOALS, out=tmp_path / "named")
    assert RunFolder(tmp_path / "named").config["loss"] == f"{__name__}:halves"
    run = sn.load(tmp_path / "named", data=[ROWS], loss=halves)
    assert run.at(sn.RemovedNeurons(6)).verification.holds
    assert sn.load(tmp_path / "named", data=[ROWS], trust=True).measures == run.measures
    sn.prune(
        task(lambda outputs, targets: halves(outputs, targets)), "magnitude", goals=GOALS, out=tmp_path / "nameless"
    )
    with pytest.raises(sn.BadInputError, match=r"^loss must be given for a run with a loss of its own. Got '.*lambda"):
        sn.load(tmp_path / "nameless", data=[ROWS])
    assert sn.load(tmp_path / "nameless", data=[ROWS], loss=halves).measures == run.measures


def test_a_run_computes_with_as_many_threads_as_it_began_with(copied, monkeypatch) -> None:
    edited(copied, "environment.json", lambda environment: environment.update(num_threads=3))
    before, seen = torch.get_num_threads(), []
    real = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda count: (seen.append(count), real(count)))
    sn.load(copied, data=[ROWS])
    prune(copied, step=2, resume=True)
    assert seen.count(3) == 3
    assert torch.get_num_threads() == before
    assert json.loads((copied / "environment.json").read_text())["num_threads"] == 3


def test_hundreds_of_hostile_folders(finished, tmp_path) -> None:
    """JSON and tables with values at random places replaced, hashes and seal made to fit: one sentence, or it loads."""
    draw = np.random.default_rng(0)
    planted: list[Any] = ["x", "", 10**400, -1, 1e308, True, None, [], {}, [[]], "evil:f", "1" * 5000, "../../x", 0.5]
    jsons = ["config.json", "environment.json", "groups.json", "plan.json", "summary.json", "verification.json",
             "architecture.json"]  # fmt: skip
    refused, folder = 0, tmp_path / "run"
    for number in range(200):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished, folder)
        if number % 4 < 3:
            name = jsons[int(draw.integers(len(jsons)))]
            content = json.loads((folder / name).read_text())
            plant(content, planted, draw)
            (folder / name).write_text(json.dumps(content))
        else:
            name = ("history.csv", "answers.csv")[int(draw.integers(2))]
            text = (folder / name).read_text().splitlines()
            row = int(draw.integers(len(text)))
            cells = text[row].split(",")
            cells[int(draw.integers(len(cells)))] = str(planted[int(draw.integers(len(planted)))])[:6000]
            text[row] = ",".join(cells)
            (folder / name).write_text("\n".join(text) + "\n")
        RunFolder(folder).seal()
        refused += any([is_refused(lambda: write_page([RunFolder.open(folder)], folder / "report" / "index.html")),
                        number % 4 == 0 and is_refused(lambda: sn.load(folder, data=[ROWS, ROWS, ROWS]))])  # fmt: skip
    assert 20 < refused < 200


def is_refused(opened: Any) -> bool:
    try:
        opened()
    except sn.ShrinknetError as error:
        return "\n" not in str(error) or pytest.fail(f"more than one line: {error}")
    return False


def plant(content: Any, planted: list[Any], draw: np.random.Generator) -> None:
    """Replace one value somewhere in a tree."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = keys[int(draw.integers(len(keys)))]
        if not (isinstance(content[key], dict | list) and content[key]) or draw.random() < 0.1:
            break
        content = content[key]
    content[key] = planted[int(draw.integers(len(planted)))]
