"""What the documentation says is true: its code runs, its commands run in their order, no criterion lacks a page."""

import json
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import shrinknet as sn
from shrinknet.core.folder import RunFolder
from shrinknet.criteria import criterion_names
from shrinknet.recipes.catalogue import recipes

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tutorial_is_what_a_newcomer_types(tmp_path, type_command, monkeypatch) -> None:
    page = DOCS / "tutorial.md"
    code = "\n".join(blocks(page, "python"))
    said = run_python(code + "\nassert sum(p.numel() for p in small.parameters()) < 5000", tmp_path)
    assert "proven: masked and cut outputs differ by at most" in said
    typed = [shlex.split(line) for block in blocks(page, "sh") for line in block.splitlines()]
    assert [words[1] for words in typed] == ["inspect", "rank", "prune", "analyse", "analyse", "cut", "verify"]
    for words in typed:
        monkeypatch.chdir(tmp_path)
        answer = type_command(*words[1:])
        assert answer.status == 0, (words, answer.err)
    assert (tmp_path / "run" / "report" / "index.html").exists()
    assert (tmp_path / "smaller" / "model.pt2").stat().st_size < (tmp_path / "run" / "model.pt2").stat().st_size


def test_an_lstm_is_pruned_as_the_page_says(tmp_path) -> None:
    said = run_python("\n".join(blocks(DOCS / "how-to" / "lstm.md", "python")), tmp_path)
    assert int(said.strip()) < 24


def test_every_kind_of_task_is_pruned_as_the_page_says(tmp_path) -> None:
    page = blocks(DOCS / "how-to" / "task.md", "python")
    found = "assert all(one.is_met and one.verification.holds for one in [run])"
    run_python("\n".join([page[0], *(f"{block}\n{found}" for block in page[1:-1]), page[-1]]), tmp_path)


def test_every_loss_is_taken_as_the_page_says(tmp_path) -> None:
    found = "assert run.verification.holds and all(one.is_met for one in runs)"
    run_python("\n".join([*blocks(DOCS / "how-to" / "losses.md", "python"), found]), tmp_path)


def test_a_criterion_of_one_small_file_works_as_the_page_says(tmp_path) -> None:
    code = "\n".join(blocks(DOCS / "how-to" / "criterion.md", "python"))
    code += """
import torch
from torch import nn
import shrinknet as sn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
x = torch.randn(50, 4)
task = sn.Task(model, "cross-entropy", (x, torch.arange(50) % 2), batch_size=16)
scores = dict(sn.rank(task, SquaredActivation()))
said = model[:2](x).detach().double().square().mean(0)
assert all(abs(scores[sn.Neuron("0", k)] - float(said[k])) < 1e-6 for k in range(6))
assert sn.prune(task, SquaredActivation(), goals=[sn.RemovedNeurons(3)]).is_met
print("as the page says")
"""
    assert run_python(code, tmp_path).endswith("as the page says\n")


def test_contributing_holds_a_whole_criterion(type_command, folder) -> None:
    """Ten lines at most; as they stand they score in Python, and on the command line by their import path."""
    (code,) = (block for block in blocks(ROOT / "CONTRIBUTING.md", "python") if "(Criterion)" in block)
    assert len(code.splitlines()) <= 10
    (folder / "criterion_as_contributing_has_it.py").write_text(code)
    from criterion_as_contributing_has_it import Answering
    from nets_of_a_stranger import build

    model, arrays = build(), np.load(folder / "data.npz")
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    rows = [torch.from_numpy(arrays[name][arrays["split"] == 0]) for name in ("inputs", "targets")]
    ranked = sn.rank(sn.Task(model, "cross-entropy", tuple(rows)), Answering())
    for place, name in ((2, "0"), (4, "2")):
        shares = (model[:place](rows[0]) != 0).double().mean(0).tolist()
        np.testing.assert_allclose([dict(ranked)[sn.Neuron(name, k)] for k in range(len(shares))], shares, rtol=1e-12)

    words = ("nets_of_a_stranger:build", "--weights", "weights.safetensors", "--data", "data.npz")
    typed = ("--criterion", "criterion_as_contributing_has_it:Answering")
    said = type_command("rank", *words, *typed)
    assert said.status == 0, said.err
    assert [line.split(",")[1:3] for line in said.out.splitlines()[1:]] == [[n.group, str(n.index)] for n, _ in ranked]
    refused = type_command("rank", *words, *typed, "--first", "3")
    assert "--first must be used with ablation, unclipped. Got --criterion answering" in " ".join(refused.err.split())


def of_contributing(base: str, most: int = 10) -> str:
    """The whole file that CONTRIBUTING.md shows of a class with that base, of so many lines of code at most."""
    (code,) = (block for block in blocks(ROOT / "CONTRIBUTING.md", " *python") if f"({base})" in block)
    code = textwrap.dedent(code)
    assert len([line for line in code.splitlines() if line.strip()]) <= most
    return code


