"""MLPerf Tiny's ResNet8 at 75, 50 and 35 % of its parameters, without retraining, beside Torch-Pruning.

    SHRINKNET_DATA=... python benchmarks/fitting/resnet8.py [none least-squares newton rivals]

Scores and refits see 1,000 of the 10,000 test images (drawn by a seed), accuracy is that on the other 9,000, which
nothing else sees. Ours: exact ablation, ranked again after every 2 channels, priced by parameters. Torch-Pruning: each
of its criteria, global, scored again at each of 100 small steps, its batch norms re-estimated on the same 1,000 images
before each measurement (both help it), at the first step that is as small.
"""

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ablation"))

import torch
from cifar import images
from rounds import RESULTS, SEED, once, write
from torch import nn

import shrinknet as sn

SHARES, NUM_CALIBRATION, STEP, RIVAL_STEPS = (0.75, 0.5, 0.35), 1000, 2, 100
KINDS = ("none", "least-squares", "newton")


def main() -> None:
    """Measure what is asked for, beside what was measured before."""
    from trained_networks import resnet8

    asked = sys.argv[1:] or [*KINDS, "rivals"]
    model = resnet8().eval()
    inputs, targets = images(10_000, SEED)
    calibration, test = (
        (inputs[rows], targets[rows]) for rows in (slice(NUM_CALIBRATION), slice(NUM_CALIBRATION, None))
    )
    path = RESULTS / "fitting_resnet8.json"
    found = json.loads(path.read_text())["accuracy"] if path.exists() else {}
    found["whole"] = {"1.0": accuracy(model, test)}
    for kind in asked:
        if kind == "rivals":
            for name, importance in rivals().items():
                found[f"Torch-Pruning {name}"] = rival(copy.deepcopy(model), importance, calibration, test)
        else:
            found[f"ablation, {kind}"] = ours(model, kind, calibration, test)
        content = {"shares": SHARES, "num_calibration": NUM_CALIBRATION, "step": STEP, "accuracy": found}
        write("fitting_resnet8", content)


def ours(model: nn.Module, kind: str, calibration: tuple, test: tuple) -> dict[str, float]:
    """One run, from which each size is cut."""
    task = sn.Task(model, "cross-entropy", calibration, None, test, batch_size=250)
    total = sum(parameter.numel() for parameter in model.parameters())
    goals = [sn.NumParameters(int(share * total)) for share in SHARES]
    runs: list[sn.Run] = []
    scoring = sn.Scoring("6GiB")
    seconds = once(lambda: runs.append(
        sn.prune(task, goals=goals[-1:], step=STEP, price="parameters", compensate=kind, scoring=scoring)
    ))  # fmt: skip
    measured = {
        str(share): runs[0].at(goal).test.metrics_after["accuracy"] for share, goal in zip(SHARES, goals, strict=True)
    }
    return {**measured, "seconds": seconds}


def rivals() -> dict[str, object]:
    """Torch-Pruning's criteria."""
    from torch_pruning.pruner import importance

    return {
        "magnitude": importance.GroupMagnitudeImportance(p=2), "Taylor": importance.GroupTaylorImportance(),
        "Hessian": importance.GroupHessianImportance(), "FPGM": importance.FPGMImportance(),
        "BN scale": importance.BNScaleImportance(), "LAMP": importance.LAMPImportance(),
    }  # fmt: skip


def rival(model: nn.Module, importance: object, calibration: tuple, test: tuple) -> dict[str, float]:
    """Torch-Pruning in small steps, each scored anew."""
    import torch_pruning

    pruner = torch_pruning.pruner.MetaPruner(
        model, calibration[0][:2], importance, global_pruning=True, pruning_ratio=0.9, max_pruning_ratio=1.0,
        iterative_steps=RIVAL_STEPS, ignored_layers=[model.head],
    )  # fmt: skip
    total, wanted, found = sum(p.numel() for p in model.parameters()), list(SHARES), {}
    for _ in range(RIVAL_STEPS):
        prepare(model, importance, calibration)
        pruner.step()
        model.zero_grad()
        share = sum(p.numel() for p in model.parameters()) / total
        while wanted and share <= wanted[0]:
            shown = copy.deepcopy(model)
            reestimate(shown, calibration[0])
            found[str(wanted.pop(0))] = accuracy(shown, test)
        if not wanted:
            break
    return found


def prepare(model: nn.Module, importance: object, calibration: tuple) -> None:
    """What its criteria read: gradients of the mean loss; for its Hessian those of each sample."""
    from torch_pruning.pruner import importance as known

    model.zero_grad()
    if isinstance(importance, known.GroupHessianImportance):
        importance.zero_grad()
        for row, target in zip(calibration[0][:256].split(1), calibration[1][:256].split(1), strict=True):
            model.zero_grad()
            nn.functional.cross_entropy(model(row), target).backward()
            importance.accumulate_grad(model)
    elif isinstance(importance, known.GroupTaylorImportance):
        nn.functional.cross_entropy(model(calibration[0]), calibration[1]).backward()


def reestimate(model: nn.Module, inputs: torch.Tensor) -> None:
    """Take the statistics of every batch norm anew."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for rows in inputs.split(250):
            model(rows)
    model.eval()


def accuracy(model: nn.Module, rows: tuple) -> float:
    """The share of right answers."""
    with torch.no_grad():
        right = (int((model(x).argmax(1) == y).sum()) for x, y in batches(*rows))
        return sum(right) / len(rows[1])


def batches(inputs: torch.Tensor, targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield rows, 250 at a time."""
    return zip(inputs.split(250), targets.split(250), strict=True)


if __name__ == "__main__":
    main()
