"""MLPerf Tiny's ResNet8 at 75, 50 and 35 % of its parameters, by how much the search may cost.

    SHRINKNET_DATA=... python benchmarks/effort/resnet8.py [none least-squares taylor-1]

The rows are those of `fitting/resnet8.py`, whose exact search (two channels at a step) and rival stand beside: 1,000 of
the 10,000 test images are seen by scores and refits, accuracy is that on the other 9,000. An effort is in forward
passes over the 1,000 images, measuring included; the search draws rows and signs by its seed, and accuracies are means
over several. What the exact search takes is counted by the same prices, for as many removals.

`taylor-1` is given the same efforts: as many rankings on all rows as that buys, with a removal of equally many channels
after each.
"""

import json
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
from shrinknet.execution.cost_model import run_work
from shrinknet.run.effort import _passes

matplotlib.use("agg")

EFFORTS, SEEDS, PASSES_OF_TAYLOR_1 = (14, 27, 68), (0, 1, 2), 3
KINDS = ("none", "least-squares")


def main() -> None:
    """Measure what is asked for, beside what was measured before."""
    from trained_networks import resnet8

    asked = sys.argv[1:] or [*KINDS, "taylor-1"]
    model = resnet8().eval()
    inputs, targets = images(10_000, SEED)
    calibration, test = (
        (inputs[rows], targets[rows]) for rows in (slice(NUM_CALIBRATION), slice(NUM_CALIBRATION, None))
    )
    task = sn.Task(model, "cross-entropy", calibration, batch_size=250)
    path = RESULTS / "effort_resnet8.json"
    found = json.loads(path.read_text()) if path.exists() else {"accuracy": {}}
    for kind in asked:
        for effort in EFFORTS:
            if kind == "taylor-1":
                one, seeds = {"criterion": "taylor-1", "step": _step(effort)}, SEEDS[:1]
            else:
                one, seeds = {"effort": effort, "compensate": kind}, SEEDS
            runs = [curve(task, test, {**one, "seed": seed}) for seed in seeds]
            found["accuracy"].setdefault(kind, {})[str(effort)] = {
                key: statistics.mean(run[key] for run in runs) for key in runs[0]
            }
            found |= {"shares": SHARES, "seeds": SEEDS}
            if kind == "none":  # the exact search removes about as many
                found["exact"] = exact(task, round(runs[0]["removed"]))
            write("effort_resnet8", found)
    draw(found)


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


def exact(task: sn.Task, removed: int) -> dict[str, float]:
    """What the exact search takes, in passes, and the accuracies that are committed."""
    network = gated(task, scoring=sn.Scoring("6GiB"))
    rankings = -(-removed // STEP)
    passes = _passes(network, run_work(network, "ablation", 1, removed, STEP)) + rankings
    committed = json.loads((RESULTS / "fitting_resnet8.json").read_text())["accuracy"]
    return {"passes": passes, **{kind: committed[f"ablation, {kind}"] for kind in KINDS}}


def draw(found: dict) -> None:
    """Accuracy at each size against effort, with the exact search at its own."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(SHARES), figsize=(12, 3.6), sharey=True)
    for axis, share in zip(axes, SHARES, strict=True):
        for kind, by_effort in found["accuracy"].items():
            efforts = sorted(map(int, by_effort))
            label = {"none": "by effort", "least-squares": "by effort, least squares"}.get(kind, kind)
            (line,) = axis.plot(efforts, [by_effort[str(one)][str(share)] for one in efforts], marker="o", label=label)
            if kind in KINDS:
                exact = found["exact"]
                axis.plot(exact["passes"], exact[kind][str(share)], marker="*", ms=12, color=line.get_color(),
                          linestyle="none", label=f"exact, {kind}")  # fmt: skip
        axis.set(xscale="log", xlabel="forward passes over 1,000 images", title=f"{share:.0%} of the parameters")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy on 9,000 images")
    axes[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(Path(__file__).resolve().parents[2] / "docs" / "pictures" / "effort-resnet8.png", dpi=120)


if __name__ == "__main__":
    main()
