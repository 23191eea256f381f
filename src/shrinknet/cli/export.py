"""`shrinknet export`: the network of a run as another program's file, with its manifest."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from shrinknet.cli import console
from shrinknet.cli.flags import spread
from shrinknet.cli.options import AllowFloat, Json, Quantize, RunFlags, RunPath
from shrinknet.report import summary


@spread
def command(
    run: RunPath,
    given: RunFlags,
    to: Annotated[str, typer.Option("--to", help="executorch, onnx, pt2, cortex-m, or package.module:Class.")],
    quantize: Quantize = "none",
    allow_float: AllowFloat = False,
    out: Annotated[Path | None, typer.Option("--out", help="The file; in the run's folder where left out.")] = None,
    json: Json = False,
) -> None:
    """Write the smaller network as a file that another program runs; run it there and compare it with torch."""
    from shrinknet.cli.work.opening import reopen

    opened = reopen(run, given)
    assert opened.folder is not None
    manifest = opened.export(to, out, quantize, allow_float=allow_float)
    where = out or opened.folder.path / "artefacts" / manifest.file
    if json:
        console.print_json(asdict(manifest))
    else:
        console.out.print(summary.shipped_line(manifest))
    console.talk.print(f"Exported: {where} ({manifest.num_bytes:,} bytes; manifest: {where}.json).")
