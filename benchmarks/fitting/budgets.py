"""Two numbers of bytes and a trained network: does the measured file fit, and what is it worth then?

    SHRINKNET_DATA=... python benchmarks/fitting/budgets.py [resnet8 resnet8-int8 resnet8-int8-joint activity ...]

ResNet8 (MLPerf Tiny, CIFAR-10): 160 KiB of flash and 144 KiB of RAM in float32; 64 KiB of flash in int8. ST's activity
network and the ToyCar autoencoder: half their flash and half their RAM. Scores and refits see calibration data, every
quality given is on data that the fit did not see: other images, other recordings, later frames. Every file is made by
ExecuTorch and run by its Python runtime; least squares make up for what is gone; priced by what the budgets lack. With
`-joint`, within 500 passes, all weights are refit together before they are quantized (images with flips and shifts).
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ablation"))

import numpy as np
import torch
from cifar import images
from rounds import RESULTS, SEED, once, write

import shrinknet as sn
from shrinknet.core.records import Manifest
from shrinknet.engine.gates import gated
from shrinknet.export.artefact import Artefact

DATA = Path(os.environ["SHRINKNET_DATA"])
WINDOW, NUM_CALIBRATION, EFFORT = 26, 1000, 500


def main() -> None:
    """Fit what is asked for, beside what was fitted before."""
    path = RESULTS / "fitting_budgets.json"
    found = json.loads(path.read_text())["rows"] if path.exists() else {}
    for name in sys.argv[1:] or JOBS:
        found[name] = JOBS[name]()
        write("fitting_budgets", {"rows": found})


def resnet8(quantize: str = "none", kind: str = "least-squares") -> dict[str, object]:
    """The image classifier."""
    from trained_networks import resnet8

    rows, classes = images(10_000, SEED)
    parts = [(rows[some], classes[some]) for some in (slice(NUM_CALIBRATION), slice(NUM_CALIBRATION, None))]
    task = sn.Task(resnet8(), "cross-entropy", parts[0], None, parts[1], batch_size=250)
    budgets = (
        [sn.FlashBytes("64 KiB")] if quantize == "int8" else [sn.FlashBytes("160 KiB"), sn.PeakRamBytes("144 KiB")]
    )
    if kind == "joint":
        return fit(task, budgets, quantize, kind, effort=EFFORT, augment=("flip", "shift"))
    return fit(task, budgets, quantize, kind, step=4)


def activity(kind: str = "least-squares") -> dict[str, object]:
    """Half of everything for the activity network."""
    return halves(activity_task(), kind, **({"effort": EFFORT} if kind == "joint" else {"step": 2}))


def activity_task() -> sn.Task:
    """Windows of one second; every other recording calibrates, the others test. The vendor trained on some of them."""
    from trained_networks import activity

    file = np.load(DATA / "sensor" / "stm32_har.npz", allow_pickle=False)
    parts: list[list] = [[], []]
    for number, label in enumerate(file["label"]):
        recording = file["acc_mg"][file["offset"][number] : file["offset"][number + 1]] / 4000
        windows = recording[: len(recording) // WINDOW * WINDOW].reshape(-1, WINDOW, 3).transpose(0, 2, 1)
        parts[number % 2].append((windows, np.full(len(windows), label)))
    calibration, test = (
        (torch.tensor(np.concatenate([x for x, _ in part]), dtype=torch.float32),
         torch.tensor(np.concatenate([y for _, y in part]).astype(np.int64)))
        for part in parts
    )  # fmt: skip
    return sn.Task(activity(), "cross-entropy", calibration, None, test)


def autoencoder() -> dict[str, object]:
    """Five frames of a spectrogram, given back; the first 60 % of the recording calibrates, the rest tests."""
    from trained_networks import trained_autoencoder

    (file,) = (DATA / "mlperf-tiny" / "anomaly_detection").glob("*.bin")
    frames = torch.tensor(np.fromfile(file, np.float32).reshape(-1, 128))
    rows = frames.unfold(0, 5, 1).permute(0, 2, 1).flatten(1).contiguous()
    early, late = rows[: int(0.6 * len(rows))], rows[int(0.6 * len(rows)) + 4 :]  # no frame in both
    return halves(sn.Task(trained_autoencoder(), "squared-error", (early, early), None, (late, late)), "mean", step=16)


def halves(task: sn.Task, kind: str, **how: object) -> dict[str, object]:
    """Half the flash and half the RAM; where RAM cannot be halved, half the flash alone."""
    trace = gated(task).trace
    whole = Artefact(task, trace, "executorch").costs(trace.present())
    flash, ram = sn.FlashBytes(whole.flash_bytes // 2), sn.PeakRamBytes(whole.peak_ram_bytes // 2)
    try:
        found = {"both": fit(task, [flash, ram], "none", kind, **how)}
    except sn.BadInputError:  # no network is that small: how near does the smallest come?
        found = {"both": fit(task, [flash, ram], "none", kind, whole_curve=True, **how)}
    if not found["both"]["is_met"]:
        found["flash alone"] = fit(task, [flash], "none", kind, **how)
    return found


def fit(task: sn.Task, budgets: list, quantize: str, kind: str, **how: object) -> dict[str, object]:
    """Fit, and say what was measured."""
    runs: list[sn.Run] = []
    seconds = once(lambda: runs.append(sn.prune(
        task, goals=budgets, artefact="executorch", quantize=quantize, price="budget", compensate=kind,
        scoring=sn.Scoring("6GiB"), **how,
    )))  # fmt: skip
    (run,) = runs
    start = run.history[0].measures.costs
    found = {
        "budgets": list(map(str, budgets)), "is_met": run.is_met, "reason": run.reason, "compensate": kind,
        "whole": {"flash_bytes": start.flash_bytes, "arena_bytes": start.peak_ram_bytes},
        "file": measured(run.artefact), "test": {
            "loss_before": run.test.loss_before, "loss_after": run.test.loss_after,
            "accuracy_before": run.test.metrics_before.get("accuracy"),
            "accuracy_after": run.test.metrics_after.get("accuracy"),
            "num_samples": run.test.num_samples,
        }, "seconds": seconds,
    }  # fmt: skip
    if quantize != "none":
        found["corners"] = {corner.name: measured(corner.manifest) for corner in run.corners()}
    return found


def measured(manifest: Manifest) -> dict[str, object]:
    """What counts of a manifest."""
    return {
        "num_bytes": manifest.num_bytes, "forecast_bytes": manifest.forecast_bytes,
        "arena_bytes": manifest.arena_bytes, "forecast_arena_bytes": manifest.forecast_arena_bytes,
        "worst_difference": manifest.difference.worst, "tolerance": manifest.difference.tolerance,
        "accuracy": manifest.metrics.get("accuracy"), "loss": manifest.loss, "num_samples": manifest.num_samples,
    }  # fmt: skip


JOBS = {
    "resnet8": resnet8, "resnet8-int8": lambda: resnet8("int8"),
    "resnet8-int8-joint": lambda: resnet8("int8", "joint"), "activity": activity,
    "activity-joint": lambda: activity("joint"), "autoencoder": autoencoder,
}  # fmt: skip


if __name__ == "__main__":
    main()
