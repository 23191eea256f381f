"""Open a run folder again, with the data it was made with or other data."""

from pathlib import Path

from shrinknet.accuracy import ASKED, nobody_says
from shrinknet.cli.options import task_of
from shrinknet.errors import BadInputError
from shrinknet.loading.data import load_data
from shrinknet.loading.models import load_model
from shrinknet.run import Run, reopened
from shrinknet.runs import RunFolder, whole


def reopen(path: Path, data: str | None) -> Run:
    """Return the run in a folder, on its own data unless other data are given.

    Raises:
        BadInputError: the data are not there. RunFolderError: there is no finished run.
    """
    folder = RunFolder.open(path)
    with whole(folder):
        config = folder.config
        if config.get("verb") == "sparsify":
            raise BadInputError("RUN", "a run of 'shrinknet prune'", "one of 'shrinknet sparsify'",
                                "Name RUN/smaller, if whole neurons went.")  # fmt: skip
        accuracy = ASKED.get(config["accuracy"], nobody_says) if "accuracy" in config else None
        spec, seed, loss, batch_size = data or config.get("data"), config["seed"], config["loss"], config["batch_size"]
    if spec is None:
        raise BadInputError("--data", "given for a run that was made in Python", "nothing", "Name the data.")
    loaded = load_model(str(folder.path / "original.pt2"))
    task = task_of(loaded.model, load_data(spec, seed), loss, batch_size, accuracy)
    with whole(folder):
        return reopened(folder, task)
