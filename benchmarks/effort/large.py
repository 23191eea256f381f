"""Large networks with random weights by the default search: does it end in its 10 minutes, and in how much memory?

    python benchmarks/effort/large.py [resnet50 gpt2] [--effort 1min] [--rows 16]

`resnet50`: torchvision's, 256 images of 224 x 224 pixels, 1,000 outputs, to 70 % of its multiply-accumulates. `gpt2`:
8 layers of width 512 and 50,257 tokens, which is 51 million parameters, 64 sequences of 128 tokens, the next token's
cross-entropy, to 80 % of its multiply-accumulates; neurons are those of the feed-forward layers and whole heads. Each
in a process of its own; seconds are of `prune` alone, `steps_seconds` those of its steps, for which four fifths of the
time are planned; memory is the process's highest.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("ablation", "zoo")]

import torch
from cpu_torchvision import models
from rounds import RESULTS, SEED, write

import shrinknet as sn
from shrinknet.core.config import DEFAULT_EFFORT
from shrinknet.core.units import effort_seconds

ROWS = {"resnet50": 256, "gpt2": 64}


def main() -> None:
    """Prune what is asked for, beside what was measured before."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(ROWS))
    parser.add_argument("--effort", default=DEFAULT_EFFORT)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--one", action="store_true")
    asked = parser.parse_args()
    if asked.one:
        print("\n" + json.dumps(one(asked.names[0], asked.rows, asked.effort)))
        return
    path = RESULTS / "effort_large.json"
    found = json.loads(path.read_text())["networks"] if path.exists() else {}
    for name in asked.names:
        how = ["--one", "--effort", asked.effort, "--rows", str(asked.rows or ROWS[name])]
        command = [sys.executable, __file__, name, *how]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(ended.stdout.splitlines()[-1])
        print(name, found[name], flush=True)
    if asked.effort == DEFAULT_EFFORT and asked.rows is None:
        write("effort_large", {"networks": found})


def one(name: str, rows: int, effort: str) -> dict[str, object]:
    """Prune one network, and return what it took."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(SEED)
    task, goal = {"resnet50": resnet50, "gpt2": gpt2}[name](rows)
    started = time.perf_counter()
    run = sn.prune(task, goals=[goal], effort=effort, progress=Said())
    seconds = time.perf_counter() - started
    start, end = run.history[0].measures.costs, run.measures.costs
    return {
        "seconds_asked": effort_seconds(effort), "seconds": round(seconds), "rows": rows, "met": run.is_met,
        "share_of_macs": end.macs / start.macs, "neurons": start.num_neurons, "removed": len(run.plan.removed),
        "steps": len(run.history) - 1, "steps_seconds": round(sum(step.seconds for step in run.history[1:])),
        "passes": run.config.content.get("passes"), "proven": run.verification.holds,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }  # fmt: skip


class Said:
    """Says each step."""

    def ranking(self, done: int, total: int) -> None:
        """Say nothing."""

    def tell(self, what: str, fraction: float) -> None:
        """Say nothing."""

    def step(self, step: sn.Step, fraction: float) -> None:
        """Say how far the search is."""
        logging.info(
            "step %d: %d removed, %.0f s, %.0f %%", step.number, len(step.removed), step.seconds, 100 * fraction
        )


def resnet50(rows: int) -> tuple[sn.Task, sn.Goal]:
    """Return torchvision's ResNet-50 with images and labels at random."""
    data = torch.randn(rows, 3, 224, 224), torch.randint(0, 1000, (rows,))
    return sn.Task(models.resnet50(weights=None).eval(), "cross-entropy", data), sn.Macs("70%")


def gpt2(rows: int) -> tuple[sn.Task, sn.Goal]:
    """Return a GPT-2 of 51 million parameters with tokens at random."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=8, n_embd=512, n_head=8, n_positions=128, use_cache=False)).eval()
    ids = torch.randint(0, 50257, (rows, 128))
    return sn.Task(model, "next-token", ({"input_ids": ids}, ids)), sn.Macs("80%")


if __name__ == "__main__":
    main()
