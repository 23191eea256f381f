"""Draw the README's picture from the demo's run folder.

make demo && .venv/bin/python docs/picture.py demo-run
"""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from shrinknet.report.summary import bytes_text, percent
from shrinknet.runs import RunFolder


def main() -> None:
    """Accuracy and loss against flash bytes, with the network handed back."""
    folder = RunFolder.open(sys.argv[1])
    history, end = folder.history(), folder.read_json("summary.json")
    measures = [step.measures for step in history]
    kib = [m.costs.flash_bytes / 1024 for m in measures]
    after = end["after"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for axis, values, title in (
        (axes[0], [100 * m.validation_accuracy for m in measures], "validation accuracy, %"),
        (axes[1], [m.validation_loss for m in measures], "validation loss"),
    ):
        axis.plot(kib, values, color="#1b6ca8", linewidth=2)
        chosen = next(k for k, m in enumerate(measures) if m.costs.flash_bytes == after["costs"]["flash_bytes"])
        axis.plot(kib[chosen], values[chosen], "o", markersize=10, markerfacecolor="white", markeredgewidth=2.5,
                  color="#1b6ca8")  # fmt: skip
        axis.invert_xaxis()
        axis.set_xlabel("weights file, KiB")
        axis.set_title(title, loc="left", fontsize=11)
        axis.grid(color="#e8ecf0")
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_yscale("log")
    before, test = end["before"], end["test"]
    axes[0].annotate(
        f"{bytes_text(before['costs']['flash_bytes'])} -> {bytes_text(after['costs']['flash_bytes'])}, "
        f"no retraining\ntest accuracy {percent(test['accuracy_before'])} -> {percent(test['accuracy_after'])}",
        (kib[chosen], 100 * measures[chosen].validation_accuracy), xytext=(0.42, 0.45), textcoords="axes fraction",
        arrowprops={"arrowstyle": "-", "color": "#66788a"}, color="#22303c", ha="center",
    )  # fmt: skip
    figure.savefig(Path(__file__).parent / "demo.png", dpi=110)


if __name__ == "__main__":
    main()
