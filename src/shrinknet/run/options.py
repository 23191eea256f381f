"""All that `rank` and `prune` take beside the task."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from shrinknet.core.config import RankOptions, RunConfig, SearchOptions
from shrinknet.core.errors import BadInputError
from shrinknet.core.options import recorded
from shrinknet.core.progress import Progress, Silence
from shrinknet.core.reading import as_json
from shrinknet.core.records import Tie
from shrinknet.core.units import bytes_text
from shrinknet.criteria import Criterion, find_criterion
from shrinknet.criteria.base import BY_NAME as CRITERIA
from shrinknet.engine.gates import GatedNetwork
from shrinknet.execution.cost_model import NOMINAL, first_refit, forward_work
from shrinknet.export.base import BY_NAME as EXPORTERS
from shrinknet.export.base import find_exporter
from shrinknet.recovery.augment import BY_NAME as AUGMENTATIONS
from shrinknet.recovery.augment import Augmentation
from shrinknet.search.goals import Budget, Goal
from shrinknet.search.guards import Guard
from shrinknet.search.price import price_for
from shrinknet.search.rank import Limits
from shrinknet.search.typed import all_of
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task

log = logging.getLogger(__name__)

DEFAULT_CRITERION = "ablation"
"""What scores where nobody names a rule."""

MOST_PASSES, SHORT = 40, 1.0
"""Where nobody says, readers are refit if a first refit takes no more forward passes, or seconds, than these."""

HOW_JOINTLY = "Say `compensate='joint'`."


@dataclass(frozen=True)
class Scored(RankOptions):
    """By which rule neurons are scored, how that is done, and who is told how far it is."""

    _: KW_ONLY
    scoring: Scoring | None = None
    progress: Progress | None = None

    @cached_property
    def rule(self) -> Criterion:
        """The criterion itself."""
        return find_criterion(DEFAULT_CRITERION if self.criterion is None else self.criterion, self.seed)

    @property
    def how(self) -> Scoring:
        """How scoring is done."""
        return self.scoring or Scoring()

    @property
    def told(self) -> Progress:
        """Who is told."""
        return self.progress or Silence()


@dataclass(frozen=True)
class Ranking(Scored):
    """What `rank` takes."""

    _: KW_ONLY
    shards: str | Path | None = None


@dataclass(frozen=True)
class Pruning(SearchOptions, Scored):
    """What `prune` takes: what is wanted, what must not break, how it is searched, and where it is written."""

    goals: Sequence[Goal] = ()
    guards: Sequence[Guard] = ()
    _: KW_ONLY
    out: str | Path | None = None
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "goals", all_of("goals", self.goals, Goal))
        object.__setattr__(self, "guards", all_of("guards", self.guards, Guard))
        if self.price == "auto":
            object.__setattr__(self, "price", price_for(self.goals))
        if self.compensate == "auto" and not any(isinstance(goal, Budget) for goal in self.goals):
            object.__setattr__(self, "compensate", "none")  # who counts neurons wants to see what each of them does
        find_exporter(self.kind, self.quantize)
        if self.augmentations and not self.ends_jointly:
            given = f"{', '.join(one.name for one in self.augmentations)} beside compensate={self.compensate!r}"
            raise BadInputError("augment", "left out unless all weights are refit together", given, HOW_JOINTLY)
        if self.polish and (self.whole_curve or not self.goals):
            given = "`whole_curve=True`" if self.whole_curve else "no goal"
            raise BadInputError(
                "polish", "left out unless goals end the search", given, "Give a goal, or leave it out."
            )
        if self.refits and self.how.executor != "serial":
            given = repr(self.compensate)
            raise BadInputError("compensate", "none where workers score", given, "Use `executor='serial'`.")

    @property
    def how(self) -> Scoring:
        """How scoring is done: forward passes are kept from one ranking to the next."""
        return replace(self.scoring or Scoring(), keeps_passes=True)

    @cached_property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """What the joint refit makes of calibration inputs."""
        return tuple(map(AUGMENTATIONS.find, self.augment))

    def with_compensation(self, network: GatedNetwork, num_samples: int) -> "Pruning":
        """Return the options with what makes up for what is gone: least squares, where nobody says and it is cheap."""
        if self.compensate != "auto":
            return self
        if self.how.executor != "serial":
            return self.without_compensation("workers refit nothing")
        work, num_bytes = first_refit(network, num_samples)
        one_pass = NOMINAL.seconds(forward_work(network).times(num_samples))
        if NOMINAL.seconds(work) <= max(SHORT, MOST_PASSES * one_pass) and num_bytes <= int(self.how.memory):
            return replace(self, compensate="least-squares")
        took = f"{NOMINAL.seconds(work) / one_pass:,.0f} forward passes and {bytes_text(num_bytes)}"
        return self.without_compensation(f"a refit would take {took}; `compensate='least-squares'` does it anyway")

    def without_compensation(self, why: str) -> "Pruning":
        """Return the same options where nothing is made up for, and say why."""
        log.info("Nothing is made up for: %s.", why)
        return replace(self, compensate="none")

    @property
    def limits(self) -> Limits:
        """What every group keeps."""
        return Limits(self.multiple_of, self.min_neurons)

    def written(self, task: Task, ties: Sequence[Tie], effort: Mapping[str, Any]) -> RunConfig:
        """Return what `config.json` says of the run, with what is said of its effort."""
        sized = task.calibration if task.loss.couples_samples else task  # a loader's batches are part of such a loss
        return RunConfig.of(
            {
                **recorded(self),
                "criterion": CRITERIA.text_of(self.criterion or DEFAULT_CRITERION),
                "method": self.method,
                **effort,
                "goals": list(map(str, self.goals)),
                "guards": list(map(str, self.guards)),
                "artefact": EXPORTERS.text_of(self.kind),
                **task.facts,
                "batch_size": sized.batch_size,
                **({"ties": as_json(ties)} if ties else {}),
                **recorded(self.how),
                **(self.config or {}),
            }
        )
