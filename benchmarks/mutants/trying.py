"""One mutant after another in copies of the tree: tests run in processes that begin with torch and pytest at hand."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue

from covering import Covering
from mutants import Mutant

AT_HAND = [
    "pytest", "hypothesis", "numpy.testing", "torch._dynamo", "torch.export", "torch._inductor.decomposition",
    "torch.fx.experimental.symbolic_shapes", "scipy.stats", "safetensors.torch", "jinja2", "rich", "typer",
]  # fmt: skip
"""What every test imports, and takes longer to import than to use; nothing of the product."""

ENOUGH = 90
"""Seconds that tests may take beside four times what they took when they were measured."""


def all_tried(mutants: list[Mutant], covering: Covering, trees: list[Path], seconds: float) -> Iterator[dict]:
    """Try mutants, as many at once as there are copies of the tree, each by tests that take so many seconds."""
    os.environ.update(environment(trees[0]))
    get_context("forkserver").set_forkserver_preload(AT_HAND)
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in trees:
        free.put(tree)

    def in_a_free_tree(mutant: Mutant, tests: list[str]) -> dict:
        tree = free.get()
        try:
            return tried(mutant, tests, tree, ENOUGH + 4 * seconds)
        finally:
            free.put(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        yield from pool.map(in_a_free_tree, mutants, [covering.tests_of(mutant, seconds) for mutant in mutants])


def environment(tree: Path) -> dict[str, str]:
    """Return this process's environment, with one thread and a copy's sources."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree / "src")}


def tried(mutant: Mutant, tests: list[str], tree: Path, most_seconds: float) -> dict:
    """Put one fault into a copy of the tree, run the tests that may see it, and take it out again."""
    path, started = tree / mutant.path, time.perf_counter()
    source, times = path.read_text(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text(mutant.applied(source))
    try:
        outcome = _outcome(tests, tree, most_seconds) if tests else "survived"
    finally:
        path.write_text(source)
        os.utime(path, ns=times)
    seconds = round(time.perf_counter() - started, 1)
    return {"id": mutant.id, **asdict(mutant), "outcome": outcome, "num_tests": len(tests), "seconds": seconds}


def _outcome(tests: list[str], tree: Path, most_seconds: float) -> str:
    """Whether a test fails, or never ends."""
    run = get_context("forkserver").Process(target=_run, args=(tests, tree))
    run.start()
    run.join(most_seconds)
    code = run.exitcode
    with suppress(ProcessLookupError):  # what the tests started ends with them
        os.killpg(run.pid, signal.SIGKILL)
    run.join()
    return "killed: never ends" if code is None else "survived" if code == 0 else "killed"


def _run(tests: list[str], tree: Path) -> None:
    """In a process of its own: run tests until one fails; nothing that is compiled of a mutant is kept."""
    os.setsid()
    os.chdir(tree)
    os.environ |= {**environment(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[0] = str(tree / "src")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    import pytest
    from hypothesis import Phase, settings

    settings.register_profile("no smaller example", phases=[Phase.explicit, Phase.generate])
    settings.load_profile("no smaller example")  # the profiles of the tests inherit from it
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=line", *tests]))
