"""Networks that read Shakespeare's text at half of their neurons: how much of the rise of the loss each refit undoes.

    SHRINKNET_DATA=... python benchmarks/fitting/sequences.py

Two networks read 64 characters and say the next one: an LSTM of 128 units behind an embedding of 32, and a GPT-2 of 2
layers, width 64 and 4 heads. Both are trained by the benchmark on the first nine tenths of the text. Scores and refits
see 256 sequences of the training text, drawn by each of three seeds; the loss is that on 200 sequences of the last
tenth, which nothing else sees. Half of all removable neurons go (units of the LSTM and places of its embedding; the
transformer's feed-forward neurons, heads and places of its residual stream), chosen within 60 passes.
"""

import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("ablation", "zoo", "effort")]

import torch
from rounds import SEED, once, write
from shakespeare import LENGTH, ROWS_TESTED, drawn, small_gpt2, text, train
from torch import Tensor, nn

import shrinknet as sn

KINDS = ("none", "mean", "scale", "least-squares")
ROWS, SEEDS, EFFORT, SHARE = 256, (0, 1, 2), 60, 0.5


class Reading(nn.Module):
    """Characters, an embedding, an LSTM, and what the next character is."""

    def __init__(self, num_symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_symbols, 32)
        self.cells = nn.LSTM(32, 128, batch_first=True)
        self.head = nn.Linear(128, num_symbols)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return the scores of each next character, and their cross-entropy where labels are given."""
        scores = self.head(self.cells(self.embedding(input_ids))[0])
        if labels is None:
            return {"logits": scores}
        return {"loss": nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}


def main() -> None:
    """Train both, halve each with every kind of refit, and write the losses."""
    found = {}
    for name in ("lstm", "gpt2"):
        torch.manual_seed(SEED)
        trained_on, tested_on, num_symbols = text()
        model = Reading(num_symbols) if name == "lstm" else small_gpt2(num_symbols)
        train(model, trained_on)
        test = tested_on[: ROWS_TESTED * LENGTH].view(-1, LENGTH)
        rows = [halved(model.eval(), trained_on, test, kind, seed) for kind in KINDS for seed in SEEDS]
        found[name] = {"untouched": loss(model, test), "runs": rows, "share_of_rise": shares(model, rows, test)}
        print(name, found[name]["untouched"], found[name]["share_of_rise"], flush=True)
    write("fitting_sequences", {"rows": ROWS, "passes": EFFORT, "share_of_neurons": SHARE, "networks": found})


def halved(model: nn.Module, trained_on: Tensor, test: Tensor, kind: str, seed: int) -> dict[str, object]:
    """Remove half of the neurons, and return the loss on what nothing else saw."""
    torch.manual_seed(seed)
    ids = drawn(trained_on, ROWS)
    task = sn.Task(model, "next-token", ({"input_ids": ids}, ids), batch_size=64)
    runs: list[sn.Run] = []
    how = {"effort": EFFORT, "price": "neuron", "compensate": kind, "seed": seed, "scoring": sn.Scoring("4GiB")}
    seconds = once(lambda: runs.append(sn.prune(task, goals=[sn.RemovedFraction(SHARE)], **how)))
    return {
        "kind": kind,
        "seed": seed,
        "removed": len(runs[0].plan.removed),
        "loss": loss(runs[0].model, test),
        "seconds": seconds,
    }


def shares(model: nn.Module, rows: list[dict], test: Tensor) -> dict[str, dict[str, float]]:
    """Return the rise of the loss by kind: its mean over seeds, and as a share of that without any refit."""
    before = loss(model, test)
    rises = {kind: statistics.mean(row["loss"] - before for row in rows if row["kind"] == kind) for kind in KINDS}
    return {kind: {"rise": rise, "share": rise / rises["none"]} for kind, rise in rises.items()}


@torch.no_grad()
def loss(model: nn.Module, rows: Tensor) -> float:
    """Return the mean loss of a character."""
    return float(
        nn.functional.cross_entropy(model(input_ids=rows)["logits"][:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    )


if __name__ == "__main__":
    main()
