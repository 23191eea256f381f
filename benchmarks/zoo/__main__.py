"""Every architecture of the zoo, ours and Torch-Pruning's, one process each: benchmarks/results/zoo.json, docs/zoo.md.

    python benchmarks/zoo                      # all of it, about an hour on two cores
    python benchmarks/zoo resnet18 BERT        # only these; prints, writes nothing
    python benchmarks/zoo --table              # docs/zoo.md again, from the results

Both get the same network (same seed), the same inputs, and remove about 30 % of what they find.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]
RESULTS = Path(__file__).resolve().parents[1] / "results" / "zoo.json"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "zoo.md"
PARTIAL = RESULTS.with_suffix(".partial.jsonl")
SECONDS, JOBS = {"ours": 900, "rival": 60}, 2


def main() -> None:
    """Run what was asked for."""
    asked = [name for name in sys.argv[1:] if not name.startswith("--")]
    if asked:
        for key in chosen(asked):
            both(key)
        return
    if "--table" not in sys.argv:
        results = all_of(chosen([]))
        content = {"results": results, "summary": summary(results), "environment": machine()}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")
        PARTIAL.unlink()
    DOCUMENT.write_text(document(json.loads(RESULTS.read_text())))


def all_of(keys: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Measure all, JOBS at a time, each written as it is done: killed, the same command goes on from there."""
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    known = {(row["source"], row["name"]): row for row in done}
    with ThreadPoolExecutor(JOBS) as pool, open(PARTIAL, "a") as file:
        for row in pool.map(both, [key for key in keys if key not in known]):
            file.write(json.dumps(row) + "\n")
            file.flush()
            known[row["source"], row["name"]] = row
    return [known[key] for key in keys]


def chosen(names: list[str]) -> list[tuple[str, str]]:
    """Return sources and names of the architectures asked for, or of all."""
    from architectures import ALL

    return [(one.source, one.name) for one in ALL if not names or any(name in one.name for name in names)]


def both(key: tuple[str, str]) -> dict[str, Any]:
    """Measure one architecture, each tool in a process of its own, and say so."""
    ours, theirs = (in_process(task, key, SECONDS[task]) for task in ("ours", "rival"))
    from rival import verdict

    row = {"source": key[0], "name": key[1], "ours": ours, "torch_pruning": theirs}
    print(
        f"{key[1]:40s} {'proven' if ours.get('is_proven') else 'REFUSED: ' + ours['reason'][:90]}; "
        f"Torch-Pruning: {verdict(theirs)}", flush=True,
    )  # fmt: skip
    return row


def in_process(task: str, key: tuple[str, str], seconds: int) -> dict[str, Any]:
    """Run one tool on one architecture in a new process, with an end to its time."""
    command = [sys.executable, str(Path(__file__).parent / "one.py"), task, *key]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=True, env=one_thread
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"reason": f"not done after {seconds} s"}
    except subprocess.CalledProcessError as error:
        return {"reason": f"the process died: {(error.stderr.strip().splitlines() or ['no message'])[-1][:160]}"}
    content: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return content


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the whole zoo says."""
    ours = [row["ours"] for row in results]
    proven = [row for row in ours if row.get("is_proven")]

    def median(kind: str) -> float:
        return statistics.median(row["reachable_parameters"] for row in proven if row["kind"] == kind)

    theirs = [row["torch_pruning"] for row in results]
    ran = [row for row in theirs if row.get("runs") and row["removed_parameters"] > 0]
    return {
        "architectures": len(ours),
        "proven": len(proven),
        "wrong": sum(row["reason"].startswith("differs") for row in ours),
        "median_reachable_convolutional": median("convolutional"),
        "median_reachable_transformer": median("transformer"),
        "worst_difference": max(row["worst"] for row in proven),
        "torch_pruning_runs_smaller": len(ran),
        "torch_pruning_same_outputs": sum(row["worst"] is not None and row["worst"] < 1e-4 for row in ran),
        "torch_pruning_other_outputs": sum(row["worst"] is not None and row["worst"] >= 1e-4 for row in ran),
    }


def machine() -> dict[str, Any]:
    """Return versions and machine."""
    from importlib.metadata import version

    from shrinknet.core.machine import environment

    packages = {name: version(name) for name in ("torchvision", "timm", "transformers", "torch-pruning")}
    facts = environment()
    facts["packages"] = {**facts["packages"], **packages}
    return {**facts, "num_threads": 1, "jobs": JOBS, "date": time.strftime("%Y-%m-%d")}


def document(content: dict[str, Any]) -> str:
    """Return docs/zoo.md."""
    facts, environment = content["summary"], content["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in environment["packages"].items() if name in {
        "torch", "torchvision", "timm", "transformers", "torch-pruning"})  # fmt: skip
    text = f"""# The zoo

