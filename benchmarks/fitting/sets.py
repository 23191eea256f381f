"""ResNet8's channels eight at a time: by scores alone, in sets that do not hurt each other, and one at a time.

    SHRINKNET_DATA=... python benchmarks/fitting/sets.py [none least-squares]

The rows are those of `fitting/resnet8.py`: 1,000 of the 10,000 test images are seen by scores and refits, accuracy is
that on the other 9,000. Exact ablation ranks again after each step; removals are priced in parameters, of which 75, 50
and 35 % stay. With least squares, scores say what the others cannot make up for, and sets are those of the lowest
scores. Killed, the same command goes on from there.
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
from shrinknet.criteria.ablation import Ablation

MANY = 8
PARTIAL = RESULTS / "fitting_sets.partial.jsonl"


class ByScoresAlone(Ablation):
    """Exact ablation, of which the lowest go together whatever they do to each other."""

    name = "ablation-alone"
    is_second_order = False


WAYS = {
    "none": {"one": (1, "ablation"), "in sets": (MANY, "ablation"), "by scores alone": (MANY, ByScoresAlone())},
    "least-squares": {"one": (1, "ablation"), "by scores alone": (MANY, "ablation")},
}


def main() -> None:
    """Measure what is asked for, the short ones first."""
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    known = {(row["kind"], row["way"]) for row in done}
    asked = sys.argv[1:] or list(WAYS)
    with open(PARTIAL, "a") as file:
        for kind in asked:
            for way, (step, criterion) in reversed(WAYS[kind].items()):
                if (kind, way) not in known:
                    done.append({"kind": kind, "way": way, "step": step, **pruned(kind, step, criterion)})
                    file.write(json.dumps(done[-1]) + "\n")
                    file.flush()
    write("fitting_sets", {"num_calibration": NUM_CALIBRATION, "rows": done})
    PARTIAL.unlink()


def pruned(kind: str, step: int, criterion: object) -> dict[str, object]:
    """One search, from which each size is cut."""
    inputs, targets = images(10_000, SEED)
    task = sn.Task(
        resnet8().eval(), "cross-entropy", (inputs[:NUM_CALIBRATION], targets[:NUM_CALIBRATION]), batch_size=250
    )
    test, runs = (inputs[NUM_CALIBRATION:], targets[NUM_CALIBRATION:]), list[sn.Run]()
    total = sum(parameter.numel() for parameter in task.model.parameters())
    goals = [sn.NumParameters(int(share * total)) for share in SHARES]
    how = {"criterion": criterion, "step": step, "price": "parameters", "compensate": kind, "seed": SEED}
    seconds = once(lambda: runs.append(sn.prune(task, goals=goals[-1:], scoring=sn.Scoring("6GiB"), **how)))
    cut = [runs[0].at(goal) for goal in goals]
    return {
        "accuracy": {str(share): accuracy(one.model.eval(), test) for share, one in zip(SHARES, cut, strict=True)},
        "calibration_loss": {
            str(share): one.measures.calibration_loss for share, one in zip(SHARES, cut, strict=True)
        },
        "removed": len(runs[0].plan.removed), "seconds": seconds,
    }  # fmt: skip


if __name__ == "__main__":
    main()
