"""MLPerf Tiny's ResNet8 at 75, 50 and 35 % of its parameters, by how much the search may cost.

    SHRINKNET_DATA=... python benchmarks/effort/resnet8.py [none least-squares taylor-1]
    SHRINKNET_DATA=... python benchmarks/effort/resnet8.py --draws [none least-squares]

The rows are those of `fitting/resnet8.py`, whose exact search (two channels at a step) and rival stand beside: 1,000 of
the 10,000 test images are seen by scores and refits, accuracy is that on the other 9,000. An effort is in forward
passes over the 1,000 images, measuring and refits included: a hundredth, a fiftieth and a twentieth of what the exact
search takes by the same prices for as many removals. A search draws rows and signs by its seed; accuracies are means
over several, with their standard errors.

`taylor-1` is given the same efforts: as many rankings on all rows as that buys, with a removal of equally many channels
after each.

`--draws`: the exact search on one draw of the images is one sample of what it reaches. Both searches again on other
draws, the same images for both: the exact one, and a twentieth of it for two seeds. Killed, it goes on from there.
"""

import json
import math
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("fitting", "ablation", "zoo")]

import matplotlib
from cifar import images
from resnet8 import NUM_CALIBRATION, SHARES, STEP, accuracy
from rounds import RESULTS, SEED, once, write

import shrinknet as sn
from shrinknet.engine.gates import gated
from shrinknet.execution.cost_model import refit_work, run_work
from shrinknet.run.prices import passes_of

matplotlib.use("agg")

PARTS, SEEDS, PASSES_OF_TAYLOR_1 = (100, 50, 20), (0, 1, 2, 3, 4, 5), 3
"""An effort is such a part of the exact search."""

KINDS = ("none", "least-squares")
REMOVED = 90
"""About so many channels go."""

DRAWS, SEEDS_OF_A_DRAW, PART_OF_A_DRAW = (1, 2, 3, 4), (0, 1), 20
PARTIAL = RESULTS / "effort_resnet8_draws.partial.jsonl"


def main() -> None:
    """Measure what is asked for, beside what was measured before."""
    asked = sys.argv[1:] or [*KINDS, "taylor-1"]
    if asked[0] == "--draws":
        by_draws(asked[1:] or list(KINDS))
        return
    task, test = drawn(SEED)
    path = RESULTS / "effort_resnet8.json"
    found = json.loads(path.read_text()) if path.exists() else {"accuracy": {}, "exact": {}}
    for kind in asked:
        found["exact"] |= {kind: exact(task, kind)} if kind in KINDS else {}
        for part in PARTS:
            effort = round(found["exact"][kind if kind in KINDS else "none"]["passes"] / part)
            if kind == "taylor-1":
                one, seeds = {"criterion": "taylor-1", "step": _step(effort)}, SEEDS[:1]
            else:
                one, seeds = {"effort": effort, "compensate": kind}, SEEDS
            runs = [curve(task, test, {**one, "seed": seed}) for seed in seeds]
            found["accuracy"].setdefault(kind, {})[str(part)] = {"passes": effort, **means(runs)}
            found |= {"shares": SHARES, "seeds": SEEDS, "parts": PARTS}
            write("effort_resnet8", found)
    draw(found)


def by_draws(kinds: list[str]) -> None:
    """Measure both searches on each draw, and the mean of what the one by effort lacks."""
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    with open(PARTIAL, "a") as file:
        for kind in kinds:
            for number in DRAWS:
                if not any((row["kind"], row["draw"]) == (kind, number) for row in done):
                    done.append(on_a_draw(kind, number))
                    file.write(json.dumps(done[-1]) + "\n")
                    file.flush()
    lacks = {kind: lacking([row for row in done if row["kind"] == kind]) for kind in kinds}
    write("effort_resnet8_draws", {"part": PART_OF_A_DRAW, "shares": SHARES, "lacks": lacks, "rows": done})
    PARTIAL.unlink()


def on_a_draw(kind: str, number: int) -> dict[str, object]:
    """Both searches on the same images."""
    task, test = drawn(number)
    passes = round(exact(task, kind)["passes"] / PART_OF_A_DRAW)
    runs = [curve(task, test, {"effort": passes, "compensate": kind, "seed": seed}) for seed in SEEDS_OF_A_DRAW]
    whole = curve(task, test, {"step": STEP, "compensate": kind})
    return {"kind": kind, "draw": number, "passes": passes, "by_effort": runs, "exact": whole}


