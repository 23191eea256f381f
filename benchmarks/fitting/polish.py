"""MLPerf Tiny's ResNet8 polished: the same effort with exchanges at the end and without.

    SHRINKNET_DATA=... python benchmarks/fitting/polish.py [none least-squares]

The rows are those of `fitting/resnet8.py`: 1,000 of the 10,000 test images are seen by scores, refits and exchanges,
accuracy is that on the other 9,000. 75, 50 and 35 % of the parameters stay, removals are priced in parameters. Killed,
the same command goes on from there.
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("fitting", "ablation", "zoo")]

from cifar import images
from resnet8 import NUM_CALIBRATION, SHARES, accuracy
from rounds import RESULTS, SEED, once, write
from trained_networks import resnet8

import shrinknet as sn

EFFORT = 1000
PARTIAL = RESULTS / "fitting_polish.partial.jsonl"


def main() -> None:
    """Measure what is asked for."""
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    known = {(row["kind"], row["share"], row["polish"]) for row in done}
    with open(PARTIAL, "a") as file:
        for kind in sys.argv[1:] or ("none", "least-squares"):
            for share in reversed(SHARES):
                for polish in (False, True):
                    if (kind, share, polish) not in known:
                        done.append(pruned(kind, share, polish))
                        file.write(json.dumps(done[-1]) + "\n")
                        file.flush()
    write("fitting_polish", {"num_calibration": NUM_CALIBRATION, "passes": EFFORT, "rows": done})
    PARTIAL.unlink()


def pruned(kind: str, share: float, polish: bool) -> dict[str, object]:
    """One search."""
    inputs, targets = images(10_000, SEED)
    task = sn.Task(
        resnet8().eval(), "cross-entropy", (inputs[:NUM_CALIBRATION], targets[:NUM_CALIBRATION]), batch_size=250
    )
    test, runs = (inputs[NUM_CALIBRATION:], targets[NUM_CALIBRATION:]), list[sn.Run]()
    how = {"effort": EFFORT, "price": "parameters", "compensate": kind, "polish": polish, "seed": SEED}
    seconds = once(lambda: runs.append(sn.prune(task, goals=[sn.NumParameters(f"{share:.0%}")], **how)))
    (run,) = runs
    return {
        "kind": kind, "share": share, "polish": polish, "accuracy": accuracy(run.model.eval(), test),
        "calibration_loss": run.measures.calibration_loss, "removed": len(run.plan.removed),
        "exchanges": sum(bool(step.restored) for step in run.history), "seconds": seconds,
    }  # fmt: skip


if __name__ == "__main__":
    main()
