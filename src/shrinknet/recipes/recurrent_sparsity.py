"""Exploring Sparsity in Recurrent Neural Networks, on characters."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from shrinknet.core.folder import environment
from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Table, Verdict
from shrinknet.recipes.files import Files, Rows
from shrinknet.report.pictures import COLOURS, figure
from shrinknet.sparsify.base import Sparsifier
from shrinknet.sparsify.methods.gradual_threshold import GradualThreshold, dense_thresholds
from shrinknet.sparsify.methods.undecayed_pruning import OneShot
from shrinknet.sparsify.schedules import cosine
from shrinknet.sparsify.stored import product_times
from shrinknet.sparsify.training import Training, mean_loss
from shrinknet.task.losses import cross_entropy

LENGTH = 64
BATCH = 64
EPOCHS = 8
RATE = 4e-3
EMBEDDING = 32
WIDTH, BIG = 128, 256
FREQ = 20
BLOCK = 4
GROUP_LASSO = 2e-5
CALIBRATED = 0.95
CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"LSTM": nn.LSTM, "GRU": nn.GRU}
MATRICES = ("recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "out.weight")


class Characters(nn.Module):
    """The next character of each: an embedding, one recurrent layer, a dense layer. [N, T] in, [N, symbols, T] out."""

    def __init__(self, cell: str, width: int, num_symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_symbols, EMBEDDING)
        self.recurrent = CELLS[cell](EMBEDDING, width, batch_first=True)
        self.out = nn.Linear(width, num_symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the logits of each next symbol."""
        hidden: Tensor = self.recurrent(self.embedding(symbols))[0]
        logits: Tensor = self.out(hidden)
        return logits.movedim(-1, 1)


def run(source: Files, seed: int, tell: Tell) -> Results:
    """Train, for each cell: dense, sparse by q, sparse to a share, hard pruned, in blocks; big ones; a small one."""
    started = time.perf_counter()
    train, held_out, num_symbols = text_rows(source.shakespeare())
    found, timings = list[dict[str, Any]](), list[dict[str, Any]]()
    names = ("dense", "sparse by q", "calibrated", "hard", "blocks", "big dense", "big sparse", "small dense")
    for place, cell in enumerate(CELLS):
        dense_model: Characters | None = None
        kept = 0
        for done, name in enumerate(names):
            tell(f"{cell}, {name}", (place + done / len(names)) / len(CELLS))
            width = {"big dense": BIG, "big sparse": BIG, "small dense": 0}.get(name, WIDTH)
            if name == "small dense":
                width = _width_for(cell, kept, num_symbols)
            torch.manual_seed(seed)
            model = Characters(cell, width, num_symbols)
            row = _trained(name, model, dense_model, train, held_out, seed, found)
            found.append({"cell": cell, "name": name, "width": width, **row})
            dense_model = model if name in ("dense", "big dense") else dense_model
            kept = row["nonzeros"] if name == "big sparse" else kept
            if name in {"sparse by q", "blocks", "big sparse"}:
                matrix = dict(model.named_parameters())["recurrent.weight_hh_l0"]
                for batch in (1, 32):
                    times = product_times(matrix, batch, BLOCK if name == "blocks" else None)
                    timings.append({"cell": cell, "name": name, "batch": batch, "shape": list(matrix.shape), **times})
    return {
        "recipe": "recurrent-sparsity", "seed": seed, "rows": found, "timings": timings,
        "training": {"epochs": EPOCHS, "batch": BATCH, "length": LENGTH, "optimizer": f"Adam {RATE}, cosine, clip 1",
                     "freq": FREQ, "rows": len(train[0])},
        "seconds": round(time.perf_counter() - started, 1),
        "environment": {**environment(), "num_threads": torch.get_num_threads()},
    }  # fmt: skip


def text_rows(text: str) -> tuple[Rows, Rows, int]:
    """Return pieces of 64 characters and what follows each: the first 90 % to train on, the rest held out."""
    symbols = {symbol: number for number, symbol in enumerate(sorted(set(text)))}
    numbers = torch.tensor([symbols[symbol] for symbol in text])
    count = (len(numbers) - 1) // LENGTH
    inputs, targets = (numbers[s : s + count * LENGTH].view(count, LENGTH) for s in (0, 1))
    border = count * 9 // 10
    return (inputs[:border], targets[:border]), (inputs[border:], targets[border:]), len(symbols)


def _width_for(cell: str, nonzeros: int, num_symbols: int) -> int:
    """The narrowest dense network with at least so many weights."""
    gates = {"LSTM": 4, "GRU": 3}[cell]
    width = 1
    while gates * width * (EMBEDDING + width) + num_symbols * width < nonzeros:
        width += 1
    return width


