"""What the README says is true: its code runs, its commands run, its table is the results'."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typed import run_python

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_of_the_readme_runs(tmp_path) -> None:
    code = (
        "\n".join(blocks("python"))
        + """
assert (run.is_met, run.measures.costs.flash_bytes <= 12 * 1024) == (True, True)
assert small[0].out_features < 64
smaller = run.at(sn.FlashBytes("9 KiB"))
assert smaller.measures.costs.flash_bytes <= 9 * 1024
assert smaller.model[0].out_features < small[0].out_features
"""
    )
    said, _ = run_python(code, tmp_path)
    assert "proven: masked and cut outputs differ by at most" in said
    assert "stopped: reached the goal: at most 12,288 bytes of flash." in said
    assert {path.name for path in tmp_path.iterdir()} == {"net.pt2", "data.npz"}


def commands() -> list[list[str]]:
    lines = [line.split("#")[0] for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("shrinknet ")]


def test_the_commands_of_the_readme_run(folder, tmp_path, type_command, monkeypatch) -> None:
    for name in ("net.pt2", "data.npz"):  # the three lines of Python that make them run in the test above
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    typed = commands()
    assert [words[1] for words in typed] == [
        "inspect",
        "rank",
        "prune",
        "cut",
        "prune",
        "recover",
        "export",
        "verify",
        "analyse",
        "sparsify",
        "bench",
    ]
    for words in typed:
        monkeypatch.chdir(tmp_path)
        answer = type_command(*words[1:])
        assert answer.status == 0, (words, answer.err)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_makefile_has_the_two_commands(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_table_is_made_from_the_results() -> None:
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "readme_table.py", "--check"], check=False)
    assert done.returncode == 0, "run: python benchmarks/readme_table.py"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 90
    code, _ = blocks("python")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 14
