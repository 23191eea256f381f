"""Exploring Sparsity in Recurrent Neural Networks, on characters."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Row, Verdict, told, where
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.training import Course
from shrinknet.report.pictures import COLOURS, legend, png, sheet
from shrinknet.sparsify.base import Sparsifier
from shrinknet.sparsify.methods.gradual_threshold import GradualThreshold, dense_thresholds
from shrinknet.sparsify.methods.undecayed_pruning import OneShot
from shrinknet.sparsify.schedules import cosine
from shrinknet.sparsify.stored import product_times
from shrinknet.sparsify.training import Training, mean_loss
from shrinknet.task.per_sample import cross_entropy

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
NAMES = ("dense", "sparse by q", "calibrated", "hard", "blocks", "big dense", "big sparse", "small dense")
TIMED = {"sparse by q", "blocks", "big sparse"}
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


COURSE = Course(optimizer=lambda own: torch.optim.Adam(own, lr=RATE), batch=BATCH, rate=cosine, clip=1.0)


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train, for each cell: dense, sparse by q, sparse to a share, hard pruned, in blocks; big ones; a small one."""
    train, held_out, num_symbols = text_rows(source.shakespeare())
    found, timings = list[Row](), list[Row]()
    dense_model: Characters | None = None
    kept = 0
    for cell, name in told(tell, [(cell, name) for cell in CELLS for name in NAMES], ", ".join):
        width = BIG if name.startswith("big") else WIDTH
        if name == "small dense":
            width = _width_for(cell, kept, num_symbols)
        torch.manual_seed(seed)
        model = Characters(cell, width, num_symbols)
        row = _trained(name, model, dense_model, train, held_out, seed, found)
        found.append({"cell": cell, "name": name, "width": width, **row})
        dense_model = model if name in ("dense", "big dense") else dense_model
        kept = row["nonzeros"] if name == "big sparse" else kept
        if name in TIMED:
            timings += _timed(cell, name, model)
    facts = {
        "epochs": EPOCHS,
        "batch": BATCH,
        "length": LENGTH,
        "optimizer": f"Adam {RATE}, cosine, clip 1",
        "freq": FREQ,
        "rows": len(train[0]),
    }
    return {"rows": found, "timings": timings, "training": facts}


