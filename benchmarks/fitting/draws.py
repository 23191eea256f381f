"""MLPerf Tiny's ResNet8 at 75, 50 and 35 % of its parameters: three draws of the calibration images, many and few.

    SHRINKNET_DATA=... python benchmarks/fitting/draws.py

Scores and refits see the calibration rows alone, 1,000 or the first 128 of these, drawn by a seed from the 10,000 test
images; accuracy is that on the other 9,000. Passes over few images are cheap: there `joint` has as many as pay for all
of its epochs. `least-squares` searches with as many as `joint` has left once its epochs are paid; `polished` is least
squares with exchanges at the end, beside `unpolished` by the same effort. Killed, the same command goes on from there.
"""

import json
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("fitting", "ablation", "zoo")]

from cifar import images
from resnet8 import NUM_CALIBRATION, SHARES, accuracy
from rounds import RESULTS, once, write
from trained_networks import resnet8

import shrinknet as sn
from shrinknet.recovery.joint import PASSES_AN_EPOCH, most_epochs
from shrinknet.run.effort import SHARE_FOR_JOINT

DRAWS, FEW = (0, 1, 2), 128
OF_JOINT = {rows: most_epochs(rows) * PASSES_AN_EPOCH for rows in (NUM_CALIBRATION, FEW)}
EFFORTS = {NUM_CALIBRATION: 500, FEW: OF_JOINT[FEW] / SHARE_FOR_JOINT}
WAYS = {
    "least-squares": {"compensate": "least-squares"},
    "joint": {"compensate": "joint", "augment": ("flip", "shift")},
    "unpolished": {"compensate": "least-squares"},
    "polished": {"compensate": "least-squares", "polish": True},
}
JOBS = [(way, rows, share) for way in ("least-squares", "joint") for rows in (NUM_CALIBRATION, FEW) for share in SHARES]
JOBS += [(way, NUM_CALIBRATION, SHARES[-1]) for way in ("unpolished", "polished")]
PARTIAL = RESULTS / "fitting_draws.partial.jsonl"


def main() -> None:
    """Measure what was not measured before it was killed."""
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    known = {(row["way"], row["rows"], row["share"], row["draw"]) for row in done}
    with open(PARTIAL, "a") as file:
        for job in [(*job, draw) for draw in DRAWS for job in JOBS]:
            if job not in known:
                done.append(pruned(*job))
                file.write(json.dumps(done[-1]) + "\n")
                file.flush()
                print(done[-1], flush=True)
    write("fitting_draws", {"efforts": EFFORTS, "of_joint": OF_JOINT,
                            "means": [summed_up(job, done) for job in JOBS], "runs": done})  # fmt: skip
    PARTIAL.unlink()


def pruned(way: str, num_rows: int, share: float, draw: int) -> dict[str, object]:
    """One search."""
    inputs, targets = images(10_000, draw)
    task = sn.Task(resnet8().eval(), "cross-entropy", (inputs[:num_rows], targets[:num_rows]), batch_size=250)
    test, runs = (inputs[NUM_CALIBRATION:], targets[NUM_CALIBRATION:]), list[sn.Run]()
    effort = EFFORTS[num_rows] - (OF_JOINT[num_rows] if way == "least-squares" else 0)
    how = {
        "goals": [sn.NumParameters(f"{share:.0%}")],
        "price": "parameters",
        "seed": draw,
        "effort": effort,
        **WAYS[way],
    }
    seconds = once(lambda: runs.append(sn.prune(task, **how)))
    (run,) = runs
    return {
        "way": way, "rows": num_rows, "share": share, "draw": draw, "accuracy": accuracy(run.model.eval(), test),
        "calibration_loss": run.measures.calibration_loss, "removed": len(run.plan.removed),
        "exchanges": sum(bool(step.restored) for step in run.history), "seconds": seconds,
    }  # fmt: skip


def summed_up(job: tuple[str, int, float], runs: list[dict]) -> dict[str, object]:
    """The mean over the draws, and between what it lies."""
    found = [row["accuracy"] for row in runs if (row["way"], row["rows"], row["share"]) == job]
    return {"way": job[0], "rows": job[1], "share": job[2], "mean": statistics.mean(found),
            "least": min(found), "most": max(found)}  # fmt: skip


if __name__ == "__main__":
    main()
