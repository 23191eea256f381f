"""A small GPT-2 trained on Shakespeare's text: perplexity at 80 % of its multiply-accumulates, by effort and exactly.

    SHRINKNET_DATA=... python benchmarks/effort/shakespeare.py

2 layers of width 64 with 4 heads read 64 characters; trained by the benchmark on the first nine tenths of the text.
Scores see 64 sequences of the training text, perplexity is that on 200 sequences of the last tenth. Feed-forward
neurons and whole heads go. Each effort is in forward passes; the exact search ranks again after every neuron.
"""

import math
import os
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("ablation", "zoo")]

import cpu_torchvision  # noqa: F401  (lets transformers import beside a CPU-only torch)
import torch
from rounds import SEED, once, write
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import shrinknet as sn

LENGTH, BATCH, STEPS, RATE = 64, 64, 1500, 3e-3
ROWS, ROWS_TESTED, SHARE = 64, 200, "80%"
EFFORTS, SEEDS = (20, 60, 200), (0, 1, 2)


def main() -> None:
    """Train, prune by each effort and exactly, and write perplexities."""
    torch.manual_seed(SEED)
    trained_on, tested_on, num_symbols = text()
    model = small_gpt2(num_symbols)
    train(model, trained_on)
    test = tested_on[: ROWS_TESTED * LENGTH].view(-1, LENGTH)
    ids = drawn(trained_on, ROWS)
    task = sn.Task(model.eval(), "next-token", ({"input_ids": ids}, ids), batch_size=ROWS)
    found = {"untouched": {"perplexity": perplexity(model, test)}}
    for effort in EFFORTS:
        runs = [pruned(task, test, effort, seed) for seed in SEEDS]
        found[str(effort)] = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        print(effort, found[str(effort)], flush=True)
    found["exact"] = pruned(task, test, "exact", SEEDS[0])
    write("effort_shakespeare", {"share_of_macs": SHARE, "rows": ROWS, "seeds": SEEDS, "by_effort": found})


def small_gpt2(num_symbols: int) -> nn.Module:
    """Return an untrained GPT-2 without dropout."""
    sizes = {"vocab_size": num_symbols, "n_positions": LENGTH, "n_embd": 64, "n_layer": 2, "n_head": 4}
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(**sizes, **drops, bos_token_id=0, eos_token_id=0, use_cache=False))


def text() -> tuple[Tensor, Tensor, int]:
    """Return the characters to train on, those to test on, and how many kinds there are."""
    characters = (Path(os.environ["SHRINKNET_DATA"]) / "text" / "tinyshakespeare.txt").read_text()
    kinds = {character: number for number, character in enumerate(sorted(set(characters)))}
    ids = torch.tensor([kinds[character] for character in characters])
    end = len(ids) * 9 // 10
    return ids[:end], ids[end:], len(kinds)


def drawn(ids: Tensor, count: int) -> Tensor:
    """Return so many sequences, each from a place at random."""
    starts = torch.randint(0, len(ids) - LENGTH, (count,))
    return torch.stack([ids[start : start + LENGTH] for start in starts])


def train(model: nn.Module, ids: Tensor) -> None:
    """Train on sequences drawn at random."""
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for step in range(STEPS):
        rows = drawn(ids, BATCH)
        loss = model(input_ids=rows, labels=rows)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        if step % 250 == 0:
            print(f"step {step}: {loss.item():.3f}", flush=True)


@torch.no_grad()
def perplexity(model: nn.Module, rows: Tensor) -> float:
    """Return exp of the mean loss of a character."""
    return math.exp(model.eval()(input_ids=rows, labels=rows).loss.item())


def pruned(task: sn.Task, test: Tensor, effort: object, seed: int) -> dict[str, float]:
    """Prune once, and return what came of it."""
    runs: list[sn.Run] = []
    goals = [sn.Macs(SHARE)]
    how = {"price": "neuron", "compensate": "none", "scoring": sn.Scoring("4GiB")}
    seconds = once(lambda: runs.append(sn.prune(task, goals=goals, effort=effort, seed=seed, **how)))
    removed, steps = len(runs[0].plan.removed), len(runs[0].history) - 1
    return {"perplexity": perplexity(runs[0].model, test), "seconds": seconds, "removed": removed, "steps": steps}


if __name__ == "__main__":
    main()
