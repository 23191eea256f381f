"""`shrinknet report`: the page again, or one page about several runs."""

from pathlib import Path
from typing import Annotated

import typer

from shrinknet.cli import console
from shrinknet.core.folder import RunFolder
from shrinknet.core.units import counted


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One or more run folders.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write it (default: RUN/report/index.html).")
    ] = None,
) -> None:
    """Write the web page from run folders alone; several runs share the trade-off curves."""
    folders = [RunFolder.open(run) for run in runs]
    if folders[0].config.get("verb") == "sparsify":
        from shrinknet.report.training import write_training_page  # draws with matplotlib

        for folder in folders:
            console.out.print(str(write_training_page(folder)))
        console.talk.print("A page for each training; open it in a browser.")
        return
    from shrinknet.report.page import write_page

    target = out or folders[0].path / "report" / "index.html"
    page = write_page(folders, target if target.suffix == ".html" else target / "index.html")
    console.out.print(str(page))
    console.talk.print(f"One page about {counted(len(folders), 'run')}; open it in a browser.")
