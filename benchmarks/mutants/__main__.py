"""Small faults are put into the code one at a time; a fault is *killed* where a test fails.

    pip install -e '.[dev,mutation]'
    python benchmarks/mutants --each 24 --work /tmp/mutants     # an hour or two; killed, it goes on where it was

Each fault is tried in a copy of the tree, by the tests that run its line, the most particular first, until one fails.
Writes `results/mutants.json` and `mutants/RESULTS.md`; of another seed than 0, `mutants_seed_N.json` and
`RESULTS_SEED_N.md` beside them. What is known of survivors stands in `mutants/survivors.toml`.
"""

import argparse
import json
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from covering import FILES, Covering
from mutants import ROOMS, drawn, named, places
from scoring import page, scores
from trying import all_tried, environment

HERE = Path(__file__).resolve().parent
ROOT, RESULTS = HERE.parents[1], HERE.parent / "results"


def main() -> None:
    """Draw, try, and write what came of it."""
    asked = _asked()
    asked.work = asked.work.resolve()
    asked.work.mkdir(parents=True, exist_ok=True)
    trees = [_copy(asked.work / f"tree-{number}") for number in range(asked.workers)]
    covering = Covering(asked.work / "covering", trees[0], asked.tests)
    covering.measure(environment(trees[0]))
    chosen = [one for room in ROOMS for one in drawn(ROOT, room, asked.each, asked.seed)]
    if asked.seed == 0:
        chosen = [*named(ROOT), *chosen]
    tried = asked.work / "tried.jsonl"
    explained = {name for kind in _reasons().values() for name in kind}
    known = {
        name: one
        for name, one in _known(tried).items()
        if one["outcome"] != "survived" or name in explained or not asked.again
    }
    todo = [mutant for mutant in chosen if mutant.id not in known]
    with tried.open("a") as file:
        for result in _with_progress(all_tried(todo, covering, trees, asked.seconds), len(todo)):
            known[result["id"]] = result
            file.write(json.dumps(result) + "\n")
            file.flush()
    _write([known[mutant.id] for mutant in chosen], asked)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=24, help="mutants of each room")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--seconds", type=float, default=60, help="of tests for each mutant, at most")
    parser.add_argument("--tests", nargs="+", default=FILES, help="patterns of the files of tests that may see them")
    parser.add_argument("--workers", type=int, default=1, help="mutants tried at the same time")
    parser.add_argument("--work", type=Path, default=Path("build/mutants"), help="where copies and results are kept")
    parser.add_argument("--again", action="store_true", help="try those that survived without a reason once more")
    return parser.parse_args()


def _copy(tree: Path) -> Path:
    """A copy of every file of the working tree that git knows; what was compiled for an older copy goes."""
    shutil.rmtree(tree, ignore_errors=True)
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(words, cwd=ROOT, text=True).splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


def _known(tried: Path) -> dict[str, dict]:
    lines = tried.read_text().splitlines() if tried.is_file() else []
    return {found["id"]: found for found in map(json.loads, lines)}


def _with_progress(results: Iterator[dict], count: int) -> Iterator[dict]:
    started = time.perf_counter()
    for number, result in enumerate(results, 1):
        left = (time.perf_counter() - started) / number * (count - number) / 60
        print(f"{number}/{count}  {result['outcome']:9} {result['path']}:{result['line']}  "
              f"{result['seconds']:.0f} s, about {left:.0f} min left", flush=True)  # fmt: skip
        yield result


def _reasons() -> dict[str, dict[str, str]]:
    return tomllib.loads((HERE / "survivors.toml").read_text())


def _write(results: list[dict], asked: argparse.Namespace) -> None:
    reasons = _reasons()
    num_places = {room: len(places(ROOT, room)) for room in ROOMS}
    found = scores(results, num_places, reasons)
    content = {"seed": asked.seed, "each": asked.each, "seconds": asked.seconds, "scores": found, "mutants": results}
    ending, words = (f"_seed_{asked.seed}" if asked.seed else ""), page(results, found, reasons, asked.seed)
    (RESULTS / f"mutants{ending}.json").write_text(json.dumps(content, indent=1) + "\n")
    (HERE / f"RESULTS{ending.upper()}.md").write_text(words)
    print(words)


if __name__ == "__main__":
    main()