Written by `python benchmarks/zoo` ({environment["date"]}; {versions}; {environment["processor"]}, one thread each,
{environment["jobs"]} architectures at a time; seed 0).

{facts["proven"]} of {facts["architectures"]} architectures are proven: with 30 % of every group removed, three times at
random, the masked and the cut network agree in float64 to 1e-9 of max(1, largest output), every node has the predicted
shape, and the weights file has the bytes announced to the byte. The rest refuse, with the reason below;
{facts["wrong"]} are wrong. In reach is the share of the parameters on an axis from which neurons can go: a median of
{facts["median_reachable_convolutional"]:.1%} in convolutional networks and {facts["median_reachable_transformer"]:.1%}
in transformers. Worst differences are relative to max(1, largest output).

Torch-Pruning 1.6.1 (magnitude, 30 %, one step, the classifier ignored; nothing else told to it) hands back a smaller
network that runs for {facts["torch_pruning_runs_smaller"]} of them; {facts["torch_pruning_same_outputs"]} of those give
the outputs of the masked original, {facts["torch_pruning_other_outputs"]} others, and the remaining ones cannot be
compared from outside. Its users can do better by hand for each network: tell it numbers of heads, unwrapped
parameters, layers to ignore. Seconds are of a busy machine; a trace holds an export (the first one of a process is
slower). `python benchmarks/tracing.py` times one network properly.
"""
    columns = (
        "from", "architecture", "proven", "groups", "neurons", "in reach", "removed", "worst", "first export s",
        "trace s", "cut s", "Torch-Pruning", "removed", "trace + step s",
    )  # fmt: skip
    rules = " | ".join("---" if place in {0, 1, 2, 11} else "---:" for place in range(len(columns)))
    lines = [text, f"| {' | '.join(columns)} |", f"| {rules} |"]
    return "\n".join([*lines, *map(table_row, content["results"])]) + "\n"


def table_row(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    from rival import verdict

    ours, theirs = row["ours"], row["torch_pruning"]
    if ours.get("is_proven"):
        cells = [
            "yes", f"{ours['groups']:,}", f"{ours['neurons']:,}", f"{ours['reachable_parameters']:.1%}",
            f"{ours['removed_parameters']:.1%}", f"{ours['worst']:.0e}", f"{ours['export_seconds']:.2f}",
            f"{ours['trace_seconds']:.2f}", f"{ours['cut_seconds']:.2f}",
        ]  # fmt: skip
    else:
        cells = [f"no: {ours['reason']}".replace("|", "/"), *[""] * 8]
    seconds = theirs.get("trace_seconds", 0) + theirs.get("cut_seconds", 0)
    their_cells = [
        verdict(theirs).replace("|", "/"), f"{theirs.get('removed_parameters', 0):.1%}" if theirs.get("runs") else "",
        f"{seconds:.2f}" if seconds else "",
    ]  # fmt: skip
    return "| " + " | ".join([row["source"], row["name"], *cells, *their_cells]) + " |"


if __name__ == "__main__":
    main()
