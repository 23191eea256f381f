"""`shrinknet reproduce`: a published result beside ours."""

import json
from pathlib import Path
from typing import Annotated

import typer

from shrinknet.cli import console
from shrinknet.core.units import counted


def command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A recipe, such as isnn-mnist-1x100 (an unknown name lists them).")
    ],
    data: Annotated[
        Path | None, typer.Option(help="A folder with mnist/, cifar10/, text/, tabular/ (else SHRINKNET_DATA).")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data that is not there.")] = False,
    seed: Annotated[int, typer.Option(help="Of the data drawn, the first weights and the training order.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write (default: reproductions/NAME).")] = None,
) -> None:
    """Train a paper's network, repeat its experiment, and write results, figures and a page beside its numbers."""
    from shrinknet.recipes.catalogue import find_recipe
    from shrinknet.recipes.files import Files

    recipe = find_recipe(name)
    folder = out or Path("reproductions") / name
    with console.Bar(name) as bar:
        results = recipe.run(Files(data, download), seed, bar.tell)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for file, (_, draw) in recipe.pictures.items():
        (folder / file).write_bytes(draw(results))
    (folder / "index.html").write_text(recipe.page(results), encoding="utf-8")
    verdicts = recipe.verdicts(results)
    rows = [("yes" if holds else "NO", what, seen) for what, holds, seen in verdicts]
    console.table("", ("seen", "what must be seen", "figures"), rows)
    held = sum(holds for _, holds, _ in verdicts)
    console.talk.print(
        f"{held} of {counted(len(verdicts), 'point')} seen, in {results['seconds']} s; page: {folder / 'index.html'}"
    )
