"""`shrinknet demo`: the main job on data that ships with scikit-learn."""

from pathlib import Path
from typing import Annotated

import typer

from shrinknet.api import prune
from shrinknet.cli import console
from shrinknet.cli.prune import finish
from shrinknet.recipes import digits
from shrinknet.stopping.goals import FlashBytes
from shrinknet.task import Task

BUDGET = "24 KiB"
NUM_PER_STEP = 1


def command(
    out: Annotated[Path, typer.Option("--out", help="A new folder for the run.")] = Path("demo-run"),
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
) -> None:
    """Train a small network on handwritten digits, shrink it to 24 KiB, prove the result, write the page."""
    roles = digits.data(seed)
    with console.Bar(f"training on {len(roles['calibration'][0]):,} handwritten digits") as bar:
        model = digits.trained(roles["calibration"], seed, bar.tell)
    task = Task(model, "cross-entropy", roles["calibration"], roles["validation"], roles["test"])
    with console.Bar("pruning") as bar:
        run = prune(
            task, "ablation", "reranking", [FlashBytes(BUDGET)], step=NUM_PER_STEP, whole_curve=True, seed=seed,
            out=out, config={"data": str((out / "data.npz").resolve())}, progress=bar,
        )  # fmt: skip
    digits.write_npz(roles, out / "data.npz")
    finish(run, out, as_json=False)
