"""Still pictures: panels side by side, drawn by matplotlib into the bytes of a PNG file."""

import io
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#e0a100", "#7a5195", "#4a5a6a", "#00a0a0", "#8d5524")
"""One for each curve; told apart by the colour-blind too, by lightness."""


def figure(panels: int, draw: Callable[[Any, Sequence[Axes]], None], *, width: int | float = 6.0) -> bytes:
    """Draw some panels side by side and return a PNG."""
    drawn = Figure(figsize=(width * panels, 4.4), layout="constrained")  # not pyplot's: it knows the user's figures
    axes = drawn.subplots(1, panels, squeeze=False)
    for axis in axes[0]:
        axis.grid(color="#e8ecf0")
        axis.spines[["top", "right"]].set_visible(False)
    draw(drawn, list(axes[0]))
    return png(drawn)


def png(drawn: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    content = io.BytesIO()
    drawn.savefig(content, format="png", dpi=110)
    return content.getvalue()
