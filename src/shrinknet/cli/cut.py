"""`shrinknet cut`: another budget from the same history."""

from shrinknet.cli import console
from shrinknet.cli.asked import GoalFlags
from shrinknet.cli.flags import spread
from shrinknet.cli.options import Json, Out, RunFlags, RunPath
from shrinknet.core.errors import BadInputError


@spread
def command(run: RunPath, given: RunFlags, out: Out, asked: GoalFlags, json: Json = False) -> None:
    """Cut the network of another budget out of a finished run. Nothing is scored again."""
    from shrinknet.cli.work.finishing import finish
    from shrinknet.cli.work.opening import reopen

    goals = list(asked.made())
    if not goals:
        allowed = "given a budget: --flash, --ram, --parameters, --macs, --remove"
        raise BadInputError("cut", allowed, "none", "Name one or more.")
    opened = reopen(run, given)
    assert opened.folder is not None
    with console.Bar("cutting") as bar:
        smaller = opened.at(*goals, tell=bar.tell)
    smaller.verification.raise_if_broken()
    smaller.save(out, goals=list(map(str, goals)), guards=[], cut_from=str(run.resolve()))
    if opened.config.guards:
        console.talk.print(f"Not looked at: the run's guards ({'; '.join(opened.config.guards)}).")
    finish(smaller, out, json)
