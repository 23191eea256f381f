"""Open a run folder again, with the data it was made with or other data."""

from dataclasses import dataclass
from pathlib import Path

from shrinknet.core.options import Options, option
from shrinknet.run.opening import load
from shrinknet.run.run import Run


@dataclass(frozen=True, kw_only=True)
class RunFlags(Options):
    """How a run is opened again: nothing that its folder names is imported, unless it is named here or trusted."""

    data: str | None = option(
        None, "Other data than the run's own, or the run's factory named again; a model has none."
    )
    loss: str | None = option(None, "The run's own loss, as package.module:function; of a model, any loss.")
    trust: bool = option(False, "Import the data and the loss that the run folder names.")


def reopen(path: Path, given: RunFlags) -> Run:
    """Return the run in a folder, on its own data unless other data are given.

    Raises:
        BadInputError: the data are not there, or are code that has to be named again.
        RunFolderError: there is no finished run.
    """
    return load(path, data=given.data, loss=given.loss, trust=given.trust)
