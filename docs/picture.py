"""Draw the README's picture from the demo's run folder.

make demo && .venv/bin/python docs/picture.py demo-run
"""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from shrinknet.core.folder import RunFolder
from shrinknet.core.units import bytes_text, percent

BLUE, RED = "#1b6ca8", "#d1495b"


def main() -> None:
    """Accuracy and loss against flash bytes, with and without compensation, and the network handed back."""
    folder = RunFolder.open(sys.argv[1])
    history, end = folder.history(), folder.ending()
    bare = [replace(step, measures=step.bare or step.measures) for step in history]
    kib = [step.measures.costs.flash_bytes / 1024 for step in history]
    after, shipped = end.after.costs, folder.manifest()
    chosen = next(k for k, step in enumerate(history) if step.measures.costs.num_neurons == after.num_neurons)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for axis, value, title in (
        (axes[0], lambda m: 100 * m.metrics["accuracy"], "validation accuracy, %"),
        (axes[1], lambda m: m.validation_loss, "validation loss"),
    ):
        axis.plot(kib, [value(s.measures) for s in bare], ":", color=RED, linewidth=2, label="without compensation")
        values = [value(step.measures) for step in history]
        axis.plot(kib, values, color=BLUE, linewidth=2, label="readers refit by least squares")
        axis.plot(kib[chosen], values[chosen], "o", markersize=10, markerfacecolor="white", markeredgewidth=2.5,
                  color=BLUE)  # fmt: skip
        axis.invert_xaxis()
        axis.set_xlabel(f"flash, KiB ({'.pte' if shipped else 'weights'} file)")
        axis.set_title(title, loc="left", fontsize=11)
        axis.grid(color="#e8ecf0")
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_yscale("log")
    axes[1].legend(frameon=False, loc="upper left")
    before, test = end.before.costs, end.test
    flash, ram = (shipped.num_bytes, shipped.arena_bytes) if shipped else (after.flash_bytes, None)
    text = f"{bytes_text(before.flash_bytes)} -> {bytes_text(flash)} of flash"
    text += "" if ram is None else f",\n{bytes_text(before.peak_ram_bytes)} -> {bytes_text(ram)} of RAM"
    right = f"{percent(test.metrics_before['accuracy'])} -> {percent(test.metrics_after['accuracy'])} of test images"
    axes[0].annotate(
        f"{text}, no retraining,\n{right}",
        (kib[chosen], 100 * history[chosen].measures.metrics["accuracy"]), xytext=(0.36, 0.22),
        textcoords="axes fraction", arrowprops={"arrowstyle": "-", "color": "#66788a"}, color="#22303c", ha="center",
    )  # fmt: skip
    figure.savefig(Path(__file__).parent / "demo.png", dpi=110)


if __name__ == "__main__":
    main()
