"""The command `shrinknet`: verbs, and what becomes of errors."""

import logging
import sys
import warnings
from typing import Annotated

import typer

from shrinknet.cli import console
from shrinknet.cli.verbs import Verbs
from shrinknet.cli.words import said
from shrinknet.core.disk import sentence
from shrinknet.core.errors import ShrinknetError, VerificationError

app = typer.Typer(
    cls=Verbs,
    name="shrinknet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(is_wanted: bool) -> bool:
    if is_wanted:
        from shrinknet.core.version import __version__

        print(f"shrinknet {__version__}")
        raise typer.Exit
    return is_wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Remove whole neurons from a trained network, in the order that costs the least, to fit a budget."""


class _InFlags(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return said(super().format(record))


class _Once(logging.Filter):
    """A verb that searches several times says the same but once."""

    def __init__(self) -> None:
        super().__init__()
        self._lines = set[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        line = record.getMessage()
        is_new = line not in self._lines
        self._lines.add(line)
        return is_new


def main() -> None:
    """Run the command line: exit status 0 done, 1 not met or not proven, 2 bad input, 130 interrupted."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_InFlags())
    handler.addFilter(_Once())
    logging.getLogger("shrinknet").handlers = [handler]
    logging.getLogger("shrinknet").setLevel(logging.INFO)
    logging.getLogger("torch").setLevel(logging.CRITICAL)  # torch logs tracebacks of errors that we put in a sentence
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch|copyreg")
    try:
        app()
    except ShrinknetError as error:
        console.talk.print(said(str(error)), style="red")
        for note in getattr(error, "__notes__", ()):
            console.talk.print(note)
        sys.exit(1 if isinstance(error, VerificationError) else 2)
    except OSError as error:
        console.talk.print(sentence(error), style="red")
        sys.exit(2)


if __name__ == "__main__":
    main()
