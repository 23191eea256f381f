"""`shrinknet demo`: the main job on handwritten digits."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from shrinknet.cli import console
from shrinknet.cli.options import Out
from shrinknet.search.goals import FlashBytes, Goal, PeakRamBytes

FLASH, RAM = "16 KiB", "4 KiB"


def command(
    out: Out = Path("demo-run"),
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
) -> None:
    """Train a small network on handwritten digits, fit it into 16 KiB of flash and 4 KiB of RAM, write the page.

    The file is ExecuTorch's where the extra is installed; else the weights file, and flash alone.
    """
    from shrinknet.api import prune
    from shrinknet.cli.work.finishing import finish
    from shrinknet.recipes import digits
    from shrinknet.task.task import Task

    has_executorch = find_spec("executorch") is not None
    goals: list[Goal] = [FlashBytes(FLASH), PeakRamBytes(RAM)] if has_executorch else [FlashBytes(FLASH)]
    roles = digits.data(seed)
    with console.Bar(f"training on {len(roles['calibration'][0]):,} handwritten digits") as bar:
        model = digits.trained(roles["calibration"], seed, bar.tell)
    task = Task(model, "cross-entropy", roles["calibration"], roles["validation"], roles["test"])
    with console.Bar("pruning") as bar:
        run = prune(
            task,
            "ablation",
            "reranking",
            goals,
            whole_curve=True,
            artefact="executorch" if has_executorch else "weights",
            seed=seed,
            out=out,
            config={"data": str((out / "data.npz").resolve())},
            progress=bar,
        )
    digits.write_npz(roles, out / "data.npz")
    if not has_executorch:
        console.talk.print(
            "Fitted as a weights file; for a .pte file within RAM too: pip install 'shrinknet[executorch]'"
        )
    finish(run, out, as_json=False)
