"""Other packages log, warn and print on import and while they export; our users need none of it."""

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator

from shrinknet.core.turns import alone


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], list[str]]]:
    """Keep what other packages say away for a while: logs, warnings, and what their C++ writes to the terminal.

    One thread at a time: all of these belong to the process.

    Yields a function that returns the lines which that C++ wrote so far.
    """
    with alone():
        before, handlers = logging.root.manager.disable, list(logging.root.handlers)
        logging.disable(logging.WARNING)
        sys.stderr.flush()
        kept = os.dup(2)
        with tempfile.TemporaryFile() as elsewhere:

            def said() -> list[str]:
                elsewhere.seek(0)
                return elsewhere.read().decode(errors="replace").splitlines()

            try:
                os.dup2(elsewhere.fileno(), 2)
                with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                    warnings.simplefilter("ignore")
                    yield said
            finally:
                os.dup2(kept, 2)
                os.close(kept)
                logging.disable(before)
                logging.root.handlers[:] = handlers  # some put one there on import, and every line would come twice