def test_contributing_holds_a_whole_metric_and_a_whole_goal(type_command, folder) -> None:
    """As they stand they measure and end a run, by their import path and in Python."""
    (folder / "metric_of_contributing.py").write_text(of_contributing("Metric"))
    (folder / "goal_of_contributing.py").write_text(of_contributing("Budget"))
    words = (
        "prune",
        "nets_of_a_stranger:build",
        "--weights",
        "weights.safetensors",
        "--data",
        "data.npz",
        "--out",
        "own",
    )
    own = (
        "--metric",
        "metric_of_contributing:Margin",
        "--max-drop",
        "margin=99",
        "--goal",
        "goal_of_contributing:MillionMacs=0.001",
    )
    said = type_command(*words, *own, "--criterion", "magnitude")
    assert said.status == 0, said.err
    from goal_of_contributing import MillionMacs

    run = RunFolder.open(folder / "own")
    after = run.ending().after
    assert after.costs.macs <= MillionMacs("0.001").budget == 1000 < run.history()[-2].measures.costs.macs
    assert list(after.metrics) == ["accuracy", "margin"]


def test_contributing_holds_a_whole_exporter(type_command, folder) -> None:
    """As it stands its file is made within a budget, forecast to the byte, run by numpy, and verified."""
    (folder / "exporter_of_contributing.py").write_text(of_contributing("Exporter", 60))
    words = ("--weights", "weights.safetensors", "--data", "data.npz", "--criterion", "magnitude", "--out", "npz")
    typed = ("--to", "exporter_of_contributing:DenseNpz", "--flash", "4KiB")
    said = type_command("prune", "nets_of_a_stranger:build", *words, *typed)
    assert said.status == 0, said.err
    manifest = json.loads((folder / "npz/artefacts/model.npz.json").read_text())
    size = (folder / "npz/artefacts/model.npz").stat().st_size
    assert manifest["num_bytes"] == manifest["forecast_bytes"] == size <= 4096
    assert type_command("verify", "npz", "--trust").status == 0


def test_every_criterion_has_a_page_of_theory_and_stands_in_the_table() -> None:
    pages = "\n".join(page.read_text() for page in (DOCS / "theory").glob("*.md"))
    nav, table = (ROOT / "mkdocs.yml").read_text(), (DOCS / "theory" / "index.md").read_text()
    for name in criterion_names():
        assert re.search(rf"^# .*\b{re.escape(name)}\b", pages, re.MULTILINE), name
        assert name in nav
        assert name in table
        assert f"shrinknet.criteria.{name.replace('-', '_')}" in (DOCS / "reference" / "criteria.md").read_text()


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it: warnings are errors, and are counted only where they are said."""
    site = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return site


def test_the_site_is_whole_and_asks_no_other_machine(site) -> None:
    """Every link and formula. No page asks another machine for anything."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30 + len(recipes())
    for page in pages:
        text = page.read_text()
        found = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', text)
        assert [url for url in found if "canonical" not in url] == [], page
    theory = (site / "theory" / "taylor-2.html").read_text()
    formulas = re.findall(r"\\[(\[]", (DOCS / "theory" / "taylor-2.md").read_text())
    assert theory.count("<math") == len(formulas) > 5
    assert "arithmatex" not in theory
    gallery = (site / "gallery.html").read_text()
    for name in recipes():
        assert f'href="recipes/{name}/index.html"' in gallery
        assert (site / "recipes" / name / "index.html").exists()
    paper = (site / "paper.html").read_text()
    assert "0.898" in paper, "the published accuracy at 70 removed"
    assert "analyse surface" in (site / "reference" / "commands.html").read_text()

    trace = (site / "reference" / "run.html").read_text()
    assert "&gt;&gt;&gt;" in trace, "examples are code"
    assert "<blockquote>" not in trace


READ = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "DESIGN.md", "CHANGELOG.md")), *DOCS.rglob("*.md")]


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)


def linked(page: Path) -> list[tuple[Path, str]]:
    """What a page links to in the repository, as a code host follows it: files, and headings in them."""
    found = re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", prose(page))
    return [((page.parent / path).resolve() if path else page, heading) for path, heading in found]


def headings(page: Path) -> set[str]:
    said = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in said}


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere_where_the_repository_is_read(page: Path) -> None:
    for path, heading in linked(page):
        assert path.exists(), f"{path} of {page}"
        assert path.is_relative_to(ROOT)
        assert not heading or heading in headings(path), f"{path}#{heading} of {page}"


def test_every_page_is_reached_from_the_first() -> None:
    reached, ahead = set[Path](), [DOCS / "index.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            ahead += [path for path, _ in linked(page)]
    assert {*DOCS.rglob("*.md")} <= reached


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_commands_on_every_page_are_real(page: Path) -> None:
    """Each `shrinknet VERB` that a page names exists, and so does each of its options."""
    import typer

    from shrinknet.cli.main import app

    root = typer.main.get_command(app)
    for line in re.findall(r"shrinknet ([a-z]+(?: [^`\n#]*)?)", page.read_text()):
        words = line.split()
        if words[0] not in root.commands:
            continue  # prose
        command = root.commands[words[0]]
        if hasattr(command, "commands"):
            assert words[1].strip(":;,.") in {*command.commands, "surface,"}, line
            command = command.commands.get(words[1].strip(":;,."))
        known = {"--help"} | {name for parameter in command.params for name in parameter.opts}
        for word in words:
            if word.startswith("--") and len(word) > 2:
                assert word.strip("`.,;)") in known, line
