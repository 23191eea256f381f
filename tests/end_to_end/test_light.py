"""Importing costs next to nothing and changes nothing; help, the version and pages are there without torch."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

import shrinknet as sn
from shrinknet.cli.main import app
from shrinknet.cli.verbs import VERBS
from shrinknet.recipes.digits import load_digits

HEAVY = ("jinja2", "matplotlib", "multiprocessing.pool", "rich", "scipy.sparse", "scipy.stats", "sklearn", "ray",
         "torch._dynamo", "torch._export.serde", "typer")  # fmt: skip


def run_python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


def imported_by(code: str) -> set[str]:
    done = run_python(f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_imports_nothing_else() -> None:
    found = imported_by("import shrinknet")
    assert {name for name in found if name.startswith("shrinknet")} == {"shrinknet"}
    assert not found & {"torch", "numpy", "scipy", *HEAVY}


def test_the_names_import_torch_and_nothing_heavy() -> None:
    """What one verb or analysis alone needs waits until it runs."""
    names = imported_by("import torch, shrinknet\nfor name in shrinknet.__all__: getattr(shrinknet, name)")
    assert "shrinknet.sparsify.api" in names
    assert not (names - imported_by("import torch")) & set(HEAVY)


def test_what_names_costs_and_errors_imports_no_torch() -> None:
    assert "torch" not in imported_by("from shrinknet import BadInputError, FlashBytes, Plan, __version__")


def test_the_stub_lists_what_there_is() -> None:
    assert "sparsify" in sn.__all__
    assert "__version__" not in sn.__all__, "`from shrinknet import *` must not set the caller's"
    assert {*sn.__all__, "__version__"} <= set(dir(sn))
    for name in sn.__all__:
        assert getattr(sn, name).__name__ == name
    assert sn.__version__ == version("shrinknet")
    with pytest.raises(AttributeError, match="module 'shrinknet' has no attribute 'prun'"):
        sn.prun  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'prun'"):
        from shrinknet import prun  # noqa: F401


BEFORE = [
    "", "import shrinknet.sparsify.api", "from shrinknet.sparsify import base", "from shrinknet import sparsify",
    "import shrinknet\nshrinknet.sparsify\nimport shrinknet.sparsify.base",
    "import importlib; importlib.import_module('shrinknet.sparsify')",
]  # fmt: skip
SPARSIFY = """
import pickle, sys
import shrinknet as sn
from shrinknet import sparsify
from shrinknet.sparsify.api import sparsify as itself
assert sn.sparsify is sparsify is itself is pickle.loads(pickle.dumps(itself))
assert sys.modules["shrinknet.sparsify"].__name__ == "shrinknet.sparsify"
assert sn.core is sys.modules["shrinknet.core"]
"""


def test_sparsify_is_the_function_whatever_was_imported_before() -> None:
    """Each in a process of its own, forked from one that has imported torch alone."""
    code = f"""
import os, sys, torch
assert not any(name.startswith("shrinknet") for name in sys.modules)
for before in {BEFORE!r}:
    child = os.fork()
    if not child:
        exec(before + {SPARSIFY!r}, {{}})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, before
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


STATE = """
import json, logging, random, signal, sys, warnings
import matplotlib, numpy, torch

def state():
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    return {
        "backend": matplotlib.get_backend(auto_select=False), "filters": [str(one) for one in warnings.filters],
        "loggers": [(one.name, one.level, len(one.handlers)) for one in (logging.root, *loggers)
                    if not one.name.startswith("shrinknet") or one.handlers or one.level],
        "signals": [str(signal.getsignal(one)) for one in sorted(signal.valid_signals())],
        "path": sys.path, "hooks": [str(sys.excepthook), str(sys.meta_path)],
        "random": str(random.getstate()), "numpy": str(numpy.random.get_state()),
        "torch": str(torch.get_rng_state().tolist()), "dtype": str(torch.get_default_dtype()),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
    }

before = json.loads(json.dumps(state()))
import shrinknet
for name in shrinknet.__all__ if sys.argv[1:] else (): getattr(shrinknet, name)
after = json.loads(json.dumps(state()))
print(json.dumps([name for name in before if before[name] != after[name]]))
"""


@pytest.mark.parametrize("words", [[], ["every name"]])
def test_importing_changes_no_state_of_the_process(words: list[str]) -> None:
    done = run_python(STATE, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


WITHOUT_TORCH = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "scipy", "matplotlib"):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Refused())
sys.argv[0] = "shrinknet"
from shrinknet.cli.main import main
main()
"""


@pytest.mark.parametrize(("words", "said"), [
    (["--help"], "Write the web page from run folders alone"), (["-h"], "--version"), ([], "--install-completion"),
    (["--version"], f"shrinknet {version('shrinknet')}\n"), (["report", "-h"], "One or more run folders"),
    (["prune", "--help"], "--max-accuracy-drop"), (["sparsify", "--help"], "gradual-threshold"),
    (["analyse", "--help"], "cancellation"), (["analyse", "cancellation", "--help"], "20000"),
])  # fmt: skip
def test_help_and_version_need_no_torch(words: list[str], said: str) -> None:
    done = run_python(WITHOUT_TORCH, *words)
    assert said in done.stdout, done.stderr


def test_the_help_of_every_verb_imports_nothing_heavy() -> None:
    """One process for all: what a verb's file imports is what its help costs."""
    code = "from typer.main import get_command\nfrom shrinknet.cli.main import app\nroot = get_command(app)\n"
    found = imported_by(code + "for name in root.commands: root.commands[name].get_help")
    assert {f"shrinknet.cli.{verb}" for verb in VERBS} <= found
    assert not found & {"torch", "numpy", "scipy", "matplotlib", "jinja2"}


def test_the_page_needs_no_torch(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    rows = torch.randn(20, 4), torch.arange(20) % 3
    sn.prune(sn.Task(model, "cross-entropy", rows), goals=[sn.RemovedNeurons(2)], out=tmp_path / "run")
    page = tmp_path / "run" / "report" / "index.html"
    made = page.read_bytes()
    page.unlink()
    done = run_python(WITHOUT_TORCH, "report", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert page.read_bytes() == made
    done = run_python(WITHOUT_TORCH, "report", str(tmp_path))
    assert (done.returncode, done.stderr.split(" must ")[0]) == (2, "RUN")


def test_each_verb_says_in_the_list_what_its_own_help_says() -> None:
    root = get_command(app)
    assert tuple(root.commands) == VERBS
    for verb, itself in root.commands.items():
        listed = root.get_command(None, verb).get_short_help_str(300)
        assert len(listed) > 30
        assert listed == itself.get_short_help_str(300)


def test_a_shell_completes_verbs_and_options() -> None:
    def completed(line: str, place: int) -> str:
        given = {"_SHRINKNET_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(place)}
        return CliRunner().invoke(app, [], env=given, prog_name="shrinknet").output

    assert completed("shrinknet re", 1).split() == ["recover", "report", "reproduce"]
    assert "--out" in completed("shrinknet report --", 2)
    assert completed("shrinknet analyse ca", 2).split() == ["cancellation"]


def test_the_digits_are_scikit_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    for ours, theirs in zip(load_digits(), (datasets.load_digits().images, datasets.load_digits().target), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
