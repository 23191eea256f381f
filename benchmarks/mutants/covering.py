"""Which tests run a line: from one run of the tests under coverage, each test a context of its own."""

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from coverage import CoverageData
from mutants import PACKAGE, ROOMS, Mutant

FILES = (
    "tests/laws/test_*.py", "tests/unit/test_*.py", "tests/end_to_end/test_own_modules.py",
    "tests/end_to_end/test_run_folder.py", *(str(PACKAGE / name) for names in ROOMS.values() for name in names),
)  # fmt: skip
"""Files of tests, and the rooms themselves, whose examples are tests, too."""
LEFT_OUT = (
    "test_analysis", "test_error_pages", "test_hostile_files", "test_sparsify", "test_sparsify_parts", "test_zoo",
)  # fmt: skip
"""Long ones that are about other rooms."""

SETTINGS = "[run]\nrelative_files = true\nsource = src/shrinknet\n"


class Covering:
    """The tests that run each line, and how long each takes.

    Args:
        folder: where what was measured is kept, for each file of tests.
        tree: a copy of the tree.
        files: patterns of the files of tests that are looked at.
    """

    def __init__(self, folder: Path, tree: Path, files: Sequence[str] = FILES) -> None:
        self.folder, self.tree, self.patterns = folder, tree, files
        folder.mkdir(parents=True, exist_ok=True)

    def measure(self, environment: dict[str, str]) -> None:
        """Run all tests once under coverage, those files that were not run before; who fails now can tell nothing."""
        files = [path for pattern in self.patterns for path in sorted(self.tree.glob(pattern))]
        for path in files:
            times = self.folder / f"{path.stem}.xml"
            if path.stem in LEFT_OUT or times.is_file():
                continue
            print(f"Looking at what {path.name} runs.", flush=True)
            unfinished = times.with_suffix(".unfinished")
            self._run(path, unfinished, environment)
            unfinished.rename(times)

    def _run(self, path: Path, times: Path, environment: dict[str, str]) -> None:
        settings = self.folder / "coverage.cfg"
        settings.write_text(SETTINGS)
        where = {**environment, "COVERAGE_FILE": str(self.folder / f"{path.stem}.db")}
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "--cov", "--cov-context=test"]
        words += [f"--cov-config={settings}", "--cov-report=", f"--junitxml={times}", str(path)]
        if subprocess.run([sys.executable, *words], cwd=self.tree, env=where).returncode:
            print(f"In {path.name} tests fail without any fault, and are left out.")

    @cached_property
    def seconds(self) -> dict[str, float]:
        """How long each test takes, by its name."""
        found = {}
        for times in sorted(self.folder.glob("*.xml")):
            for case in ElementTree.parse(times).iter("testcase"):
                if case.find("failure") is not None or case.find("error") is not None:
                    continue
                module = case.get("classname", "").replace(".", "/") + ".py"
                found[f"{module}::{case.get('name')}"] = float(case.get("time", 0))
        return found

    @cached_property
    def _data(self) -> list[CoverageData]:
        found = [CoverageData(str(path.with_suffix(".db"))) for path in sorted(self.folder.glob("*.xml"))]
        for data in found:
            data.read()
        return found

    def tests_of(self, mutant: Mutant, most_seconds: float) -> list[str]:
        """Return the tests that run what a mutant changes and least beside it first, as many as that time allows."""
        found = set[str]()
        for path, lines in self._lines(mutant).items():
            found |= self._that_run(path, lines)
        chosen, used = list[str](), 0.0
        for test in sorted(found & self.seconds.keys(), key=lambda test: (self._num_lines[test], test)):
            used += self.seconds[test]
            if chosen and used > most_seconds:
                break
            chosen.append(test)
        return chosen

    @cached_property
    def _num_lines(self) -> Counter[str]:
        """How much of the package each test runs."""
        found = Counter[str]()
        for data in self._data:
            for path in data.measured_files():
                for names in data.contexts_by_lineno(path).values():
                    found.update({name.rpartition("|")[0] for name in names})
        return found

    def _that_run(self, path: str, lines: set[int]) -> set[str]:
        found = set[str]()
        for data in self._data:
            contexts = data.contexts_by_lineno(path)
            found |= {name.rpartition("|")[0] for line in lines for name in contexts.get(line, ()) if name}
        return found

    def _lines(self, mutant: Mutant) -> dict[str, set[int]]:
        """The lines of the innermost statement, in each file; of what is run once, at import, what it is about.

        A constant is about the lines that name it, a decorator or a default about the whole of its definition.
        """
        tree = ast.parse((self.tree / mutant.path).read_text())
        around = [one for one in _statements(tree) if _start(one) <= mutant.line <= one.end_lineno]
        statement = around[-1]
        if any(isinstance(one, ast.FunctionDef) for one in around[:-1]):
            return {mutant.path: set(range(_start(statement), _end_of_head(statement) + 1))}
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if names := [target.id for target in targets if isinstance(target, ast.Name)]:
            return self._that_name(names)
        return {mutant.path: set(range(_start(statement), statement.end_lineno + 1))}

    def _that_name(self, names: list[str]) -> dict[str, set[int]]:
        word, found = re.compile(rf"\b({'|'.join(names)})\b"), {}
        for path in (self.tree / PACKAGE).rglob("*.py"):
            lines = {number for number, line in enumerate(path.read_text().splitlines(), 1) if word.search(line)}
            if lines:
                found[str(path.relative_to(self.tree))] = lines
        return found


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Every statement, the outer ones first."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.stmt):
            yield child
        yield from _statements(child)


def _start(statement: ast.stmt) -> int:
    return min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", ()))])


def _end_of_head(statement: ast.stmt) -> int:
    """The last line before the statements within: all of a plain statement, the condition of an `if`."""
    body = getattr(statement, "body", None)
    return max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno
