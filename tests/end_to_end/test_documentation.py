"""What the documentation says is true: its code runs, its commands run in their order, no criterion lacks a page."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typed import run_python

import shrinknet as sn
from shrinknet.core.folder import RunFolder
from shrinknet.criteria import criterion_names
from shrinknet.recipes.catalogue import recipes

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_tutorial_is_what_a_newcomer_types(tmp_path, type_command, monkeypatch) -> None:
    page = DOCS / "tutorial.md"
    code = "\n".join(blocks(page, "python"))
    said, _ = run_python(code + "\nassert sum(p.numel() for p in small.parameters()) < 5000", tmp_path)
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
    said, _ = run_python("\n".join(blocks(DOCS / "how-to" / "lstm.md", "python")), tmp_path)
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
    assert run_python(code, tmp_path)[0].endswith("as the page says\n")


OF_CONTRIBUTING = {"Criterion": 10, "Metric": 10, "Goal": 10, "Exporter": 60}
"""Of each base the class that CONTRIBUTING.md shows, and how many lines of code it may take at most."""


def num_lines_of_code(code: str) -> int:
    """How many lines there are but for imports, docstrings, comments and blank ones."""
    said = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    skipped = {line for node in said for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = enumerate(code.splitlines(), start=1)
    return len([line for number, line in lines if line.strip() and line.strip()[0] != "#" and number not in skipped])


@pytest.fixture
def own(folder, monkeypatch) -> dict[str, str]:
    """The import path of each class that CONTRIBUTING.md shows, each a whole file beside a stranger's network."""
    found = {}
    for base, most in OF_CONTRIBUTING.items():
        (code,) = (block for block in blocks(ROOT / "CONTRIBUTING.md", "python") if f"({base})" in block)
        assert num_lines_of_code(code) <= most
        (folder / f"{base.lower()}_of_contributing.py").write_text(code)
        found[base] = f"{base.lower()}_of_contributing:{re.findall(r'class (.*)[(]', code)[0]}"
    monkeypatch.syspath_prepend(str(folder))
    return found


NET = ("nets_of_a_stranger:build", "--weights", "weights.safetensors", "--data", "data.npz")


def test_lines_of_code_are_counted() -> None:
    assert num_lines_of_code('import io\n\n# why\nclass A:\n    """It\n    is."""\n\n    x = io  # this\n') == 2


def test_contributing_holds_a_whole_criterion(type_command, folder, own) -> None:
    """As it stands it scores in Python, and on the command line by its import path."""
    from criterion_of_contributing import Answering
    from nets_of_a_stranger import build

    model, arrays = build(), np.load(folder / "data.npz")
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    rows = [torch.from_numpy(arrays[name][arrays["split"] == 0]) for name in ("inputs", "targets")]
    ranked = sn.rank(sn.Task(model, "cross-entropy", tuple(rows)), Answering)
    for place, name in ((2, "0"), (4, "2")):
        shares = (model[:place](rows[0]) != 0).double().mean(0).tolist()
        np.testing.assert_allclose([dict(ranked)[sn.Neuron(name, k)] for k in range(len(shares))], shares, rtol=1e-12)

    said = type_command("rank", *NET, "--criterion", own["Criterion"])
    assert said.status == 0, said.err
    assert [line.split(",")[1:3] for line in said.out.splitlines()[1:]] == [[n.group, str(n.index)] for n, _ in ranked]
    refused = type_command("rank", *NET, "--criterion", own["Criterion"], "--first", "3")
    assert "--first must be used with ablation, unclipped. Got --criterion answering" in " ".join(refused.err.split())


def test_contributing_holds_a_whole_metric_goal_and_exporter(type_command, folder, own) -> None:
    """As they stand they measure, end a run, and make its file, forecast to the byte, run by numpy and verified."""
    typed = ("--criterion", own["Criterion"], "--metric", own["Metric"], "--max-rise", "calibration-error=99%",
             "--goal", own["Goal"] + "=64%", "--to", own["Exporter"], "--flash", "4KiB")  # fmt: skip
    said = type_command("prune", *NET, *typed, "--out", "own")
    assert said.status == 0, said.err
    run = RunFolder.open(folder / "own")
    start, after = run.history()[0].measures, run.ending().after
    assert after.costs.num_parameters <= 0.64 * start.costs.num_parameters
    assert list(after.metrics) == ["accuracy", "calibration-error"]
    assert (run.config["criterion"], run.config["artefact"]) == (own["Criterion"], own["Exporter"])
    assert run.config["goals"] == ["at most 4,096 bytes of flash", "ParameterShare(share=0.64)"]
    assert [one["spec"] for one in run.config["metrics"]] == [own["Metric"]]
    manifest = json.loads((folder / "own/artefacts/model.npz.json").read_text())
    size = (folder / "own/artefacts/model.npz").stat().st_size
    assert manifest["num_bytes"] == manifest["forecast_bytes"] == size <= 4096
    assert type_command("verify", "own", "--trust").status == 0
    again = type_command("export", "own", "--trust", "--to", own["Exporter"], "--out", "again.npz")
    for printed, shown in ((said.out, "flash (.npz)"), (again.out, f"calibration-error {_share_of(manifest)} there")):
        assert shown in " ".join(printed.split())
    assert after.metrics["calibration-error"] == pytest.approx(_calibration_error(folder), abs=1e-6)


def _share_of(manifest: dict) -> str:
    return f"{100 * manifest['metrics']['calibration-error']:.2f} %"


def _calibration_error(folder: Path) -> float:
    """By hand, of the file that ships."""
    arrays, file = np.load(folder / "data.npz"), np.load(folder / "own/artefacts/model.npz")
    x, targets = (arrays[name][arrays["split"] == 1] for name in ("inputs", "targets"))
    for place, kind in enumerate(file["steps"]):
        x = np.maximum(x, 0) if kind == "relu" else x @ file[f"w{place}"].T + file[f"b{place}"]
    sure = np.exp(x - x.max(1, keepdims=True))
    sure /= sure.sum(1, keepdims=True)
    right, bins = sure.argmax(1) == targets, np.minimum((10 * sure.max(1)).astype(int), 9)
    gaps = [abs((right[bins == k] - sure.max(1)[bins == k]).sum()) for k in range(10)]
    return float(sum(gaps) / len(targets))


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
