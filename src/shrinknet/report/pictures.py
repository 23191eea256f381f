"""Still pictures: panels side by side, drawn by matplotlib into the bytes of a PNG file."""

import io
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#e0a100", "#7a5195", "#4a5a6a", "#00a0a0", "#8d5524")
"""One for each curve; told apart by the colour-blind too, by lightness."""

GREY = "#66788a"
"""Of lines to compare with."""


def sheet(panels: int, *, width: int | float = 6.0) -> tuple[Figure, list[Axes]]:
    """Return a figure of some panels side by side, to be drawn into and given to `png`."""
    drawn = Figure(figsize=(width * panels, 4.4), layout="constrained")  # not pyplot's: it knows the user's figures
    axes = list(drawn.subplots(1, panels, squeeze=False)[0])
    for axis in axes:
        axis.grid(color="#e8ecf0")
        axis.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def legend(axis: Axes, *, size: int | None = 8, place: Literal["best", "lower left"] = "best") -> None:
    """Name the curves of a panel, without a frame."""
    axis.legend(fontsize=size, frameon=False, loc=place)


def png(drawn: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    content = io.BytesIO()
    drawn.savefig(content, format="png", dpi=110)
    return content.getvalue()
