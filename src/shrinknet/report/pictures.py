"""Still pictures: panels side by side, drawn by matplotlib into the bytes of a PNG file."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#e0a100", "#7a5195", "#4a5a6a", "#00a0a0", "#8d5524")
"""One for each curve; told apart by the colour-blind too, by lightness."""


def figure(panels: int, draw: Callable[[Any, Sequence[Axes]], None], *, width: int | float = 6.0) -> bytes:
    """Draw some panels side by side and return a PNG."""
    drawn, axes = plt.subplots(1, panels, figsize=(width * panels, 4.4), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.grid(color="#e8ecf0")
        axis.spines[["top", "right"]].set_visible(False)
    draw(drawn, list(axes[0]))
    content = io.BytesIO()
    drawn.savefig(content, format="png", dpi=110)
    plt.close(drawn)
    return content.getvalue()