def _trained(
    name: str, model: Characters, dense: Characters | None, train: Rows, held_out: Rows, seed: int,
    found: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    started = time.perf_counter()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    training = Training(model, cross_entropy, train, optimizer, BATCH, seed, EPOCHS, rate=cosine, clip=1.0)
    sparsifier = None if dense is None or name.endswith("dense") else _sparsifier(name, model, dense, training, found)
    curve = []
    training.sparsifier = sparsifier
    for _ in training.epochs():
        gone = 0.0 if sparsifier is None else 1 - sparsifier.density
        curve.append([round(mean_loss(model, cross_entropy, held_out), 4), round(gone, 4)])
    if sparsifier is not None:
        sparsifier.finish()
    weights = [dict(model.named_parameters())[name].detach() for name in MATRICES]
    nonzeros = sum(int(weight.count_nonzero()) for weight in weights)
    return {
        "loss": curve[-1][0], "curve": curve, "nonzeros": nonzeros,
        "sparsity": round(1 - nonzeros / sum(weight.numel() for weight in weights), 5),
        "by_matrix": [round(1 - int(weight.count_nonzero()) / weight.numel(), 4) for weight in weights],
        "q": dict(sparsifier.q) if isinstance(sparsifier, GradualThreshold) else None,
        "last_threshold": _last(sparsifier), "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def _sparsifier(
    name: str, model: Characters, dense: Characters, training: Training, found: list[dict[str, Any]]
) -> Sparsifier:
    """The paper's heuristics: from the second epoch, steeper after a quarter, over at half; q of the dense one."""
    per_epoch = training.steps_per_epoch
    times: dict[str, Any] = {
        "start": per_epoch,
        "ramp": EPOCHS * per_epoch // 4,
        "end": EPOCHS * per_epoch // 2,
        "freq": FREQ,
    }
    if name == "hard":
        sparsity = [row["sparsity"] for row in found if row["name"] == "sparse by q"][-1]
        return OneShot(model, sparsity=sparsity, at=EPOCHS * per_epoch // 2)
    if name == "calibrated":
        return GradualThreshold(model, **times, dense=dense.state_dict(), sparsity=CALIBRATED)
    blocks: dict[str, Any] = {"block": BLOCK, "pad": True, "group_lasso": GROUP_LASSO} if name == "blocks" else {}
    return GradualThreshold(model, **times, q=dense_thresholds(dense), **blocks)


def _last(sparsifier: Sparsifier | None) -> dict[str, float] | None:
    if not isinstance(sparsifier, GradualThreshold):
        return None
    return {kind: sparsifier.ramp.threshold(sparsifier.ramp.end, q) for kind, q in sparsifier.q.items()}


def _row(results: Results, cell: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(r for r in results["rows"] if (r["cell"], r["name"]) == (cell, name))
    return found


def verdicts(results: Results) -> list[Verdict]:
    """Return whether the rule gives the paper's sparsity and big sparse networks beat small dense ones."""
    found: list[Verdict] = []
    for cell in CELLS:
        by_q, big, small = (_row(results, cell, name) for name in ("sparse by q", "big sparse", "small dense"))
        share = _row(results, cell, "calibrated")["sparsity"]
        ends = [abs(by_q["last_threshold"][kind] / q - 1) for kind, q in by_q["q"].items()]
        found += [
            (f"{cell}: 85 to 92 % sparse by the rule q = 90th percentile of the dense network",
             0.85 <= by_q["sparsity"] <= 0.92, f"{100 * by_q['sparsity']:.1f} %"),
            (f"{cell}: a larger sparse network beats a smaller dense one of the same non-zero count",
             big["loss"] < small["loss"] and big["nonzeros"] <= small["nonzeros"],
             f"{BIG} wide, {big['nonzeros']:,} weights: {big['loss']:.4f}; {small['width']} wide, "
             f"{small['nonzeros']:,} weights: {small['loss']:.4f}"),
            (f"{cell}: the calibrated variant hits {100 * CALIBRATED:.0f} % to 0.5 point",
             abs(share - CALIBRATED) <= 0.005, f"{100 * share:.2f} %"),
            (f"{cell}: the threshold ends within 2 % of q", max(ends) <= 0.02, f"{100 * max(ends):.2f} %"),
        ]  # fmt: skip
    return found


def _gain(times: dict[str, Any]) -> float:
    """How many times faster the better sparse product is."""
    return float(times["dense"] / min(times["csr"], times.get("bsr", times["csr"])))


def tables(results: Results) -> list[Table]:
    """Return the losses, and the times of sparse products."""
    rows = [
        [r["cell"], r["name"], str(r["width"]), f"{r['loss']:.4f}", f"{100 * r['sparsity']:.1f}",
         ", ".join(f"{100 * s:.1f}" for s in r["by_matrix"]), f"{r['nonzeros']:,}", f"{r['seconds']:.0f}"]
        for r in results["rows"]
    ]  # fmt: skip
    timings = [
        [t["cell"], t["name"], " x ".join(map(str, t["shape"])), str(t["batch"]), f"{t['dense']:.1f}",
         f"{t['csr']:.1f}", f"{t['bsr']:.1f}" if "bsr" in t else "", f"{_gain(t):.2f}"]
        for t in results["timings"]
    ]  # fmt: skip
    published = [["RNN dense", "1760", "10.67", "67 M"], ["RNN dense small", "704", "14.50", "11.6 M"],
                 ["RNN sparse", "1760", "12.88", "8.3 M"], ["RNN sparse big", "3072", "10.25", "16.7 M"],
                 ["GRU dense", "2560", "9.55", "115 M"], ["GRU sparse", "2560", "10.87", "13 M"],
                 ["GRU sparse medium", "3568", "9.76", "17.8 M"]]  # fmt: skip
    return [
        Table("Held-out loss, nats a character", ("cell", "", "width", "loss", "sparsity, %", "input, recurrent, out",
                                                  "weights left", "seconds"), rows),
        Table("One product with the recurrent matrix, microseconds", (
            "cell", "", "matrix", "batch", "dense", "CSR", "BSR", "times faster"), timings),
        Table("Published: Deep Speech 2, character error rate", ("", "units", "CER, %", "parameters"), published,
              frozenset(range(len(published)))),
    ]  # fmt: skip


def _draw(results: Results) -> bytes:
    def panels(whole: Any, axes: Sequence[Axes]) -> None:
        for axis, cell in zip(axes, CELLS, strict=True):
            for colour, row in zip(COLOURS, [r for r in results["rows"] if r["cell"] == cell], strict=False):
                epochs = range(1, len(row["curve"]) + 1)
                label = f"{row['name']}, {row['width']} wide"
                axis.plot(epochs, [loss for loss, _ in row["curve"]], "o-", color=colour, label=label)
            axis.set_xlabel("epoch")
            axis.set_title(cell)
            axis.legend(fontsize=8, frameon=False)
        axes[0].set_ylabel("held-out loss, nats a character")

    return figure(2, panels)


def notes(results: Results) -> list[str]:
    """Return what the figures mean."""
    hard = ", ".join(
        f"{cell} {_row(results, cell, 'hard')['loss']:.4f} against {_row(results, cell, 'sparse by q')['loss']:.4f}"
        for cell in CELLS
    )
    fastest, slowest = (of(map(_gain, results["timings"])) for of in (max, min))
    return [
        "Sparsity counts the matrices that are pruned: input, recurrent and output. Biases and the embedding are left "
        "whole, as in the paper. Every network is trained for the same number of steps, sparse ones from scratch; the "
        "small dense one has at least as many weights as the big sparse one has left.",
        "q comes from a dense network of the same width, for the big sparse network too: the weights of a wider "
        "network are smaller, and the narrower one's q, taken in a first run, pruned it far harder and ended in a tie "
        "with the small dense network.",
        f"Hard pruning (all at once at half the training, to the sparsity that the rule gave) ends at: {hard}.",
        "Blocks: tiles of 4 x 4, represented by their largest weight, thresholds times N^(1/4), with a group lasso of "
        f"{GROUP_LASSO:g} until pruning ends (Narang, Undersander, Diamos 2017); same q. The last tiles of the "
        "output matrix stand over its edge.",
        f"Times are honest: between {slowest:.2f} and {fastest:.2f} times the speed of the dense product on this "
        "machine. Sparse products of matrices this small win little or nothing; the file is smaller all the same. "
        "The paper's 2 to 7 times are those of matrices fifteen times as wide, on a GPU.",
    ]


RECIPES = (
    Recipe(
        "recurrent-sparsity",
        "Sparsity in recurrent networks: a rising threshold while training",
        "Narang, Elsen, Diamos, Sengupta, Exploring Sparsity in Recurrent Neural Networks (ICLR 2017, arXiv "
        "1704.05119); blocks after Narang, Undersander, Diamos (arXiv 1711.02782).",
        run,
        verdicts,
        tables,
        {"losses.png": ("held-out loss after each epoch", _draw)},
        notes,
    ),
)
