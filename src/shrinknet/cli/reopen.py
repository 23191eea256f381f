"""Open a run folder again, with the data it was made with or other data."""

from pathlib import Path
from typing import Annotated

import typer

from shrinknet.run.opening import load
from shrinknet.run.run import Run

OtherData = Annotated[
    str | None, typer.Option("--data", help="Other data than the run's own, or the run's factory named again.")
]
OwnLoss = Annotated[str | None, typer.Option("--loss", help="The run's own loss, as package.module:function.")]
Trust = Annotated[bool, typer.Option("--trust", help="Import the data and the loss that the run folder names.")]


def reopen(path: Path, data: str | None, loss: str | None = None, trust: bool = False) -> Run:
    """Return the run in a folder, on its own data unless other data are given.

    Raises:
        BadInputError: the data are not there, or are code that has to be named again.
        RunFolderError: there is no finished run.
    """
    return load(path, data=data, loss=loss, trust=trust)
