"""The page of a training under a method: its curves, and what is left of each layer."""

import csv
import io
from base64 import b64encode
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shrinknet.core.folder import RunFolder, whole
from shrinknet.report.pictures import png
from shrinknet.report.rendering import rendered

PANELS = (
    ("loss", ("training_loss", "validation_loss")),
    ("validation accuracy", ("validation_accuracy",)),
    ("share of the masked weights kept; the method's schedule", ("density", "strength")),
    ("weights that went, and came back", ("num_masked", "num_regrown")),
)


def write_training_page(folder: RunFolder) -> Path:
    """Write `report/index.html` from the run folder alone; it opens without a network.

    Raises:
        RunFolderError: the run is not finished, or damaged.
    """
    with whole(folder):
        rows = list(csv.DictReader(io.StringIO((folder.path / "training.csv").read_text())))
        html = rendered(
            "shrinknet.report",
            "training.html",
            config=folder.config,
            end=folder.read_json("summary.json"),
            rows=rows,
            environment=folder.read_json("environment.json"),
            picture=b64encode(_curves(rows)).decode(),
        )
    folder.write("report/index.html", html.encode())
    return folder.path / "report" / "index.html"


def _curves(rows: list[dict[str, Any]]) -> bytes:
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 2)
    epochs = [int(row["epoch"]) for row in rows]
    for axis, (title, names) in zip(axes.flat, PANELS, strict=True):
        for name, colour, style in zip(names, ("#1b6ca8", "#d1495b"), ("-", "--"), strict=False):
            values = [float(row[name]) for row in rows if row[name] != ""]
            if values:
                label = name.replace("_", " ").replace("num masked", "went").replace("num regrown", "came back")
                axis.plot(epochs, values, style, marker="o", markersize=3, color=colour, label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(color="#e8ecf0")
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines and len(names) > 1:
            axis.legend(fontsize=8, frameon=False)
    return png(figure)
