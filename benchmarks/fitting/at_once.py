"""MLPerf Tiny's ResNet8: eight channels in one step beside one at a time, by exact ablation.

    SHRINKNET_DATA=... python benchmarks/fitting/at_once.py

Half of the parameters stay; scores see 300 of the 10,000 test images, drawn by each of three seeds, accuracy is that on
9,000 of those left. `one` ranks again after every channel; `eight` is `step=8`; `eight lowest` takes the eight that a
ranking puts first, whatever they do to each other. Killed, the same command goes on from there.
"""

import json
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("fitting", "ablation", "zoo")]

from cifar import images
from resnet8 import accuracy
from rounds import RESULTS, once, write
from trained_networks import resnet8

import shrinknet as sn
from shrinknet.run import choosing

DRAWS, ROWS, FIRST_TESTED, SHARE = (0, 1, 2), 300, 1000, 0.5
WAYS = {"one": 1, "eight": 8, "eight lowest": 8}
JOBS = [(kind, way) for kind in ("none", "least-squares") for way in WAYS]
PARTIAL = RESULTS / "fitting_at_once.partial.jsonl"


def main() -> None:
    """Measure what was not measured before it was killed."""
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    known = {(row["draw"], row["kind"], row["way"]) for row in done}
    with open(PARTIAL, "a") as file:
        for job in [(draw, *job) for draw in DRAWS for job in JOBS]:
            if job not in known:
                done.append(pruned(*job))
                file.write(json.dumps(done[-1]) + "\n")
                file.flush()
                print(done[-1], flush=True)
    write("fitting_at_once", {"rows": ROWS, "share": SHARE, "means": [mean(*job, done) for job in JOBS], "runs": done})
    PARTIAL.unlink()


def pruned(draw: int, kind: str, way: str) -> dict[str, object]:
    """One search."""
    inputs, targets = images(10_000, draw)
    task = sn.Task(resnet8().eval(), "cross-entropy", (inputs[:ROWS], targets[:ROWS]), batch_size=ROWS)
    runs, lazy = list[sn.Run](), choosing._one_after_another
    how = {"price": "parameters", "compensate": kind, "step": WAYS[way]}
    try:
        if way == "eight lowest":
            choosing._one_after_another = lambda options: False
        seconds = once(lambda: runs.append(sn.prune(task, goals=[sn.NumParameters(f"{SHARE:.0%}")], **how)))
    finally:
        choosing._one_after_another = lazy
    test = inputs[FIRST_TESTED:], targets[FIRST_TESTED:]
    return {
        "draw": draw, "kind": kind, "way": way, "accuracy": accuracy(runs[0].model.eval(), test),
        "calibration_loss": runs[0].measures.calibration_loss, "removed": len(runs[0].plan.removed), "seconds": seconds,
    }  # fmt: skip


def mean(kind: str, way: str, runs: list[dict]) -> dict[str, object]:
    """The means over the draws."""
    own = [row for row in runs if (row["kind"], row["way"]) == (kind, way)]
    keys = ("accuracy", "calibration_loss", "seconds")
    return {"kind": kind, "way": way, **{key: statistics.mean(row[key] for row in own) for key in keys}}


if __name__ == "__main__":
    main()
