"""`shrinknet inspect`: what can be removed, what is frozen, and why."""

from typing import Annotated

import typer

from shrinknet.cli import console
from shrinknet.cli.flags import spread
from shrinknet.cli.options import Json, Model, ModelFlags
from shrinknet.core.config import Scope

Operators = Annotated[bool, typer.Option("--operators", help="Show what each operator of the graph costs, too.")]


@spread
def command(model: Model, given: ModelFlags, scope: Scope, operators: Operators = False, json: Json = False) -> None:
    """Show groups of neurons, every parameter and what becomes of it, bytes and MACs; and what is frozen, and why."""
    from shrinknet.cli.work.inspecting import as_json, show
    from shrinknet.cli.work.opening import with_example
    from shrinknet.graph.restrict import restrict
    from shrinknet.graph.trace import trace

    traced = restrict(trace(*with_example(model, given)), scope.keep, scope.only)
    if json:
        console.print_json(as_json(traced))
    else:
        show(traced, operators)
