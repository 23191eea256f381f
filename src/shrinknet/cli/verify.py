"""`shrinknet verify`: the proof again, from the files."""

import sys

from shrinknet.cli import console
from shrinknet.cli.flags import spread
from shrinknet.cli.options import Json, RunFlags, RunPath
from shrinknet.core.sealed import SEAL
from shrinknet.report import summary


@spread
def command(run: RunPath, given: RunFlags, json: Json = False) -> None:
    """Compare masked, cut and exported networks again, on real inputs. Exit status 1 where they differ."""
    from shrinknet.cli.work.opening import reopen
    from shrinknet.run.checking import check_files

    opened = reopen(run, given)
    checks = {f"cut, in {d.precision}": d for d in opened.verification.differences} | check_files(opened)
    assert opened.folder is not None
    changed = opened.folder.changed() if opened.folder.has(SEAL) else []
    broken = [name for name, difference in checks.items() if not difference.holds or name in changed]
    rows = [
        (name, f"{d.worst:.3e}", f"{d.tolerance:.3e}", d.num_samples, "NO" if name in broken else "yes")
        for name, d in checks.items()
    ]
    holds = opened.verification.holds and not broken
    if json:
        keys = ("what", "worst", "tolerance", "samples", "holds")
        console.print_json({"holds": holds, "checks": [dict(zip(keys, row, strict=True)) for row in rows]})
    else:
        console.table("Against the masked network", ("what", "worst", "tolerance", "samples", "holds"), rows)
    if not opened.verification.holds:
        broken.insert(0, summary.proof_line(opened.verification))
    console.talk.print(f"Verified: {run}." if holds else f"NOT verified: {'; '.join(broken)}.")
    sys.exit(0 if holds else 1)
