"""All that `rank` and `prune` take beside the task."""

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
from shrinknet.criteria import Criterion, find_criterion
from shrinknet.criteria.base import BY_NAME as CRITERIA
from shrinknet.export.base import BY_NAME as EXPORTERS
from shrinknet.export.base import find_exporter
from shrinknet.recovery.augment import BY_NAME as AUGMENTATIONS
from shrinknet.recovery.augment import Augmentation
from shrinknet.search.goals import Goal
from shrinknet.search.guards import Guard
from shrinknet.search.rank import Limits
from shrinknet.search.typed import all_of
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task

DEFAULT_CRITERION = "ablation"
"""What scores where nobody names a rule."""

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
        find_exporter(self.kind, self.quantize)
        if self.augmentations and not self.ends_jointly:
            given = f"{', '.join(one.name for one in self.augmentations)} beside compensate={self.compensate!r}"
            raise BadInputError("augment", "left out unless all weights are refit together", given, HOW_JOINTLY)
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
