"""Commands typed, and Python run, in processes of their own, which can be killed.

Each is forked from a process that has imported what all would import, and done nothing else; it computes with one thread.
"""

import multiprocessing
import os
import sys
import tempfile
import types
from pathlib import Path

import torch

from shrinknet.cli.main import main

_HEAVY = ["torch.export._trace", "torch._decomp", "scipy.sparse.csgraph", "shrinknet.cli.prune", "shrinknet.cli.rank",
          "shrinknet.cli.sparsify"]  # fmt: skip
READY = multiprocessing.get_context("forkserver")
READY.set_forkserver_preload(_HEAVY)
"""Its processes begin with all of that imported."""


class Typed:
    """A command that is under way in a folder.

    Args:
        words: the command, without the program.
        folder: where it is typed.
        said: a file for what it says.
    """

    def __init__(self, words: list[str], folder: Path, said: Path) -> None:
        self.said = said
        self.process = READY.Process(target=_type, args=(words, str(folder), str(said)))
        self.process.start()
        self.pid = self.process.pid

    @property
    def status(self) -> int | None:
        """The status that it ended with; None while it is under way."""
        return self.process.exitcode

    def ended(self, seconds: float = 120) -> int:
        """Wait for its end, and return its status."""
        self.process.join(seconds)
        assert self.status is not None, f"it goes on and on: {self.said.read_text()}"
        return self.status

    def killed(self) -> None:
        """End it without warning."""
        self.process.kill()
        self.process.join()


def run_python(code: str, folder: Path) -> tuple[str, str]:
    """Run code in a folder as `python -c` does, which must succeed; return what it prints, and says on stderr."""
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        process = READY.Process(target=_run, args=(code, str(folder), str(out), str(err)))
        process.start()
        process.join()
        assert process.exitcode == 0, err.read_text()
        return out.read_text(), err.read_text()


def _type(words: list[str], folder: str, said: str) -> None:
    sys.argv = ["shrinknet", *words]
    _begin(folder, os.devnull, said)
    main()


def _run(code: str, folder: str, out: str, err: str) -> None:
    sys.argv = ["-c"]
    _begin(folder, out, err)
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), vars(module))


def _begin(folder: str, out: str, err: str) -> None:
    os.chdir(folder)
    sys.path.insert(0, "")
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of workers that it starts
