"""What the pages of the source paper's experiments show: its curves, tables and words."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from matplotlib.axes import Axes

from shrinknet.recipes.base import Results, Table, Verdict
from shrinknet.report.pictures import legend, png, sheet

LOOK = {
    "ablation": ("#1b6ca8", "-"),
    "taylor-2": ("#2e8b57", "-"),
    "taylor-2-diagonal": ("#e0a100", "-"),
    "taylor-1": ("#d1495b", "-"),
    "authors' taylor-2": ("#2e8b57", ":"),
    "authors' taylor-1": ("#d1495b", ":"),
}
TITLES = {"single-ranking": "single overall ranking (Algorithm 1)", "reranking": "re-ranking (Algorithm 2)"}


@cache
def published() -> dict[str, Any]:
    """Return the paper's numbers."""
    text = (files("shrinknet.recipes") / "isnn_mnist_published.json").read_text()
    content: dict[str, Any] = json.loads(text)
    return content


def draw(results: Results, method: str) -> bytes:
    """Draw error and accuracy against neurons removed, as the paper's figure does; return a PNG."""
    whole, axes = sheet(2)
    for axis, what in zip(axes, ("error", "accuracy"), strict=True):
        _curves(axis, results, method, what)
    axes[0].set_ylabel("error: half the sum of squares, 4,500 images")
    axes[1].set_ylabel("accuracy on the 4,500 images")
    legend(axes[1])
    whole.suptitle(f"{results['recipe']}: {TITLES[method]}, the paper's figure {results['figures'][method]}")
    return png(whole)


def _curves(axis: Axes, results: Results, method: str, what: str) -> None:
    theirs, percent = published()[results["recipe"]][method], published()["removed_percent"]
    for name, (colour, style) in LOOK.items():
        curve = results["curves"][f"{method}/{name}"]
        axis.plot(curve["removed"], curve[what], style, color=colour, label=_label(name), linewidth=1.8)
        if name in theirs[what]:
            values = theirs[what][name]
            circles: dict[str, Any] = {"color": colour, "markerfacecolor": "white", "markersize": 6}
            axis.plot(percent[: len(values)], values, "o", label=f"{_paper_label(name)}, published", **circles)
    axis.set_xlabel("neurons removed, of 100")


def _label(name: str) -> str:
    return f"{name.split()[1]} as the authors' program has it" if name.startswith("authors") else name


def _paper_label(name: str) -> str:
    return {"ablation": "brute force", "taylor-1": "1st order", "taylor-2": "2nd order"}[name]


def tables(results: Results) -> list[Table]:
    """Return accuracy at every tenth neuron, and rank correlations with ablation."""
    shown = [_accuracies(results, method) for method in TITLES]
    rows = []
    for name, groups in results["spearman_with_ablation"].items():
        named = {"all groups" if group == "all" else f"group {group}": value for group, value in groups.items()}
        rows.append([name, *(f"{group}: {value:.3f}" for group, value in named.items())])
    return [*shown, Table("Rank correlation with ablation, untouched network (Spearman)", (), rows)]


def _accuracies(results: Results, method: str) -> Table:
    """Accuracy at every tenth neuron, ours above theirs."""
    percent = published()["removed_percent"]
    rows, theirs = list[list[str]](), set[int]()
    for name in LOOK:
        accuracy = results["curves"][f"{method}/{name}"]["accuracy"]
        rows.append([_label(name), "ours", *(f"{accuracy[p]:.3f}" if p < len(accuracy) else "" for p in percent)])
        values = published()[results["recipe"]][method]["accuracy"].get(name)
        if values is not None:
            theirs.add(len(rows))
            rows.append([_paper_label(name), "published", *(f"{v:.3f}" for v in values)])
    title = TITLES[method][0].upper() + TITLES[method][1:]
    return Table(title, ("accuracy after removing, of 100", "", *map(str, percent)), rows, frozenset(theirs))


def verdicts(results: Results) -> list[Verdict]:
    """Return what must be seen, whether it is, and the figures: computed from the results, never typed in."""
    accuracy = {name: curve["accuracy"] for name, curve in results["curves"].items()}
    ablation, single = accuracy["reranking/ablation"], accuracy["single-ranking/ablation"]
    exact, diagonal = accuracy["reranking/taylor-2"], accuracy["reranking/taylor-2-diagonal"]
    one_layer = len(results["spearman_with_ablation"]["ablation"]) == 2
    near = 0.01 if one_layer else 0.02
    upto, within = (71, 0.02) if one_layer else (61, 0.03)
    gap = max(abs(a - b) for a, b in zip(ablation[:upto], exact[:upto], strict=True))
    rank = results["spearman_with_ablation"]
    found = list[Verdict]()
    what = f"Re-ranked by ablation, 40 of 100 removed costs at most {100 * near:.0f} points"
    found.append((what, ablation[0] - ablation[40] <= near, f"{ablation[0]:.4f} to {ablation[40]:.4f}"))
    what = f"taylor-2 stays within {100 * within:.0f} points of ablation up to {upto - 1} removed"
    found.append((what, gap <= within, f"largest gap {100 * gap:.2f} points"))
    what = "A single ranking is far worse: at least 10 points below re-ranking at 60 removed"
    found.append((what, ablation[60] - single[60] >= 0.1, f"{single[60]:.4f} against {ablation[60]:.4f}"))
    if one_layer:
        found.append(("At least 0.95 with 60 removed", ablation[60] >= 0.95, f"{ablation[60]:.4f}"))
        what, overall = "taylor-2 ranks like ablation: Spearman at least 0.95", rank["taylor-2"]["all"]
        return [*found, (what, overall >= 0.95, f"{overall:.3f}")]
    group = next(group for group in rank["ablation"] if group != "all")
    recursion, full = (rank[name][group] for name in ("taylor-2-diagonal", "taylor-2"))
    what = "taylor-2-diagonal ranks the first hidden layer worse than taylor-2"
    found.append((what, recursion < full, f"Spearman {recursion:.3f} against {full:.3f}"))
    behind = ", ".join(f"{removed}: {100 * (exact[removed] - diagonal[removed]):+.1f}" for removed in range(10, 80, 10))
    what = "taylor-2-diagonal falls behind taylor-2 (mean accuracy, 20 to 50 removed)"
    return [*found, (what, sum(exact[20:51]) > sum(diagonal[20:51]), f"points ahead at {behind}")]