def _timed(cell: str, name: str, model: Characters) -> list[Row]:
    """How long products with the recurrent matrix take."""
    matrix = model.get_parameter("recurrent.weight_hh_l0")
    timed = list[Row]()
    for batch in (1, 32):
        times = product_times(matrix, batch, BLOCK if name == "blocks" else None)
        timed.append({"cell": cell, "name": name, "batch": batch, "shape": list(matrix.shape), **times})
    return timed


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
    name: str, model: Characters, dense: Characters | None, train: Rows, held_out: Rows, seed: int, found: list[Row]
) -> Row:
    started = time.perf_counter()
    training = COURSE.training(model, train, EPOCHS, seed)
    sparsifier = None if dense is None or name.endswith("dense") else _sparsifier(name, model, dense, training, found)
    curve = []
    training.sparsifier = sparsifier
    for _ in training.epochs():
        gone = 0.0 if sparsifier is None else 1 - sparsifier.density
        curve.append([round(mean_loss(model, cross_entropy, held_out), 4), round(gone, 4)])
    if sparsifier is not None:
        sparsifier.finish()
    sizes = [(int(one.count_nonzero()), one.numel()) for one in map(model.get_parameter, MATRICES)]
    nonzeros = sum(left for left, _ in sizes)
    q = dict(sparsifier.q) if isinstance(sparsifier, GradualThreshold) else None
    return {
        "loss": curve[-1][0],
        "curve": curve,
        "nonzeros": nonzeros,
        "sparsity": round(1 - nonzeros / sum(whole for _, whole in sizes), 5),
        "by_matrix": [round(1 - left / whole, 4) for left, whole in sizes],
        "q": q,
        "last_threshold": _last(sparsifier),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _sparsifier(name: str, model: Characters, dense: Characters, training: Training, found: list[Row]) -> Sparsifier:
    """The paper's heuristics: from the second epoch, steeper after a quarter, over at half; q of the dense one."""
    first, steps = training.steps_per_epoch, EPOCHS * training.steps_per_epoch
    times: dict[str, Any] = {"start": first, "ramp": steps // 4, "end": steps // 2, "freq": FREQ}
    if name == "hard":
        return OneShot(model, sparsity=where(found, name="sparse by q")[-1]["sparsity"], at=steps // 2)
    if name == "calibrated":
        return GradualThreshold(model, **times, dense=dense.state_dict(), sparsity=CALIBRATED)
    blocks: dict[str, Any] = {"block": BLOCK, "pad": True, "group_lasso": GROUP_LASSO} if name == "blocks" else {}
    return GradualThreshold(model, **times, q=dense_thresholds(dense), **blocks)


def _last(sparsifier: Sparsifier | None) -> dict[str, float] | None:
    if not isinstance(sparsifier, GradualThreshold):
        return None
    return {kind: sparsifier.ramp.threshold(sparsifier.ramp.end, q) for kind, q in sparsifier.q.items()}


def _row(results: Results, cell: str, name: str) -> Row:
    return where(results["rows"], cell=cell, name=name)[0]


def verdicts(results: Results) -> list[Verdict]:
    """Return whether the rule gives the paper's sparsity and big sparse networks beat small dense ones."""
    found: list[Verdict] = []
    for cell in CELLS:
        by_q, big, small = (_row(results, cell, name) for name in ("sparse by q", "big sparse", "small dense"))
        what = f"{cell}: 85 to 92 % sparse by the rule q = 90th percentile of the dense network"
        found.append((what, 0.85 <= by_q["sparsity"] <= 0.92, f"{100 * by_q['sparsity']:.1f} %"))
        what = f"{cell}: a larger sparse network beats a smaller dense one of the same non-zero count"
        beats = big["loss"] < small["loss"] and big["nonzeros"] <= small["nonzeros"]
        seen = "; ".join(f"{r['width']} wide, {r['nonzeros']:,} weights: {r['loss']:.4f}" for r in (big, small))
        found.append((what, beats, seen))
        share = _row(results, cell, "calibrated")["sparsity"]
        what = f"{cell}: the calibrated variant hits {100 * CALIBRATED:.0f} % to 0.5 point"
        found.append((what, abs(share - CALIBRATED) <= 0.005, f"{100 * share:.2f} %"))
        off = max(abs(by_q["last_threshold"][kind] / q - 1) for kind, q in by_q["q"].items())
        found.append((f"{cell}: the threshold ends within 2 % of q", off <= 0.02, f"{100 * off:.2f} %"))
    return found


def draw(results: Results) -> bytes:
    """Draw the held-out loss after each epoch."""
    whole, axes = sheet(2)
    for axis, cell in zip(axes, CELLS, strict=True):
        for colour, row in zip(COLOURS, where(results["rows"], cell=cell), strict=False):
            losses = [loss for loss, _ in row["curve"]]
            label = f"{row['name']}, {row['width']} wide"
            axis.plot(range(1, len(losses) + 1), losses, "o-", color=colour, label=label)
        axis.set(xlabel="epoch", title=cell)
        legend(axis)
    axes[0].set_ylabel("held-out loss, nats a character")
    return png(whole)


def figures(results: Results) -> dict[str, Any]:
    """Return the losses, the times of sparse products, and what the notes say of them."""
    timings = [
        {**one, "gain": one["dense"] / min(one["csr"], one.get("bsr", one["csr"]))} for one in results["timings"]
    ]
    pairs = {cell: [_row(results, cell, name)["loss"] for name in ("hard", "sparse by q")] for cell in CELLS}
    return {
        "rows": results["rows"],
        "timings": timings,
        "hard": ", ".join(f"{cell} {hard:.4f} against {by_q:.4f}" for cell, (hard, by_q) in pairs.items()),
        "group_lasso": GROUP_LASSO,
        "slowest": min(one["gain"] for one in timings),
        "fastest": max(one["gain"] for one in timings),
    }


PICTURES = {"losses.png": ("held-out loss after each epoch", draw)}
RECIPES = (Recipe("recurrent-sparsity", measure, verdicts, figures, PICTURES),)
