"""Still figures of a reproduction, and its page: the paper's numbers beside ours."""

import io
from collections.abc import Sequence
from typing import Any

import jinja2
import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from shrinknet.recipes.isnn_mnist import published

LOOK = {
    "ablation": ("#1b6ca8", "-"),
    "taylor-2": ("#2e8b57", "-"),
    "taylor-2-diagonal": ("#e0a100", "-"),
    "taylor-1": ("#d1495b", "-"),
    "authors' taylor-2": ("#2e8b57", ":"),
    "authors' taylor-1": ("#d1495b", ":"),
}
TITLES = {"single-ranking": "single overall ranking (Algorithm 1)", "reranking": "re-ranking (Algorithm 2)"}


def draw(results: dict[str, Any], method: str) -> bytes:
    """Draw error and accuracy against neurons removed, as the paper's figure does; return a PNG."""
    theirs = published()[results["recipe"]][method]
    percent = published()["removed_percent"]
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for axis, what in zip(axes, ("error", "accuracy"), strict=True):
        for name, (colour, style) in LOOK.items():
            curve = results["curves"][f"{method}/{name}"]
            axis.plot(curve["removed"], curve[what], style, color=colour, label=_label(name), linewidth=1.8)
            if name in theirs[what]:
                values = theirs[what][name]
                axis.plot(percent[: len(values)], values, "o", color=colour, markerfacecolor="white", markersize=6,
                          label=f"{_paper_label(name)}, published")  # fmt: skip
        axis.set_xlabel("neurons removed, of 100")
        axis.grid(color="#e8ecf0")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("error: half the sum of squares, 4,500 images")
    axes[1].set_ylabel("accuracy on the 4,500 images")
    axes[1].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{results['recipe']}: {TITLES[method]}, the paper's figure {results['figures'][method]}")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    plt.close(figure)
    return content.getvalue()


def _label(name: str) -> str:
    return f"{name.split()[1]} as the authors' program has it" if name.startswith("authors") else name


def _paper_label(name: str) -> str:
    return {"ablation": "brute force", "taylor-1": "1st order", "taylor-2": "2nd order"}[name]


def page(results: dict[str, Any]) -> str:
    """Return the reproduction's page; its pictures lie beside it."""
    loader = jinja2.PackageLoader("shrinknet.recipes")
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    theirs = published()
    return template.get_template("reproduction.html").render(
        results=results, source=theirs["source"], tables=[_table(results, method, theirs) for method in TITLES],
        titles=TITLES, verdicts=verdicts(results),
    )  # fmt: skip


def _table(results: dict[str, Any], method: str, theirs: dict[str, Any]) -> dict[str, Any]:
    """Accuracy at every tenth neuron, ours above theirs."""
    percent = theirs["removed_percent"]
    rows: list[tuple[str, str, Sequence[str]]] = []
    for name in LOOK:
        accuracy = results["curves"][f"{method}/{name}"]["accuracy"]
        cells = [f"{accuracy[p]:.3f}" if p < len(accuracy) else "" for p in percent]
        rows.append((_label(name), "ours", cells))
        values = theirs[results["recipe"]][method]["accuracy"].get(name)
        if values is not None:
            rows.append((_paper_label(name), "published", [f"{v:.3f}" for v in values] + [""] * (9 - len(values))))
    return {"method": method, "percent": percent, "rows": rows}


def verdicts(results: dict[str, Any]) -> list[tuple[str, bool, str]]:
    """Return what must be seen, whether it is, and the figures: computed from the results, never typed in."""
    accuracy = {name: curve["accuracy"] for name, curve in results["curves"].items()}
    ablation, single = accuracy["reranking/ablation"], accuracy["single-ranking/ablation"]
    exact, diagonal = accuracy["reranking/taylor-2"], accuracy["reranking/taylor-2-diagonal"]
    one_layer = len(results["spearman_with_ablation"]["ablation"]) == 2
    near = 0.01 if one_layer else 0.02
    upto, within = (71, 0.02) if one_layer else (61, 0.03)
    gap = max(abs(a - b) for a, b in zip(ablation[:upto], exact[:upto], strict=True))
    rank = results["spearman_with_ablation"]
    found = [
        (f"Re-ranked by ablation, 40 of 100 removed costs at most {100 * near:.0f} points",
         ablation[0] - ablation[40] <= near, f"{ablation[0]:.4f} to {ablation[40]:.4f}"),
        (f"taylor-2 stays within {100 * within:.0f} points of ablation up to {upto - 1} removed",
         gap <= within, f"largest gap {100 * gap:.2f} points"),
        ("A single ranking is far worse: at least 10 points below re-ranking at 60 removed",
         ablation[60] - single[60] >= 0.1, f"{single[60]:.4f} against {ablation[60]:.4f}"),
    ]  # fmt: skip
    if one_layer:
        found.append(("At least 0.95 with 60 removed", ablation[60] >= 0.95, f"{ablation[60]:.4f}"))
        found.append(("taylor-2 ranks like ablation: Spearman at least 0.95", rank["taylor-2"]["all"] >= 0.95,
                      f"{rank['taylor-2']['all']:.3f}"))  # fmt: skip
    else:
        first = next(group for group in rank["ablation"] if group != "all")
        found.append(
            (
                "taylor-2-diagonal ranks the first hidden layer worse than taylor-2",
                rank["taylor-2-diagonal"][first] < rank["taylor-2"][first],
                f"Spearman {rank['taylor-2-diagonal'][first]:.3f} against {rank['taylor-2'][first]:.3f}",
            )
        )
        behind = [f"{removed}: {100 * (exact[removed] - diagonal[removed]):+.1f}" for removed in range(10, 80, 10)]
        found.append(("taylor-2-diagonal falls behind taylor-2 (mean accuracy, 20 to 50 removed)",
                      sum(exact[20:51]) > sum(diagonal[20:51]), "points ahead at " + ", ".join(behind)))  # fmt: skip
    return found
