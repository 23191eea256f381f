"""What a run says at its end."""

import sys
from dataclasses import asdict
from pathlib import Path

from shrinknet.cli import console
from shrinknet.cli.words import said
from shrinknet.report import summary
from shrinknet.run.run import Run


def finish(run: Run, out: Path, as_json: bool) -> None:
    """Print a run's result, and leave with exit status 1 where a goal could not be met."""
    if as_json:
        facts = {
            "out": str(out),
            "reason": said(run.reason),
            "is_met": run.is_met,
            "rows": [dict(zip(("what", "before", "after"), row, strict=True)) for row in run.rows()],
            "proof": summary.proof_line(run.verification),
            "artefact": None if run.artefact is None else asdict(run.artefact),
        }
        console.print_json(facts)
    else:
        console.table("", ("", "before", "after"), run.rows())
        made = summary.exchanges_line(run.history) + summary.compensation_line(run.config)
        for line in made + summary.coupled_line(run.config):
            console.out.print(line)
        console.out.print(summary.proof_line(run.verification))
        if run.artefact is not None:
            console.out.print(summary.shipped_line(run.artefact, run.config.qualities))
    if run.folder is not None and (line := summary.race_line(run.folder.races())):
        console.talk.print(line)
    console.talk.print(f"Run: {out} (page: {out / 'report' / 'index.html'})")
    if run.is_met:
        console.talk.print(said(run.last_line()))
    else:
        console.talk.print(said(f"Not met; the nearest model is {out / 'model.pt2'}. {run.last_line()}"))
        sys.exit(1)
