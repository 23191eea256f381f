"""What the page's script draws: one run's history as columns of plain numbers, from the run folder alone."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from shrinknet.core.config import RunConfig
from shrinknet.core.folder import RunFolder
from shrinknet.core.quantities import COSTS, Quality
from shrinknet.core.recall import RecallHistory
from shrinknet.core.records import Group, Measures, Step, removed_by

MOST_STEPS = 10_001
"""Steps of all runs together that a page holds; of longer histories evenly spaced ones, and the one handed back."""

MOST_RECALLS = 500
"""Steps whose recalls a page holds."""


def page_data(
    folder: RunFolder, name: str, groups: Sequence[Group], history: list[Step], most_steps: int
) -> dict[str, Any]:
    """Return columns over the steps: costs, losses, metrics, what went, its score and its true rise; and recalls."""
    history, handed = with_handed_back(folder, history)
    places = _spread(len(history), most_steps, handed)
    steps = [history[place] for place in places]
    number = {group.name: place for place, group in enumerate(groups)}
    losses = _losses_of_the_search(history)
    rises = [None, *(after - before for before, after in pairwise(losses))]
    return {
        "name": name,
        "folder": folder.path.name,
        "groups": [{"name": group.name, "width": group.width} for group in groups],
        "steps": [step.number for step in steps],
        "went": _went(number, history, places),
        "removed": [[[number[n.group], n.index] for n in step.removed[:4]] for step in steps],
        "counts": [len(step.removed) for step in steps],
        "restored": [[[number[n.group], n.index] for n in step.restored] for step in steps],
        "scores": [_short(min(step.scores)) if step.scores else None for step in steps],
        "highest": [_short(max(step.scores)) if len(step.scores) > 1 else None for step in steps],
        "rises": [_short(rises[place]) for place in places],
        "loss": [_short(_loss(step.measures)) for step in steps],
        "metrics": [_metric(quality, steps) for quality in _qualities(folder, history)],
        "bare_loss": [_short(_loss(step.bare)) if step.bare else None for step in steps],
        "costs": {cost.column: [cost.of(step.measures.costs) for step in steps] for cost in COSTS},
        "moved": "trained on with labels" if RunConfig.of(folder.config).recovered else "refit together",
        "handed": places.index(handed),
        "all_steps": len(history),
        "on": "validation" if history[0].measures.validation_loss is not None else "calibration",
        "recalls": _recalls(history, places),
        "surfaces": _surfaces(folder),
        "training": _training(folder),
    }


def _qualities(folder: RunFolder, history: Sequence[Step]) -> list[Quality]:
    known = RunConfig.of(folder.config).qualities
    return [known.get(name, Quality(name)) for name in history[0].measures.metrics]


def _metric(quality: Quality, steps: Sequence[Step]) -> dict[str, Any]:
    """One metric over the steps, and without compensation where there is one."""
    name = quality.name
    return {
        "name": name,
        "is_share": quality.is_share,
        "values": [_short(step.measures.metrics.get(name)) for step in steps],
        "bare": [_short(step.bare.metrics.get(name)) if step.bare else None for step in steps],
    }


def _surfaces(folder: RunFolder) -> list[dict[str, Any]]:
    """What `shrinknet analyse surface` has written."""
    name = "analysis/surfaces.json"
    return list(folder.read_json(name)["surfaces"]) if folder.has(name) else []


def _training(folder: RunFolder) -> dict[str, list[Any]] | None:
    """The losses after each pass of a recovery; None where there was none."""
    rows = folder.table("training.csv")
    names = {"held out": "held_out_loss", "validation": "validation_loss"}
    found = {
        name: [_short(float(row[column])) if row[column] else None for row in rows] for name, column in names.items()
    }
    return {"passes": [int(row["epoch"]) for row in rows], **found} if rows else None


def _losses_of_the_search(history: Sequence[Step]) -> list[float]:
    """The calibration losses between which neurons went; where none did, at a refit of all weights, the one before."""
    losses = list[float]()
    for step in history:
        is_refit = losses and not step.removed and not step.restored
        losses.append(losses[-1] if is_refit else step.measures.calibration_loss)
    return losses


def _loss(measures: Measures) -> float:
    return measures.calibration_loss if measures.validation_loss is None else measures.validation_loss


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def with_handed_back(folder: RunFolder, history: list[Step]) -> tuple[list[Step], int]:
    """Return the history with the network that the run handed back in it, and its place.

    A network that was cut to another budget, or whose weights were all refit together, is none of the steps: it then
    stands among them, without answers.
    """
    end = folder.ending()
    wanted, gone = end.num_removed, list(accumulate(len(step.removed) - len(step.restored) for step in history))
    is_polished = any(step.restored for step in history)
    if wanted in gone and (not is_polished or removed_by(history) == folder.plan().removed):
        place = len(history) - 1 if is_polished else gone.index(wanted)
        if not RunConfig.of(folder.config).moves_all_weights:
            return history, place
        refit = Step(history[place].number, (), (), end.after, 0.0, bare=history[place].bare)
        return [*history[: place + 1], refit, *history[place + 1 :]], place + 1
    place = next((k for k, count in enumerate(gone) if count > wanted), len(history))
    number = history[place].number if place < len(history) else history[-1].number + 1
    removed = folder.plan().removed[gone[place - 1] : wanted]
    cut = Step(number, removed, (), end.after, 0.0)
    return [*history[:place], cut, *history[place:]], place


def _spread(count: int, most: int, kept: int) -> list[int]:
    """Places evenly spaced, first and last and one more among them.

    >>> _spread(5, 10, 2), _spread(9, 3, 3)
    ([0, 1, 2, 3, 4], [0, 3, 4, 8])
    """
    if count <= most:
        return list(range(count))
    return sorted({kept, *(round(k * (count - 1) / (most - 1)) for k in range(most))})


def _went(number: Mapping[str, int], history: Sequence[Step], places: Sequence[int]) -> list[list[list[int]]]:
    """For each step shown, (group, how many of it went since the step shown before)."""
    found = []
    for before, place in zip([0, *places], places, strict=False):
        passed = history[before + 1 : place + 1]
        gone = Counter(number[neuron.group] for step in passed for neuron in step.removed)
        gone.subtract(number[neuron.group] for step in passed for neuron in step.restored)
        found.append([list(pair) for pair in sorted(gone.items())])
    return found


def _recalls(history: Sequence[Step], places: Sequence[int]) -> dict[str, Any] | None:
    """Recalls of each class in hundredths of a percent, for at most so many of the steps shown; -1: no rows."""
    if not history[0].answers:
        return None
    answers = RecallHistory.of(history)
    recalls = answers.recalls
    shown = [places[k] for k in _spread(len(places), MOST_RECALLS, 0)]
    rows = [
        None  # a network that was cut to another budget has no answers
        if history[place].answers is None
        else [-1 if value != value else round(10_000 * value) for value in recalls[place].tolist()]
        for place in shown
    ]
    at = {place: k for k, place in enumerate(places)}
    return {"at": [at[place] for place in shown], "recalls": rows, "rows": answers.rows.tolist()}
