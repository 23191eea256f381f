"""What each analysis looks like."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import SymLogNorm

from shrinknet.analysis.cancellation import Cancellation
from shrinknet.analysis.error_surface import Surface
from shrinknet.analysis.pruning_limit import Limit
from shrinknet.analysis.recall_distortion import RecallDistortion
from shrinknet.report.pictures import COLOURS, GREY, legend, png, sheet

MOST_NAMED = 12
"""More curves or classes than that have no legend."""


def surfaces(found: Sequence[Surface]) -> bytes:
    """Draw error surfaces as the paper does: a log axis left, a linear one right, alpha = 1 marked.

    Dashed and dotted lines are what `taylor-1` and `taylor-2` believe each curve to be, near alpha = 1.
    """
    whole, axes = sheet(2)
    for axis in axes:
        for place, one in enumerate(found):
            colour = COLOURS[place % len(COLOURS)]
            label = f"{one.neuron}, step {one.step}" if one.step else str(one.neuron)
            axis.plot(one.alphas, one.losses, color=colour, linewidth=1.6, label=label)
            near = np.abs(one.alphas - 1) <= 1
            for values, style in ((one.line, "--"), (one.parabola, ":")):
                axis.plot(one.alphas[near], values[near], style, color=colour, linewidth=1)
        axis.axvline(1, color="#b3261e", linewidth=1)
        axis.set_xlabel("alpha: 0 the removal, 1 the network as it is")
    low, high = min(one.losses.min() for one in found), max(one.losses.max() for one in found)
    room = 0.05 * (high - low) or 1.0  # nothing that is drawn need move the loss
    if low > 0:
        axes[0].set_yscale("log")
        axes[0].set_ylim(low / 1.5, high * 1.5)
    axes[1].set_ylim(low - room, high + room)
    axes[0].set_ylabel("mean loss (dashes: taylor-1, dots: taylor-2)")
    if len(found) <= MOST_NAMED:
        legend(axes[1])
    return png(whole)


def cancellation_map(found: Cancellation) -> bytes:
    """Draw interactions and cosines, neurons in the order in which cancelling ones stand side by side."""
    whole, axes = sheet(2 if found.cosines is not None else 1, width=6.6)
    order = np.array(found.order)
    shown = found.interactions[np.ix_(order, order)]
    largest = float(np.nanmax(np.abs(shown))) if np.isfinite(shown).any() else 1.0
    norm = SymLogNorm(max(largest / 1000, 1e-30), vmin=-largest, vmax=largest)
    maps: list[tuple[Any, str, Any]] = [(shown, "interaction: blue pairs cancel each other", norm)]
    if found.cosines is not None:
        maps.append((found.cosines[np.ix_(order, order)], "cosine of the contributions", None))
    for axis, (values, title, scale) in zip(axes, maps, strict=False):
        limits: dict[str, Any] = {"norm": scale} if scale is not None else {"vmin": -1, "vmax": 1}
        drawn = axis.imshow(values, cmap="RdBu_r", interpolation="nearest", **limits)
        whole.colorbar(drawn, ax=axis, shrink=0.8)
        axis.set_title(title, fontsize=10)
        axis.grid(visible=False)
        if len(order) <= 60:
            labels = [str(found.neurons[k]) for k in order]
            axis.set_xticks(range(len(order)), labels, fontsize=6, rotation=90)
            axis.set_yticks(range(len(order)), labels, fontsize=6)
    axes[0].set_ylabel(f"neurons of {found.group!r}, clustered")
    return png(whole)


def recall(found: RecallDistortion) -> bytes:
    """Draw the recalls along the run, and the balances of the classes after against before with their slope."""
    whole, axes = sheet(2)
    history = found.history
    recalls = history.recalls
    for place, one in enumerate(found.classes):
        style: dict[str, Any] = {"label": f"class {one.number}"} if len(found.classes) <= MOST_NAMED else {}
        style |= {"color": COLOURS[place % len(COLOURS)], "linestyle": "-" if place < len(COLOURS) else "--"}
        axes[0].plot(history.ratios, recalls[:, one.number], linewidth=1.4, **style)
    axes[0].plot(history.ratios, history.accuracies, color="#22303c", linewidth=2.4, label="accuracy")
    axes[0].set_xscale("log")
    axes[0].set(xlabel="parameters before / after", ylabel="recall")
    legend(axes[0], place="lower left")
    before = [one.balance_before for one in found.classes]
    axes[1].plot(before, [one.balance_after for one in found.classes], "o", color=COLOURS[0])
    ends = np.array([min(before), max(before)])
    axes[1].plot(ends, ends, color=GREY, linewidth=1, label="unchanged")
    axes[1].plot(ends, found.slope * ends, color=COLOURS[1], label=f"slope {found.slope:.2f}")
    for one in found.classes:
        axes[1].annotate(str(one.number), (one.balance_before, one.balance_after), fontsize=8)
    axes[1].set(xlabel="normalised balance of each class before", ylabel=f"after step {found.step}")
    legend(axes[1])
    return png(whole)


def limit(found: Limit) -> bytes:
    """Draw the crossing that predicts the limit, and what was found by pruning."""
    whole, axes = sheet(1 if found.losses is None else 2)
    axes[0].plot(found.shares, found.free, color=COLOURS[0], label="delta(R(s)) / D")
    axes[0].plot([0, 1], [0, 1], color=GREY, linewidth=1, label="s")
    axes[0].axvline(found.predicted, color=COLOURS[1], label=f"predicted {found.predicted:.3f}")
    axes[0].axvspan(min(found.found), max(found.found), color=COLOURS[2], alpha=0.25)
    axes[0].axvline(found.mean_found, color=COLOURS[2], linestyle="--", label=f"found {found.mean_found:.3f}")
    axes[0].set_xlabel(f"share of the {found.what} removed")
    legend(axes[0])
    if found.losses is not None:
        axes[1].plot(found.shares, found.losses, color=COLOURS[0], label="loss, pruned one-shot")
        axes[1].axhline(found.losses[0] + found.eps, color=GREY, linewidth=1, label="start + eps")
        axes[1].axvline(found.predicted, color=COLOURS[1])
        axes[1].set_yscale("log" if found.losses.min() > 0 else "linear")
        axes[1].set_xlabel(f"share of the {found.what} removed")
        legend(axes[1])
    return png(whole)
