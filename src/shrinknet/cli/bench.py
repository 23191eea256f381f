"""`shrinknet bench`: how fast neurons are ablated here, and what a ranking or a run would cost."""

from dataclasses import dataclass

from shrinknet.cli.flags import spread
from shrinknet.cli.options import CriterionName, Json, Model, ModelFlags
from shrinknet.core.config import Scope
from shrinknet.core.options import option
from shrinknet.core.units import parse_bytes


@dataclass(frozen=True, kw_only=True)
class BenchFlags(ModelFlags, Scope):
    """What is timed, and of what machine it is spoken."""

    loss: str = option(
        "cross-entropy",
        "cross-entropy, binary-cross-entropy, squared-error, absolute-error, huber, next-token, own-answers ..., or "
        "package.module:function.",
    )
    output: str | None = option(None, "Of several outputs the one that the loss is given: its key, or its number.")
    samples: int = option(256, "How many samples.", least=2)
    plan: bool = option(False, "Say what it would cost, without doing it.")
    workers: int = option(1, "With --plan: shared by so many workers like this machine.", least=1)
    remove: int = option(0, "With --plan: a whole run that removes so many neurons.", least=0)
    memory: int | str = option("2GiB", "What scoring may use beside model and data, such as 2GiB.", parse=parse_bytes)
    compile: bool = option(False, "Compile the last hidden layer's loop: pays after minutes.")
    seed: int = option(0, "Seed of the random samples.", least=0)


@spread
def command(model: Model, given: BenchFlags, criterion: CriterionName = "ablation", json: Json = False) -> None:
    """Time a ranking of every neuron on random samples, beside the plain loop; or only plan one (--plan)."""
    from shrinknet.cli.work.timing import time_or_plan

    time_or_plan(model, given, criterion, as_json=json)
