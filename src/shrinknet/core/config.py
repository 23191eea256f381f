"""What a run was asked for, as `config.json` says it."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from shrinknet.core.named import import_path
from shrinknet.core.options import Options, option, read
from shrinknet.core.quantities import ACCURACY, Quality
from shrinknet.core.reading import all_restored
from shrinknet.core.records import Tie
from shrinknet.core.units import globs, parse_effort, parse_milliseconds

Method = Literal["reranking", "single-ranking"]
Clip = Literal["none", "mean", "median"]
Quantize = Literal["none", "int8"]
Price = Literal["auto", "neuron", "parameters", "flash", "ram", "macs", "budget"]
Compensate = Literal["auto", "none", "mean", "constant", "scale", "least-squares", "newton", "joint"]
TieBy = Literal["class", "config", "none"]

WEIGHTS = "weights"
"""What ships where nothing else is named: the `.safetensors` file."""

DEFAULT_BATCH_SIZE = 1024

DEFAULT_EFFORT = "10min"
"""What a search may cost where nobody says how to search."""

MOST_PAIRS = 20_000
"""In a group with more pairs `cancellation` looks at only so many."""


def _ways(argument: str, given: object) -> tuple[object, ...]:
    """Names with commas between them, functions, or both."""
    several = given if isinstance(given, list | tuple) else (given,)
    return tuple(one for each in several for one in (each.split(",") if isinstance(each, str) else (each,)))


def _way_text(way: object) -> str:
    return way if isinstance(way, str) else import_path(way) or str(getattr(way, "__qualname__", way))


def _globs(argument: str, given: str | Sequence[str]) -> list[str]:
    return globs(given)


@dataclass(frozen=True, kw_only=True)
class Scope(Options):
    """Which groups are looked at."""

    keep: Sequence[str] = option((), "A glob of groups to leave whole (may be repeated).", parse=_globs)
    only: Sequence[str] = option((), "A glob of the only groups to touch (may be repeated).", parse=_globs)


@dataclass(frozen=True)
class RankOptions(Scope):
    """How neurons are scored."""

    criterion: object = option("ablation", "The rule that scores: a name, or package.module:Class.", is_recorded=False)
    _: KW_ONLY
    clip: Clip = option("none", "Set scores of larger size to their mean or median: for steep second-order estimates.")
    seed: int = option(0, "Seed of the split, and of the criterion random.", least=0, do="Leave it out for 0.")


@dataclass(frozen=True)
class SearchOptions(RankOptions):
    """How neurons are chosen, what every group keeps, and what ships in the end."""

    criterion: object | None = option(
        None,
        "The rule that scores: a name, or package.module:Class; what the effort allows, where left out.",
        is_recorded=False,
    )
    method: Method = option("reranking", "Score again after each step, or score once.", is_recorded=False)
    _: KW_ONLY
    effort: float | str | None = option(
        None,
        f"What the search may cost: a time ({DEFAULT_EFFORT} where nothing here says how to search), a number of "
        "forward passes over the calibration data, or exact: every removal by the true rise of the loss.",
        parse=parse_effort,
        is_recorded=False,
    )
    step: int | None = option(
        None, "Neurons removed for each ranking: one where left out, more of more than a thousand.", least=1,
        do="Leave it out to remove one at a time.",
    )  # fmt: skip
    multiple_of: int = option(
        1, "Keep widths at multiples of this, such as 8 (SIMD).", least=1, do="Leave it out for 1."
    )
    min_neurons: int = option(1, "Keep at least so many neurons of each group.", least=1, do="Leave it out for 1.")
    tie: TieBy = option(
        "class",
        "Widths that a class (or a Hugging Face config, too) says once shrink together, so that it comes back.",
        is_later=True,
    )
    whole_curve: bool = option(False, "Go on to the end for the whole trade-off curve.")
    artefact: object | None = option(
        None, "What ships: weights, executorch, onnx, pt2, cortex-m, or package.module:Class.", flag="to"
    )
    quantize: Quantize = option("none", "Quantize what ships, after pruning.")
    allow_float: bool = option(
        False, "An int8 file may hold operators that compute in float; it says which.", is_later=True
    )
    price: Price = option(
        "auto",
        "What a removal frees: what is asked for, where left out (of several costs the shares of what is still "
        "missing, which is budget; neuron where no cost is asked for).",
    )
    compensate: Compensate = option(
        "auto",
        "How readers make up for what is gone, without retraining: least-squares where left out if a cost is "
        "asked for and a refit is cheap, else none.",
    )
    augment: Sequence[object] = option(
        (), "What joint may make of calibration inputs: flip, shift (images), or package.module:function.",
        parse=_ways, written=lambda ways: list(map(_way_text, ways)), is_later=True,
    )  # fmt: skip
    polish: bool = option(
        False,
        "Once the goals are reached, let neurons that are gone come back in exchange for others, within the effort.",
        is_later=True,
    )
    resume: bool = option(False, "Go on with the run that the folder holds.", is_recorded=False)
    max_latency: float | None = option(
        None, "At most that long a sample on this machine, such as 5ms.", parse=parse_milliseconds
    )

    @property
    def says_how(self) -> str:
        """What says how to search, so that no effort has to: the first option that does, in words; else nothing."""
        said = {"criterion": self.criterion, "step": self.step, "clip": self.clip, "method": self.method}
        defaults = {"clip": "none", "method": "reranking"}
        return next((f"{name}={value!r}" for name, value in said.items() if value != defaults.get(name)), "")

    @property
    def kind(self) -> object:
        """What ships: an exporter, its class or its name."""
        return self.artefact or WEIGHTS

    @property
    def refits(self) -> bool:
        """Whether readers make up for what is gone."""
        return self.compensate not in ("auto", "none")

    @property
    def ends_jointly(self) -> bool:
        """Whether all weights of the network that is handed back are refit together at the end."""
        return self.compensate == "joint"


@dataclass(frozen=True, kw_only=True)
class RecoveryOptions(Options):
    """How the smaller network of a run is trained on with labels."""

    passes: int = option(10, "How often the training rows are gone through.", least=1, do="Leave it out for 10.")
    labels_alone: bool = option(
        False, "Minimise the loss alone, without the distance from the whole network's answers."
    )
    augment: Sequence[object] = option(
        (), "What may be made of training inputs: flip, shift (images), or package.module:function.",
        parse=_ways, written=lambda ways: list(map(_way_text, ways)),
    )  # fmt: skip
    seed: int = option(0, "Seed of what is held out, of the order of the rows, and of augmentations.", least=0,
        do="Leave it out for 0.")  # fmt: skip
    resume: bool = option(False, "Go on with the recovery that the folder holds.", is_recorded=False)


BY_NEURON = {"price": "neuron", "compensate": "none"}
"""How a run was made whose config does not say: by an older version, or not by a search."""


@dataclass(frozen=True)
class RunConfig:
    """All that `config.json` says of a run.

    Attributes:
        search: how neurons were chosen.
        goals, guards: in words.
        criterion, method: by their names; what zeros allow has ways of its own, which `search` does not know.
        ties: the groups that shrink together.
        loss, accuracy, metrics, couples_samples, batch_size: what the task was.
        recovered: how all weights were trained on with labels; nothing where they were not.
        content: the whole of it, as it is written: what the user added, too.
    """

    search: SearchOptions = field(default_factory=SearchOptions)
    goals: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    ties: tuple[Tie, ...] = ()
    criterion: str = "ablation"
    method: str = "reranking"
    loss: str = ""
    accuracy: str | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    couples_samples: bool = False
    batch_size: int = DEFAULT_BATCH_SIZE
    recovered: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "RunConfig":
        """Read it back; what an older version did not know has its default.

        Raises:
            BadInputError: a value cannot be used.

        >>> config = RunConfig.of({"schema": 1, "goals": ["40 neurons removed"], "keep": ["fc1"]})
        >>> config.goals, config.search.keep, config.search.compensate
        (('40 neurons removed',), ['fc1'], 'none')
        >>> RunConfig.of({"criterion": "zeros", "method": "to-plan"}).method
        'to-plan'
        """
        said = {key: value for key, value in content.items() if key != "schema"}
        names = ("criterion", "method", "loss", "accuracy", "metrics", "couples_samples", "batch_size", "recovered")
        facts: dict[str, Any] = {name: said[name] for name in names if name in said}
        goals, guards = (tuple(map(str, said.get(name, ()))) for name in ("goals", "guards"))
        ties = all_restored(Tie, said.get("ties", []))
        search = read(SearchOptions, BY_NEURON | said)
        return cls(search=search, goals=goals, guards=guards, ties=ties, content=said, **facts)

    @property
    def moves_all_weights(self) -> bool:
        """Whether the network that is handed back has other weights than any step of the search."""
        return self.search.ends_jointly or bool(self.recovered)

    @property
    def qualities(self) -> Mapping[str, Quality]:
        """What is known of each metric, by its name."""
        known = (Quality(str(one["name"]), bool(one["is_share"]), one["higher_is_better"]) for one in self.metrics)
        return {ACCURACY.name: ACCURACY, **{one.name: one for one in known}}
