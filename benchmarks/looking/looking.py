"""What looking costs: surfaces, pairs, the recall report and the page.

    python benchmarks/looking/looking.py

On a network of the paper's size (400-100-10, logistic, 4,500 images), float32; random weights and images, since speed
does not depend on them. Rivals: 10,001 whole forward passes with the gate moved by hand (timed on 200 of them), and
4,950 whole passes with two neurons masked (timed on 200). The figures must agree before anything is timed. The page is
opened by a headless Chromium, where there is one, with a history of 10,000 steps.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import shrinknet as sn
from shrinknet.core.recall import RecallHistory

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ablation"))
from rounds import SEED, in_turns, once, write

NUM_IMAGES, FEW, ROUNDS = 4_500, 200, 5
LONG = 10_000


def main() -> None:
    """Time everything."""
    torch.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(400, 100), nn.Sigmoid(), nn.Linear(100, 10), nn.Sigmoid()).requires_grad_(False)
    inputs, targets = torch.rand(NUM_IMAGES, 400), torch.arange(NUM_IMAGES) % 10
    task = sn.Task(model, "squared-error", (inputs, targets), batch_size=NUM_IMAGES)
    write("looking", {"surface": surface(task), "pairs": pairs(task), **long_history()})


def masked_loss(task: sn.Task, gates: torch.Tensor) -> float:
    """One whole forward pass with these gates."""
    batch = next(task.calibration.batches())
    model = task.model
    outputs = model[3](model[2](model[1](model[0](batch.inputs)) * gates))
    return float(task.loss.of(outputs, batch.targets).mean())


def surface(task: sn.Task) -> dict[str, object]:
    """10,001 alphas of one neuron, with its verdict (two rankings for the partner)."""
    found = sn.error_surface(task, sn.Neuron("0", 3))

    def by_hand(count: int) -> list[float]:
        losses = []
        for alpha in found.alphas[:count]:
            gates = torch.ones(100)
            gates[3] = float(alpha)
            losses.append(masked_loss(task, gates))
        return losses

    slow = torch.tensor(by_hand(FEW), dtype=torch.float64)
    torch.testing.assert_close(torch.from_numpy(found.losses[:FEW].copy()), slow, rtol=1e-5, atol=1e-7)
    run = sn.prune(task, goals=[sn.RemovedNeurons(20)], effort="exact")
    seconds = in_turns(
        {
            "one alone, traced first": lambda: sn.error_surface(task, sn.Neuron("0", 3)),
            "the 20 of a run": lambda: sn.error_surfaces(run, every=1),
            "passes": lambda: by_hand(FEW),
        },
        ROUNDS,
    )
    passes = len(found.alphas) * seconds["passes"]["median"] / FEW
    alone, each = seconds["one alone, traced first"]["median"], seconds["the 20 of a run"]["median"] / 20
    return {
        "alphas": len(found.alphas), "seconds alone": alone, "seconds each of a run": each,
        "seconds of all forward passes": passes, "passes / alone": passes / alone,
        "passes / each of a run": passes / each,
    }  # fmt: skip


def pairs(task: sn.Task) -> dict[str, object]:
    """All pairs of 100 neurons."""
    (found,) = sn.cancellation(task)

    def by_hand(count: int) -> list[float]:
        losses = []
        for place in range(count):
            gates = torch.ones(100)
            gates[[place % 99, place % 99 + 1]] = 0
            losses.append(masked_loss(task, gates))
        return losses

    start = masked_loss(task, torch.ones(100))
    joint = by_hand(1)[0] - start
    ours = found.interactions[0, 1] + found.rises[0] + found.rises[1]
    assert abs(ours - joint) < 1e-5 * start
    seconds = in_turns({"ours": lambda: sn.cancellation(task), "passes": lambda: by_hand(FEW)}, ROUNDS)
    per_pass = seconds["passes"]["median"] / FEW
    return {
        "pairs": found.num_pairs, "seconds": seconds["ours"],
        "passes / ours": found.num_pairs * per_pass / seconds["ours"]["median"],
    }  # fmt: skip


def long_history() -> dict[str, object]:
    """A run of 10,000 steps: what its recall report and its page take."""
    torch.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(16, LONG), nn.ReLU(), nn.Linear(LONG, 10))
    rows = torch.randn(200, 16), torch.arange(200) % 10
    task = sn.Task(model, "cross-entropy", rows, (torch.randn(300, 16), torch.arange(300) % 10))
    with tempfile.TemporaryDirectory() as folder:
        run = sn.prune(
            task, "magnitude", "single-ranking", goals=[sn.RemovedNeurons(LONG // 2)], whole_curve=True,
            out=Path(folder) / "run",
        )  # fmt: skip
        recall = once(lambda: sn.recall_distortion(run.history))
        recalls = once(lambda: RecallHistory.of(run.history[:101]).recalls)
        page = Path(folder) / "run" / "report" / "index.html"
        return {
            "recall of 10,000 steps, seconds": recall, "recalls of 100 steps, seconds": recalls,
            "page of 10,000 steps": {"bytes": page.stat().st_size, **opened(page)},
        }  # fmt: skip


def opened(page: Path) -> dict[str, object]:
    """Seconds until the page is drawn, and until it is drawn again after the slider moved."""
    path = shutil.which("chromium")
    if path is None:
        return {"opened": "no Chromium here"}
    from playwright.sync_api import sync_playwright

    opening, moving = [], []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(ROUNDS):
            tab = chromium.new_page()
            started = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready=yes]")
            opening.append(time.perf_counter() - started)
            started = time.perf_counter()
            tab.get_by_role("slider").fill("77")
            tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            moving.append(time.perf_counter() - started)
            tab.close()
        chromium.close()
    return {"opened, seconds": sorted(opening)[ROUNDS // 2], "slider moved, seconds": sorted(moving)[ROUNDS // 2]}


if __name__ == "__main__":
    main()
