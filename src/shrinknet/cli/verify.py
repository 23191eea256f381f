"""`shrinknet verify`: the proof again, from the files."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from shrinknet.checking import check_files
from shrinknet.cli import console
from shrinknet.cli.options import Json
from shrinknet.cli.reopen import reopen
from shrinknet.report import summary


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    data: Annotated[str | None, typer.Option("--data", help="Other data than the run's own.")] = None,
    json: Json = False,
) -> None:
    """Compare masked, cut and exported networks again, on real inputs. Exit status 1 where they differ."""
    opened = reopen(run, data)
    checks = {f"cut, in {d.precision}": d for d in opened.verification.differences} | check_files(opened)
    rows = [(name, f"{d.worst:.3e}", f"{d.tolerance:.3e}", d.num_samples, "yes" if d.holds else "NO")
            for name, d in checks.items()]  # fmt: skip
    holds = opened.verification.holds and all(difference.holds for difference in checks.values())
    if json:
        keys = ("what", "worst", "tolerance", "samples", "holds")
        console.print_json({"holds": holds, "checks": [dict(zip(keys, row, strict=True)) for row in rows]})
    else:
        console.table("Against the masked network", ("what", "worst", "tolerance", "samples", "holds"), rows)
    broken = [name for name, difference in checks.items() if not difference.holds]
    if not opened.verification.holds:
        broken.insert(0, summary.proof_line(opened.verification))
    console.talk.print(f"Verified: {run}." if holds else f"NOT verified: {'; '.join(broken)}.")
    sys.exit(0 if holds else 1)
