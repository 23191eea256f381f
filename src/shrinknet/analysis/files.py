"""What analyses leave in a folder: facts as JSON and CSV, whole curves as NPZ, and a picture of each."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinknet.analysis import pictures
from shrinknet.analysis.agreement import Agreement
from shrinknet.analysis.cancellation import Cancellation
from shrinknet.analysis.error_surface import Surface
from shrinknet.analysis.pruning_limit import Limit
from shrinknet.analysis.recall_distortion import AtRatio, RecallDistortion
from shrinknet.core.folder import RunFolder
from shrinknet.core.tables import csv_text

POINTS_ON_A_PAGE = 120
"""Of a curve, for the run's page; the NPZ has all."""

FACTS = ("step", "loss", "rise", "standard_error", "slope", "curvature", "given_back", "verdict", "ground")


def write_surfaces(folder: RunFolder, found: Sequence[Surface]) -> None:
    """Write `analysis/surfaces.npz` (all points), `.json` (facts, and curves of a few points) and `.png`."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        alphas=found[0].alphas,
        losses=np.stack([one.losses for one in found]),
        steps=np.array([one.step for one in found]),
        neurons=np.array([str(one.neuron) for one in found]),
    )
    folder.write("analysis/surfaces.npz", content.getvalue())
    folder.write_json("analysis/surfaces.json", {"surfaces": [_surface(one) for one in found]})
    folder.write("analysis/surfaces.png", pictures.surfaces(found))


def _surface(one: Surface) -> dict[str, Any]:
    places = few(one.alphas, POINTS_ON_A_PAGE)
    curves = {name: getattr(one, name)[places].tolist() for name in ("alphas", "losses", "line", "parabola")}
    partner = None if one.partner is None else str(one.partner)
    return {"neuron": str(one.neuron), "partner": partner, **{n: getattr(one, n) for n in FACTS}, **curves}


def few(alphas: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Return the places of so many evenly spaced values at the most, and of 0 and 1."""
    spread = np.rint(np.linspace(0, len(alphas) - 1, min(len(alphas), most))).astype(int)
    return np.unique(np.concatenate([spread, np.searchsorted(alphas, [0.0, 1.0])]))


def write_cancellation(folder: RunFolder, found: Sequence[Cancellation]) -> None:
    """Write `analysis/cancellation.json`, `cancellation.csv` (each pair) and a map of each group."""
    folder.write_json("analysis/cancellation.json", {"groups": [_group(one) for one in found]})
    rows = [("group", "neuron", "other", "interaction", "cosine")]
    for place, one in enumerate(found):
        for i, j in zip(*np.triu_indices(len(one.neurons), 1), strict=True):
            if np.isfinite(one.interactions[i, j]):
                cosine = "" if one.cosines is None else repr(float(one.cosines[i, j]))
                value = repr(float(one.interactions[i, j]))
                rows.append((one.group, str(one.neurons[i]), str(one.neurons[j]), value, cosine))
        folder.write(f"analysis/cancellation-{place}.png", pictures.cancellation_map(one))
    folder.write("analysis/cancellation.csv", csv_text(rows).encode())


def _group(one: Cancellation) -> dict[str, Any]:
    return {
        "group": one.group,
        "neurons": one.neurons,
        "rises": one.rises.tolist(),
        "chosen": one.chosen,
        "num_pairs": one.num_pairs,
        "order": one.order,
        "strongest": one.strongest(),
        "together": [asdict(group) for group in one.together],
    }


def write_recall(folder: RunFolder, found: RecallDistortion) -> None:
    """Write `analysis/recall.json`, `recall.csv` (each class at each step) and `recall.png`."""
    history = found.history
    facts = {name: getattr(found, name) for name in ("step", "slope", "interval", "verdict")}
    classes = {"worst": found.worst.number, "classes": found.classes, "lost": found.lost}
    whole = {**facts, **classes, "without_rows": history.without_rows, "slopes": found.slopes.tolist()}
    folder.write_json("analysis/recall.json", whole)
    recalls, precisions = history.recalls, history.precisions
    rows: list[tuple[object, ...]] = [("step", "class", "recall", "precision", "rows")]
    for place, step in enumerate(history.steps):
        for c, count in enumerate(history.rows):
            figures = (recalls[place, c], precisions[place, c])
            rows.append((int(step), c, *("" if v != v else repr(float(v)) for v in figures), int(count)))
    folder.write("analysis/recall.csv", csv_text(rows).encode())
    folder.write("analysis/recall.png", pictures.recall(found))


def write_ratios(folder: RunFolder, found: Sequence[AtRatio]) -> None:
    """Write `analysis/intensification.json`: several runs at some ratios."""
    folder.write_json("analysis/intensification.json", {"ratios": list(found)})


def write_limit(folder: RunFolder, found: Limit) -> None:
    """Write `analysis/limit-weights.json` or `limit-neurons.json`, and the picture."""
    facts = {
        "what": found.what,
        "num": found.num,
        "eps": found.eps,
        "predicted_removed": found.predicted,
        "predicted_kept": found.kept,
        "found_removed": found.found,
        "mean_found": found.mean_found,
        "error_bar": found.error_bar,
        "largest_eigenvalue": found.spectrum.largest,
        "trace": found.spectrum.trace,
        "zero_rows": found.spectrum.zero_rows,
        "seconds": round(found.seconds, 2),
        "advice": found.advice,
        "curve": {"shares": found.shares.tolist(), "free": found.free.tolist()},
    }
    folder.write_json(f"analysis/limit-{found.what}.json", facts)
    folder.write(f"analysis/limit-{found.what}.png", pictures.limit(found))


def write_agreement(folder: RunFolder, found: Sequence[Agreement]) -> None:
    """Write `analysis/agreement.json`."""
    folder.write_json("analysis/agreement.json", {"criteria": list(found)})
