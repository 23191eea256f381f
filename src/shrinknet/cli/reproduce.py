"""`shrinknet reproduce`: a published result beside ours."""

import json
from pathlib import Path
from typing import Annotated

import typer

from shrinknet.cli import console
from shrinknet.errors import BadInputError, did_you_mean
from shrinknet.recipes import figures
from shrinknet.recipes.isnn_mnist import RECIPES, reproduce


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of: {', '.join(RECIPES)}.")],
    mnist: Annotated[
        Path | None, typer.Option(help="The folder with MNIST's four files (else SHRINKNET_DATA/mnist).")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch MNIST if it is not there.")] = False,
    seed: Annotated[int, typer.Option(help="Of the images drawn, the first weights and the training order.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write (default: reproductions/NAME).")] = None,
) -> None:
    """Train a paper's network, repeat its experiment, and write results, figures and a page beside its numbers."""
    if name not in RECIPES:
        raise BadInputError("NAME", "the name of a recipe", repr(name), did_you_mean(name, RECIPES))
    folder = out or Path("reproductions") / name
    with console.Bar(name) as bar:
        results = reproduce(RECIPES[name], mnist, seed, bar.tell, download=download)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for method, number in results["figures"].items():
        (folder / f"figure-{number}.png").write_bytes(figures.draw(results, method))
    (folder / "index.html").write_text(figures.page(results), encoding="utf-8")
    verdicts = figures.verdicts(results)
    console.table("", ("seen", "what must be seen", "figures"),
                  [("yes" if holds else "NO", what, seen) for what, holds, seen in verdicts])  # fmt: skip
    console.talk.print(
        f"{sum(holds for _, holds, _ in verdicts)} of {len(verdicts)} points seen, in {results['seconds']} s; "
        f"page: {folder / 'index.html'}"
    )
