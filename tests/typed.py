"""Commands typed in processes of their own, which can be killed.

Each is forked from a process that has imported what all would import, and done nothing else; it computes with one thread.
"""

import multiprocessing
import os
import sys
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


def _type(words: list[str], folder: str, said: str) -> None:
    os.chdir(folder)
    sys.path.insert(0, "")
    sys.argv = ["shrinknet", *words]
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of workers that it starts
    main()
