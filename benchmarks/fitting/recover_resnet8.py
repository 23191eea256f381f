"""MLPerf Tiny's ResNet8 at half of its parameters, its weights trained on with labels: `shrinknet recover`.

    SHRINKNET_DATA=... python benchmarks/fitting/recover_resnet8.py FOLDER

Scores and refits see 1,000 of the 10,000 test images (drawn by a seed), recovery all 50,000 training images, ten times,
with flips and shifts; accuracy is that on the other 9,000 test images, which nothing else sees. FOLDER holds the two
runs: killed, the same command goes on from the last whole pass.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("ablation", "effort")]

from cifar import images
from networks import accuracy, cifar
from rounds import SEED, once, write

import shrinknet as sn

SHARE, NUM_CALIBRATION, EFFORT, PASSES, AUGMENT = 0.5, 1000, 95, 10, ("flip", "shift")


def main() -> None:
    """Prune, recover, measure."""
    from trained_networks import resnet8

    folder, model = Path(sys.argv[1]), resnet8().eval()
    inputs, targets = images(10_000, SEED)
    calibration, test = (
        (inputs[rows], targets[rows]) for rows in (slice(NUM_CALIBRATION), slice(NUM_CALIBRATION, None))
    )
    task = sn.Task(model, "cross-entropy", calibration, batch_size=250)
    goal = sn.NumParameters(int(SHARE * sum(parameter.numel() for parameter in model.parameters())))
    run = sn.prune(
        task, goals=[goal], price="parameters", effort=EFFORT, compensate="least-squares", seed=SEED,
        scoring=sn.Scoring("6GiB"), out=folder / "pruned", resume=True,
    )  # fmt: skip
    pixels, classes = cifar("train")
    recovered: list[sn.Run] = []
    seconds = once(lambda: recovered.append(run.recover(
        data=(pixels.float(), classes), passes=PASSES, augment=AUGMENT, seed=SEED, out=folder / "recovered",
        resume=True, tell=lambda what, done: print(f"{100 * done:.2f} %", end="\r"),
    )))  # fmt: skip
    found = {"whole": model, "pruned": run.model, "recovered": recovered[0].model}
    content = {name: accuracy(network.eval(), test) for name, network in found.items()}
    write("recover_resnet8", {
        "share": SHARE, "passes": PASSES, "augment": AUGMENT, "rows": len(classes), "accuracy": content,
        "seconds_since_last_resumed": seconds,
    })  # fmt: skip


if __name__ == "__main__":
    main()
