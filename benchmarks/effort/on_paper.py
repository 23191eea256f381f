"""What the effort that `growth.py` measured would take on a transformer of 7 billion parameters: paper, no measurement.

    python benchmarks/effort/on_paper.py

Neurons are the feed-forward units and heads of Llama 2 7B (Touvron et al. 2023); calibration data are 128 sequences of
2,048 tokens. How many passes come within a point of the exact search does not grow with neurons or samples in the
networks of `growth.py`, but with outputs; what is said is for the fewest and the most that one of them needed. A pass
multiplies each parameter with each token once, at the share of a machine's rate of products that whole forward passes
of a GPT-2 reach here. One H100 multiplies and adds 989.4e12 numbers of 16 bits a second (NVIDIA's data sheet, dense);
rows are shared out among several evenly, as `--executor ray` shares them.
"""

import json
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("ablation", "zoo")]

import cpu_torchvision  # noqa: F401  (lets transformers import beside a CPU-only torch)
import torch
from rounds import RESULTS, SEED, write
from transformers import GPT2Config, GPT2LMHeadModel

PARAMETERS, LAYERS, UNITS, HEADS = 6.74e9, 32, 11_008, 32
ROWS, TOKENS = 128, 2048
H100 = 989.4e12 / 2
"""Multiply-accumulates a second."""

MACHINES, SIDE, ROUNDS = (1, 64), 2048, 5


def main() -> None:
    """Measure the share of products, and multiply."""
    torch.manual_seed(SEED)
    grown = json.loads((RESULTS / "effort_growth.json").read_text())
    rows = [row for name in ("neurons", "rows", "outputs") for row in grown[name]]
    needed = sorted({row["needed"] for row in rows if row["needed"] is not None})
    share = share_of_products()
    seconds = PARAMETERS * ROWS * TOKENS / (share * H100)
    hours = {
        f"{passes:g} passes": {f"{count} H100": passes * seconds / count / 3600 for count in MACHINES}
        for passes in (needed[0], needed[-1])
    }
    write("effort_on_paper", {
        "neurons": LAYERS * (UNITS + HEADS), "share_of_products": share, "seconds_of_a_pass": seconds, "hours": hours,
    })  # fmt: skip


def share_of_products() -> float:
    """Return the rate of a GPT-2's forward passes as a share of that of one large product, here."""
    model = GPT2LMHeadModel(GPT2Config(n_layer=8, n_embd=512, n_head=8, n_positions=128, use_cache=False)).eval()
    ids, square = torch.randint(0, 50257, (16, 128)), torch.randn(SIDE, SIDE)
    in_blocks = sum(parameter.numel() for name, parameter in model.named_parameters() if "wte" not in name)
    macs = ids.numel() * (in_blocks + model.lm_head.weight.numel())
    with torch.no_grad():
        return macs / fastest(lambda: model(ids)) / (SIDE**3 / fastest(lambda: square @ square))


def fastest(work) -> float:
    """Return the least seconds of a few calls."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
