"""Forecast beside measurement for every network of the zoo: the length of its .pte file, and its arena.

    python benchmarks/fitting/forecasts.py [SECONDS]

Each architecture with one input is cut at random widths (a seeded share of each group, up to a half goes), its file is
made by ExecuTorch and run, and the length and the arena that the untouched network's file and the plan forecast are
compared with those of the file. What ExecuTorch cannot take is named with its reason. With SECONDS it stops after that
long and says how many it came to.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ablation"))

import numpy as np
import torch
from rounds import SEED, write

import shrinknet as sn
from shrinknet.core.errors import ShrinknetError
from shrinknet.export.artefact import Artefact
from shrinknet.export.inference import InferenceGraph, by_torch
from shrinknet.surgery.remove import cut_graph

SHARE = 0.5


def main() -> None:
    """Compare as many as time allows."""
    from architectures import ALL

    started, most = time.monotonic(), float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
    rows, not_taken = [], []
    for architecture in ALL:
        if time.monotonic() - started > most:
            break
        model, inputs = architecture.build()
        if len(inputs) > 1:
            not_taken.append({"name": architecture.name, "reason": "several inputs: a task has one"})
            continue
        try:
            rows.append({"source": architecture.source, "name": architecture.name, **compared(model, inputs[0])})
        except (ShrinknetError, RuntimeError) as error:
            not_taken.append({"name": architecture.name, "reason": str(error).splitlines()[0][:200]})
        print(rows[-1] if rows else not_taken[-1], flush=True)
    errors = [abs(row["forecast_bytes"] / row["num_bytes"] - 1) for row in rows]
    write("fitting_forecasts", {
        "num_architectures": len(ALL), "num_seen": len(rows) + len(not_taken), "num_compared": len(rows),
        "arenas_exact": sum(row["arena_bytes"] == row["forecast_arena_bytes"] for row in rows),
        "flash_worst": max(errors), "flash_within_2_percent": sum(error <= 0.02 for error in errors),
        "rows": rows, "not_taken": not_taken,
    })  # fmt: skip


def compared(model: torch.nn.Module, inputs: torch.Tensor) -> dict[str, object]:
    """One architecture."""
    task = sn.Task(model, lambda outputs, targets: outputs.flatten(1).sum(1), (inputs, torch.zeros(len(inputs))))
    trace = sn.trace(model, inputs)
    artefact, draw = Artefact(task, trace, "executorch"), np.random.default_rng(SEED)
    gone = [neuron for group in trace.groups for neuron in group.neurons[: int(SHARE * group.width * draw.random())]]
    present = trace.present(tuple(gone))
    cut = cut_graph(trace, present)
    built = artefact.exporter.build(InferenceGraph.of(trace, cut), inputs[:2], [], "none")
    forecast, rows = artefact.costs(present), inputs[:1]
    worst = float((artefact.exporter.answer(built.content)(rows) - by_torch(cut)(rows)).abs().max())
    return {
        "num_bytes": len(built.content), "forecast_bytes": forecast.flash_bytes,
        "arena_bytes": built.arena.num_bytes, "forecast_arena_bytes": forecast.peak_ram_bytes,
        "worst_difference": worst,
    }  # fmt: skip


if __name__ == "__main__":
    main()
