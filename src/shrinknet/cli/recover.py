"""`shrinknet recover`: the network of a run, trained on with labels."""

from dataclasses import dataclass

from shrinknet.cli import console
from shrinknet.cli.flags import spread
from shrinknet.cli.options import Json, Out, RunFlags, RunPath
from shrinknet.core.config import RecoveryOptions
from shrinknet.core.options import Options, option


@dataclass(frozen=True, kw_only=True)
class TrainingFlags(Options):
    """What is trained on, and how the run is opened."""

    data: str | None = option(
        None, "Training rows with labels: an .npz file (those of split 0; all of another file without a split), or "
        "package.module:factory; the run's calibration rows where left out."
    )  # fmt: skip
    run_data: str | None = option(None, "The run's own data, named again where its folder names code, or others.")
    loss: str | None = option(None, "The run's own loss, as package.module:function.")
    trust: bool = option(False, "Import the data and the loss that the run folder names.")


@spread
def command(run: RunPath, out: Out, given: TrainingFlags, options: RecoveryOptions, json: Json = False) -> None:
    """Train all weights of a run's network on with labels; the whole network's answers help. A new run, proven."""
    from shrinknet.cli.prune import hash_of, source_of
    from shrinknet.cli.work.finishing import finish
    from shrinknet.cli.work.opening import reopen
    from shrinknet.loading.data import load_training

    opened = reopen(run, RunFlags(data=given.run_data, loss=given.loss, trust=given.trust))
    config = {"from": str(run.resolve()), "data": source_of(given.data), "data_sha256": hash_of(given.data)}
    is_its_own = given.data is not None and config["data_sha256"] == opened.config.content.get("data_sha256", "")
    rows = None if given.data is None or is_its_own else load_training(given.data)
    with console.resumable(out), console.Bar("recovering") as bar:
        recovered = opened.recover(**vars(options), data=rows, out=out, config=config, tell=bar.tell)
    finish(recovered, out, json)
