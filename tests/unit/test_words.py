"""Errors name what the caller typed: arguments in Python, flags on the command line."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.core import TyperGroup
from typer.main import get_command

import shrinknet as sn
from shrinknet.cli.main import app
from shrinknet.cli.words import MARKED, in_flags
from shrinknet.core.folder import RunFolder
from shrinknet.loading.data import load_data
from shrinknet.loading.models import load_model
from shrinknet.sparsify.api import sparsify

SOURCE = Path(sn.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]|^(MODEL|RUN|NAME|DATA)( must|$)")
VERBS = get_command(app)
assert isinstance(VERBS, TyperGroup)
OF_OTHER_PROGRAMS = ("ray start --head",)


def sentences() -> Iterator[tuple[str, str]]:
    """Every text of the library but its docstrings; what an f-string fills in stands as 'x'."""
    for path in sorted(SOURCE.rglob("*.py")):
        if "cli" in path.relative_to(SOURCE).parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                skipped.update(id(part) for part in node.values)
                pieces = [part.value if isinstance(part, ast.Constant) else "'x'" for part in node.values]
                yield f"{path.name}:{node.lineno}", "".join(map(str, pieces))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                yield f"{path.name}:{node.lineno}", node.value


def typed(verb: str, text: str) -> str:
    return in_flags(text, VERBS, verb.split())


def test_no_text_of_the_library_names_a_flag() -> None:
    named = [
        (where, text)
        for where, text in sentences()
        if FLAG.search(text) and not any(other in text for other in OF_OTHER_PROGRAMS)
    ]
    assert not named


def test_each_argument_that_the_library_marks_has_a_flag() -> None:
    marked = {(where, one[0]) for where, text in sentences() for one in MARKED.finditer(text)}
    assert len(marked) > 20, "arguments stand between backticks"
    assert not {(where, one) for where, one in marked if not typed("prune", one).startswith("--")}


def task() -> sn.Task:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 3))


def one_logit() -> sn.Task:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    return sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))


FAULTS: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "workers and compensation": (
        "prune", lambda folder: sn.prune(task(), compensate="mean", scoring=sn.Scoring(executor="processes")),
        "compensate must be none where workers score. Got 'mean'. Use `executor='serial'`.",
        "--compensate must be none where workers score. Got 'mean'. Use --executor serial.",
    ),
    "an unknown price": (
        "prune", lambda folder: sn.prune(task(), price="gold"),
        "price must be one of", "--price must be one of",
    ),
    "a kind of file that cannot be quantized so": (
        "prune", lambda folder: sn.prune(task(), artefact="onnx", quantize="int8"),
        "quantize for artefact='onnx' must be none. Got int8. Use `artefact='cortex-m'`.",
        "--quantize for --to onnx must be none. Got int8. Use --to cortex-m.",
    ),
    "a latency of what does not run": (
        "prune", lambda folder: sn.prune(task(), max_latency=3.0),
        "runs on this machine: `artefact='executorch'`, `artefact='onnx'` or `artefact='pt2'`. Got `artefact='weights'`.",
        "runs on this machine: --to executorch, --to onnx or --to pt2. Got --to weights.",
    ),
    "RAM that nobody plans": (
        "prune", lambda folder: sn.prune(task(), goals=[sn.PeakRamBytes(100)]),
        "PeakRamBytes must be used with", "--ram must be used with",
    ),
    "a guard of a number that is none": (
        "prune", lambda folder: sn.LossRise(-1.0), "LossRise must be a number", "--max-loss-rise must be a number",
    ),
    "a race that another rule cannot run": (
        "prune", lambda folder: sn.prune(task(), "taylor-1", scoring=sn.Scoring(screen=3)),
        "confidence and screen must be left out unless the criterion is ablation. "
        "Got 'taylor-1'. Use `criterion='ablation'`.",
        "--confidence and --screen must be left out unless the criterion is ablation. "
        "Got 'taylor-1'. Use --criterion ablation.",
    ),
    "an address without Ray": (
        "rank", lambda folder: sn.Scoring(address="auto"), "Say `executor='ray'`.", "Say --executor ray.",
    ),
    "one logit": (
        "rank", lambda folder: sn.rank(one_logit()),
        "Say `loss='binary-cross-entropy'` for one logit, `loss='squared-error'` for a value",
        "Say --loss binary-cross-entropy for one logit, --loss squared-error for a value",
    ),
    "a training of no epoch": (
        "sparsify", lambda folder: sparsify(task(), "acdc", epochs=0),
        "epochs and batch_size must be", "--epochs and --batch must be",
    ),
    "an option that a method has not": (
        "sparsify", lambda folder: sparsify(task(), "acdc", options={"sparsty": 0.5}),
        "options['sparsty'] must be an option of acdc", "--set sparsty must be an option of acdc",
    ),
    "no such model": (
        "rank", lambda folder: load_model(str(folder / "net.pt2")), "spec must be a file", "MODEL must be a file",
    ),
    "no such data": (
        "rank", lambda folder: load_data(str(folder / "x.npz"), 0), "data must be a file", "--data must be a file",
    ),
    "no run there": (
        "verify", lambda folder: RunFolder.open(folder), "folder must be a run folder", "RUN must be a run folder",
    ),
    "a folder that holds another run": (
        "prune", lambda folder: [sn.prune(task(), "random", goals=[sn.RemovedNeurons(1)], out=folder / "run")] * 0
        or sn.prune(task(), "random", goals=[sn.RemovedNeurons(1)], out=folder / "run"),
        "or go on with that run with `resume=True`.", "or go on with that run with --resume.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_names_arguments_in_python_and_flags_on_the_command_line(fault: str, tmp_path: Path) -> None:
    verb, does_it, in_python, in_a_shell = FAULTS[fault]
    with pytest.raises(sn.ShrinknetError) as told:
        does_it(tmp_path)
    assert in_python in str(told.value)
    assert not FLAG.search(str(told.value))
    assert in_a_shell in typed(verb, str(told.value))
    assert "`" not in typed(verb, str(told.value))


@pytest.mark.parametrize(("verb", "text", "said"), [
    ("cut", "It fixes a width. With `keep=['0', 'a b']` the class comes back.",
     "It fixes a width. With --keep 0 --keep 'a b' the class comes back."),
    ("analyse recall", "ratio must be at most 3. Got 4. Make the runs with `whole_curve=True`.",
     "--ratios must be at most 3. Got 4. Make the runs with --whole-curve."),
    ("prune", "batch_size must be a whole number of at least 1. Got 0.",
     "--batch-size must be a whole number of at least 1. Got 0."),
    ("sparsify", "every must be at least 1 step. Got 0.", "every must be at least 1 step. Got 0."),
    ("prune", "model must be a network. Got step=3 and a `strange` name, `keep=[`.",
     "model must be a network. Got step=3 and a `strange` name, `keep=[`."),
    ("prune", "calibration targets must be classes.", "calibration targets must be classes."),
    ("", "nothing to translate", "nothing to translate"),
])  # fmt: skip
def test_sentences_in_the_words_of_the_verb(verb: str, text: str, said: str) -> None:
    assert typed(verb, text) == said