def lacking(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Return by how much the exact search is more accurate at each size: mean over draws, and its standard error."""
    found = {}
    for share in map(str, SHARES):
        each = [row["exact"][share] - statistics.mean(run[share] for run in row["by_effort"]) for row in rows]
        error = statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else None
        found[share] = {"mean": statistics.mean(each), "standard_error": error}
    return found


def drawn(number: int) -> tuple[sn.Task, tuple]:
    """Return the network with calibration images of a draw, and the other images."""
    from trained_networks import resnet8

    inputs, targets = images(10_000, number)
    calibration, test = (
        (inputs[rows], targets[rows]) for rows in (slice(NUM_CALIBRATION), slice(NUM_CALIBRATION, None))
    )
    return sn.Task(resnet8().eval(), "cross-entropy", calibration, batch_size=250), test


def means(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure, and the standard errors of the accuracies'."""
    found = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
    if len(runs) > 1:
        errors = {key: statistics.stdev(run[key] for run in runs) / math.sqrt(len(runs)) for key in map(str, SHARES)}
        found["standard_errors"] = errors
    return found


def curve(task: sn.Task, test: tuple, how: dict[str, object]) -> dict[str, float]:
    """One run, from which each size is cut."""
    total = sum(parameter.numel() for parameter in task.model.parameters())
    goals = [sn.NumParameters(int(share * total)) for share in SHARES]
    runs: list[sn.Run] = []
    seconds = once(lambda: runs.append(
        sn.prune(task, goals=goals[-1:], price="parameters", scoring=sn.Scoring("6GiB"), **how)
    ))  # fmt: skip
    cut = {str(share): runs[0].at(goal).model for share, goal in zip(SHARES, goals, strict=True)}
    measured = {share: accuracy(smaller, test) for share, smaller in cut.items()}
    return {**measured, "seconds": seconds, "removed": len(runs[0].plan.removed)}


def _step(effort: int) -> int:
    """How many of about a hundred channels go after each ranking, so that all rankings fit."""
    return max(1, round(100 * (PASSES_OF_TAYLOR_1 + 1) / effort))


def exact(task: sn.Task, kind: str) -> dict[str, float]:
    """What the exact search takes, in passes, and the accuracies that are committed."""
    network = gated(task, scoring=sn.Scoring("6GiB"))
    committed = json.loads((RESULTS / "fitting_resnet8.json").read_text())["accuracy"][f"ablation, {kind}"]
    num_steps = -(-REMOVED // STEP)
    refit = 2 + passes_of(network, refit_work(network, NUM_CALIBRATION)) if kind == "least-squares" else 0
    passes = passes_of(network, run_work(network, "ablation", 1, REMOVED, STEP)) + num_steps * refit
    return {"passes": passes, **committed}


def draw(found: dict) -> None:
    """Accuracy at each size against effort, with the exact search at its own."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(SHARES), figsize=(12, 3.6), sharey=True)
    for axis, share in zip(axes, SHARES, strict=True):
        for kind, by_part in found["accuracy"].items():
            rows = sorted(by_part.values(), key=lambda row: row["passes"])
            label = {"none": "by effort", "least-squares": "by effort, least squares"}.get(kind, kind)
            passes, accuracies = ([row[key] for row in rows] for key in ("passes", str(share)))
            errors = [row.get("standard_errors", {}).get(str(share), 0) for row in rows]
            line = axis.errorbar(passes, accuracies, errors, marker="o", capsize=3, label=label)
            if kind in KINDS:
                exact = found["exact"][kind]
                axis.plot(exact["passes"], exact[str(share)], marker="*", ms=12, color=line[0].get_color(),
                          linestyle="none", label=f"exact, {kind}")  # fmt: skip
        axis.set(xscale="log", xlabel="forward passes over 1,000 images", title=f"{share:.0%} of the parameters")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy on 9,000 images")
    axes[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(Path(__file__).resolve().parents[2] / "docs" / "pictures" / "effort-resnet8.png", dpi=120)


if __name__ == "__main__":
    main()
