"""Does a search end in its time? Every architecture of the zoo to 80 % of its multiply-accumulates, by a time.

    python benchmarks/effort/zoo.py            # all of it, one process each: hours
    python benchmarks/effort/zoo.py resnet18   # only these; prints, writes nothing
    python benchmarks/effort/zoo.py --table    # docs/effort-zoo.md again, from the results

Networks, input sizes and random weights are those of `benchmarks/zoo`; 16 samples are drawn at random. What answers
with one row of numbers a sample is pruned by cross-entropy with random labels, anything else by its own answers; all
else is the default. Where the time is refused as too short for one ranking, what the refusal asks for and a quarter
more is asked for. Each row says how many seconds were asked for, how many the steps of the search took, and how many
`prune` took in all (tracing, trials and the proof, too; not a first refusal), and how much memory the process had at
its peak. Killed, the same command goes on from there.
"""

import inspect
import json
import logging
import math
import re
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("ablation", "zoo")]

import torch
from architectures import ALL, Architecture
from rounds import RESULTS, SEED, write
from torch import Tensor, nn

import shrinknet as sn
from shrinknet.run.prices import SHARE_FOR_SEARCH

ASKED, SHARE, NUM_SAMPLES = 15, 0.8, 16
MOST = 900
"""After so many seconds a process is ended."""

FORECAST = 1.25
"""A forecast is good enough where no more than so many times as much is taken."""

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "effort-zoo.md"
PARTIAL = RESULTS / "effort_zoo.partial.jsonl"


def main() -> None:
    """Prune what was asked for, or all."""
    if sys.argv[1:] == ["--table"]:
        DOCUMENT.write_text(document(json.loads((RESULTS / "effort_zoo.json").read_text())))
        return
    keys = [(one.source, one.name) for one in ALL if not sys.argv[1:] or any(name in one.name for name in sys.argv[1:])]
    if sys.argv[1:]:
        for key in keys:
            print(json.dumps(apart(*key)), flush=True)
        return
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    known = {(row["source"], row["name"]) for row in done}
    with open(PARTIAL, "a") as file:
        for key in keys:
            if key not in known:
                done.append(apart(*key))
                file.write(json.dumps(done[-1]) + "\n")
                file.flush()
    done.sort(key=lambda row: keys.index((row["source"], row["name"])))
    write("effort_zoo", {"least_asked": ASKED, "share_of_macs": SHARE, "num_samples": NUM_SAMPLES, "rows": done})
    PARTIAL.unlink()
    DOCUMENT.write_text(document(json.loads((RESULTS / "effort_zoo.json").read_text())))


def document(results: dict) -> str:
    """Return docs/effort-zoo.md."""
    rows, made = results["rows"], results["environment"]
    ended = [row for row in rows if "failed" not in row]
    on_time = [row for row in ended if row["seconds_of_steps"] <= FORECAST * SHARE_FOR_SEARCH * row["asked"]]
    lines = [
        "# The zoo by effort",
        "",
        f"Written by `python benchmarks/effort/zoo.py` (torch {made['packages']['torch']}, seed {made['seed']}, "
        f"{made['num_threads']} thread, {made['processor']}): each network to {results['share_of_macs']:.0%} of its "
        f"multiply-accumulates with a time for the search and no other option (priced in what is asked for, readers "
        f"refit where that is cheap), {results['num_samples']} samples, random weights. "
        f"{results['least_asked']} s were asked for, or a quarter more than the least that one ranking takes. "
        f"A search plans to use {SHARE_FOR_SEARCH:.0%} of the time; the column *in all* has tracing, "
        "trials, cut and proof, too, which no effort counts.",
        "",
        f"Of {len(rows)} networks, {len(ended)} ended, {sum(row['met'] for row in ended)} at their goal; the steps of "
        f"{len(on_time)} took at most {FORECAST} times what was planned for them.",
        "",
        *([results["note"], ""] if "note" in results else []),
        "| source | network | asked, s | steps, s | in all, s | estimate | neurons gone | of the MACs | peak memory |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['source']} | {row['name']} | {row['failed'].replace('|', '/')} | | | | | | |")
            continue
        lines.append(
            f"| {row['source']} | {row['name']} | {row['asked']} | {row['seconds_of_steps']} | {row['seconds']} | "
            f"{row['criterion']} | {row['removed']:,} | {row['share_of_macs']:.0%} | {row['peak_mib']:,} MiB |"
        )
    return "\n".join([*lines, ""])


def apart(source: str, name: str) -> dict:
    """Prune one architecture in a process of its own."""
    command = [sys.executable, __file__, "--one", source, name]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=MOST, check=False)
    except subprocess.TimeoutExpired:
        return {"source": source, "name": name, "failed": f"not ended after {MOST} s"}
    if ended.returncode:
        return {"source": source, "name": name, "failed": (ended.stderr.strip().splitlines() or ["killed"])[-1]}
    return {"source": source, "name": name, **json.loads(ended.stdout.splitlines()[-1])}


def one(architecture: Architecture) -> dict:
    """Prune one architecture, and return what was asked and what it took."""
    model, inputs = architecture.build()
    samples = tuple(more(tensor) for tensor in inputs)
    model, task = ready(model, samples)
    asked = ASKED
    while True:
        started = time.perf_counter()
        try:
            run = sn.prune(task, goals=[sn.Macs(f"{SHARE:.0%}")], effort=f"{asked}s")
            break
        except sn.BadInputError as error:
            enough = re.match(r"effort must be at least (\d+)s here", str(error))
            if enough is None:
                raise
            asked = math.ceil(1.25 * int(enough[1]))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    costs = run.measures.costs
    return {
        "asked": asked,
        "seconds": round(seconds, 1),
        "seconds_of_steps": round(sum(step.seconds for step in run.history), 1),
        "removed": len(run.plan.removed),
        "met": run.is_met,
        "share_of_macs": round(costs.macs / run.history[0].measures.costs.macs, 3),
        "criterion": run.config.criterion,
        "passes": run.config.content.get("passes"),
        "peak_mib": peak,
    }


def more(tensor: Tensor) -> Tensor:
    """As many samples as are wanted, like these."""
    shape = (NUM_SAMPLES, *tensor.shape[1:])
    if tensor.is_floating_point():
        return torch.randn(shape).to(tensor.dtype)
    return torch.randint(int(tensor.min()), int(tensor.max()) + 1, shape).to(tensor.dtype)


def ready(model: nn.Module, samples: tuple[Tensor, ...]) -> tuple[nn.Module, sn.Task]:
    """A task: by random labels where the answers are one row of numbers a sample, else by its own answers."""
    with torch.no_grad():
        answers = model(*(tensor[:2] for tensor in samples))
    is_row = isinstance(answers, Tensor) and answers.dim() == 2 and answers.shape[1] > 1
    if is_row:
        return model, sn.Task(model, "cross-entropy", (*samples, torch.randint(0, answers.shape[1], (NUM_SAMPLES,))))
    named = dict(zip(inspect.signature(model.forward).parameters, samples, strict=False))
    return model, sn.Task(model, "own-answers", named if len(samples) > 1 else samples)


if __name__ == "__main__":
    torch.manual_seed(SEED)
    if sys.argv[1:2] == ["--one"]:
        warnings.simplefilter("ignore")
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        print("\n" + json.dumps(one(next(a for a in ALL if [a.source, a.name] == sys.argv[2:]))))
    else:
        main()
