"""What MkDocs runs while it builds the site: formulas become MathML, recipes' results become tables.

No script and no font is asked for from elsewhere: browsers draw MathML themselves. Every figure that is added here is
read from the committed results.
"""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
COMMANDS = "reference/commands.md"
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.M)
TO_RECIPES = re.compile(r"\]\(\.\./((?:\.\./)*recipes/)")
NETWORKS = {"isnn-mnist-1x100": "One hidden layer of 100", "isnn-mnist-2x50": "Two hidden layers of 50"}


class Examples(griffe.Extension):
    """Examples in docstrings are code, where Markdown would see quotations and links in them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the examples of a docstring."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Add what is made of results to a page; follow links to recipes, which lie beside the pages here."""
    made = MADE[page.file.src_uri]() if page.file.src_uri in MADE else ""
    return TO_RECIPES.sub(r"](\1", markdown + made)


def on_page_content(content: str, **_: Any) -> str:
    """Turn the formulas of a page into MathML."""

    def drawn(match: re.Match[str]) -> str:
        formula = html.unescape(match[3]).strip()
        if match[2] == "(":
            return str(convert(formula))
        return f'<div class="formula">{convert(formula, display="block")}</div>'

    return FORMULA.sub(drawn, content)


def on_files(files: Any, config: Any) -> Any:
    """Add the recipes' pages, and the page of the command line."""
    for path in sorted((ROOT / "recipes").rglob("*")):
        if path.suffix in {".html", ".png", ".json"}:
            name = f"recipes/{path.relative_to(ROOT / 'recipes').as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    files.append(File.generated(config, COMMANDS, content=_commands()))
    return files


def _results(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "recipes" / name / "results.json").read_text())


def _gallery() -> str:
    from shrinknet.recipes.catalogue import recipes

    parts = [""]
    for name, recipe in sorted(recipes().items()):
        results = _results(name)
        verdicts = recipe.verdicts(results)
        seen = sum(holds for _, holds, _ in verdicts)
        parts.append(f"## {recipe.title}\n\n{recipe.source}\n")
        for file, (what, _) in list(recipe.pictures.items())[:1]:
            parts.append(f"[![{what}](../recipes/{name}/{file})](../recipes/{name}/index.html)\n")
        words = f"{seen} of {len(verdicts)} points seen; {results['seconds']} s."
        parts.append(f"[`{name}`](../recipes/{name}/index.html): {words}\n")
    return "\n".join(parts)


def _paper() -> str:
    from shrinknet.recipes.catalogue import find_recipe
    from shrinknet.recipes.isnn_figures import published

    lines = [""]
    for name, title in NETWORKS.items():
        lines.append(f"\n## {title}: accuracy with so many of 100 neurons removed\n")
        lines += _accuracies(_results(name)["curves"], published()[name], published()["removed_percent"])
    lines.append("\n## Error surfaces, and neurons that cancel\n")
    for what, holds, seen in find_recipe("error-surfaces").verdicts(_results("error-surfaces")):
        lines.append(f"- {'Seen' if holds else 'NOT seen'}: {what} ({seen}).")
    lines.append(
        "\n![The paper's figure 5, with our network](../recipes/error-surfaces/figure-5.png)\n\n"
        "[All six figures](../recipes/error-surfaces/index.html), [the curves of the first network]"
        "(../recipes/isnn-mnist-1x100/index.html), [of the second](../recipes/isnn-mnist-2x50/index.html).\n"
    )
    return "\n".join(lines)


def _accuracies(ours: Any, theirs: Any, percent: list[int]) -> Iterator[str]:
    """A table: our accuracies above the paper's."""
    yield _row(["", "", *map(str, percent)])
    yield _row(["---"] * (2 + len(percent)))
    for method, words in (("reranking", "re-ranked"), ("single-ranking", "ranked once")):
        for criterion in ("ablation", "taylor-2", "taylor-2-diagonal", "taylor-1"):
            found = ours[f"{method}/{criterion}"]["accuracy"]
            yield _row([f"{criterion}, {words}", "ours", *(f"{found[p]:.3f}" for p in percent if p < len(found))])
            published = theirs[method]["accuracy"].get(criterion)
            if published is not None:
                yield _row(["", "paper", *(f"{value:.3f}" for value in published)])


MADE = {"gallery.md": _gallery, "paper.md": _paper}
"""What is added to a page, which has the words alone where the repository is read."""


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _commands() -> str:
    """The command line's own words."""
    import typer

    from shrinknet.cli.main import app

    parts = [
        "# The command line\n\nResults go to standard output (`--json` for machines), talk to standard error; exit "
        "status 0 done, 1 a budget or guard could not be met or a proof fails, 2 bad input.\n"
    ]

    def told(command: Any, words: str) -> None:
        if hasattr(command, "commands"):
            for name, one in command.commands.items():
                told(one, f"{words} {name}")
            return
        parts.append(f"## `{words}`\n\n{command.help}\n")
        parts.append(_row(["", ""]) + "\n" + _row(["---", "---"]))
        parts.extend(_option(parameter) for parameter in command.params if parameter.name != "help")
        parts.append("")

    told(typer.main.get_command(app), "shrinknet")
    return "\n".join(parts)


def _option(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    name = parameter.opts[0] if is_option else parameter.metavar or parameter.name
    default = parameter.default
    said = f" Default: `{default}`." if default not in (None, (), [], False, "") and not parameter.required else ""
    help_text = (getattr(parameter, "help", "") or "").replace("|", "\\|")
    return _row([f"`{name}`".replace("|", "\\|"), help_text + said])
