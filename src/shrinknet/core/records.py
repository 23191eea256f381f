"""Frozen facts about a run. No torch here: the report reads them on a machine that has none."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from operator import add, sub

from shrinknet.core.errors import VerificationError
from shrinknet.core.units import counted


@dataclass(frozen=True, slots=True, order=True)
class Neuron:
    """The removable unit: the `index`-th neuron of a group, counted in the original network."""

    group: str
    index: int

    def __str__(self) -> str:
        return f"{self.group}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Slice:
    """One parameter axis that shrinks with a group.

    `owners[j]` is the index of the neuron that owns element j of the axis, or -1 where the element stays.
    `role` is "writes" when the axis produces the neuron, "reads" when a later operator consumes it there.
    """

    parameter: str
    axis: int
    role: str
    owners: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Contender:
    """A neuron in a race: its score so far lies within `half_width` of the one that all samples would give."""

    neuron: Neuron
    score: float
    half_width: float
    num_samples: int


@dataclass(frozen=True, slots=True)
class RaceResult:
    """Who won a race: all contenders, the `num_wanted` winners first, each part in the order of its scores.

    Where a cheap estimate kept `num_screened_out` neurons out of the race, `agreement` is its rank correlation with
    the scores of those that took part: what is known of the risk that a winner was kept out.
    """

    contenders: tuple[Contender, ...]
    num_wanted: int
    num_samples: int
    num_screened_out: int = 0
    agreement: float | None = None

    @property
    def share_of_work(self) -> float:
        """Which part was looked at of what an exact ranking looks at: every neuron on every sample."""
        all_of_it = (len(self.contenders) + self.num_screened_out) * self.num_samples
        return sum(c.num_samples for c in self.contenders) / all_of_it


@dataclass(frozen=True, slots=True)
class Group:
    """Neurons of one width, with every parameter slice that shrinks with them."""

    name: str
    width: int
    slices: tuple[Slice, ...]

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        """The group's neurons in the order of their index."""
        return tuple(Neuron(self.name, index) for index in range(self.width))


@dataclass(frozen=True, slots=True)
class Tie:
    """Groups of which the same share stays, since a class says their widths but once: they shrink together.

    `by` names what ties them: "'lstm' (nn.LSTM)". Where `is_fixed`, they lie beside what never goes, and stay whole.
    """

    groups: tuple[str, ...]
    by: tuple[str, ...]
    is_fixed: bool = False


@dataclass(frozen=True, slots=True)
class Frozen:
    """A parameter axis (or part of one) that is never cut, and why."""

    parameter: str
    axis: int
    num_elements: int
    reason: str


@dataclass(frozen=True, slots=True)
class Costs:
    """What a network costs, from its shapes alone. RAM is the peak of live activations at batch 1."""

    num_neurons: int
    num_parameters: int
    flash_bytes: int
    peak_ram_bytes: int
    macs: int

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: "Costs") -> "Costs":
        return Costs(*map(sub, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class OperatorCosts:
    """What one operator of the graph costs for one sample. `module` is the user's module that it stands in."""

    name: str
    operator: str
    module: str
    num_parameters: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True, slots=True)
class Reach:
    """The share of a network's parameters and MACs that removing neurons can take away at all, from 0 to 1."""

    num_parameters: float
    macs: float


@dataclass(frozen=True, slots=True)
class Measures:
    """One network's losses (means over samples) and costs; on validation data its metrics and each class's recall.

    None: not measured; of a metric: it was no number.
    """

    calibration_loss: float
    validation_loss: float | None
    costs: Costs
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    validation_recalls: tuple[float, ...] | None = None

    @property
    def worst_class_recall(self) -> float | None:
        """The lowest recall over the classes that occur in the validation data."""
        present = [recall for recall in self.validation_recalls or () if recall == recall]
        return min(present) if present else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a network answers to one validation row, and the class that the row is of."""

    row: int
    target: int
    answer: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run: the neurons it removed, their scores, and the network as it is after the step.

    Step 0 removes nothing: it is the untouched network. `race` says how the neurons were found, where it was by a race.
    `bare` measures the same removals without compensation, where there is one. `answers` are those of the validation
    rows whose answer is another one than before the step (all of them for step 0); None where targets are no classes.
    `restored` are neurons that came back, in exchange for those that were removed.
    """

    number: int
    removed: tuple[Neuron, ...]
    scores: tuple[float, ...]
    measures: Measures
    seconds: float
    race: RaceResult | None = None
    bare: Measures | None = None
    answers: tuple[Answer, ...] | None = field(default=None, repr=False)
    restored: tuple[Neuron, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which neurons go, in which order; and in which order the others would follow (by the last ranking)."""

    removed: tuple[Neuron, ...]
    remaining: tuple[Neuron, ...] = ()

    def __repr__(self) -> str:
        return f"<Plan: {counted(len(self.removed), 'neuron')} go, {len(self.remaining):,} would follow>"

    def first(self, num_neurons: int) -> "Plan":
        """Return the plan that removes only the first `num_neurons` of the order; plans of one order are nested."""
        order = self.removed + self.remaining
        return Plan(order[:num_neurons], order[num_neurons:])


@dataclass(frozen=True, slots=True)
class Difference:
    """The worst absolute difference between two outputs, in one precision, beside its tolerance."""

    precision: str
    worst: float
    tolerance: float
    num_samples: int
    output: str = "output"

    @property
    def holds(self) -> bool:
        """Whether the difference lies within its tolerance (NaN does not)."""
        return self.worst <= self.tolerance


@dataclass(frozen=True, slots=True)
class Verification:
    """The proof that the cut network computes what the masked network computed, on real inputs."""

    differences: tuple[Difference, ...]
    shapes_checked: int
    broke_at: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether every difference lies within its tolerance and nothing broke on the way."""
        return self.broke_at is None and all(difference.holds for difference in self.differences)

    def raise_if_broken(self) -> None:
        """Raise VerificationError, which says where it broke, unless the proof holds."""
        if not self.holds:
            raise VerificationError(f"NOT proven: masked and cut networks differ at {self.broke_at or 'the outputs'}.")


@dataclass(frozen=True, slots=True)
class TestResult:
    """The last number of a report: loss and metrics on data that nothing else has seen, before and after."""

    __test__ = False  # not a test case, whatever pytest thinks of its name

    loss_before: float
    loss_after: float
    metrics_before: Mapping[str, float | None]
    metrics_after: Mapping[str, float | None]
    num_samples: int


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What goes in or out of an artefact."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one sample took on one machine: the median of `rounds`, and the middle half of them."""

    median_ms: float
    quarter_ms: float
    three_quarters_ms: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of an artefact: written beside it, and everything in it measured on it but the forecasts.

    `difference` is its worst difference from `compared_with` on real inputs; loss and metrics are its own, on as many
    samples. `arena_bytes` is what the runtime's planner asks for (None: it plans none). `float_operators` are those of
    an int8 file that compute in float all the same.
    """

    kind: str
    quantize: str
    file: str
    num_bytes: int
    sha256: str
    arena_bytes: int | None
    forecast_bytes: int
    forecast_arena_bytes: int | None
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    difference: Difference
    compared_with: str
    loss: float
    metrics: Mapping[str, float | None]
    num_samples: int
    ran_by_its_runtime: bool
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    latency: Latency | None = None
    float_operators: tuple[str, ...] = ()

    def measured(self, forecast: Costs) -> Costs:
        """Return what the network costs, by its file where that says it."""
        ram = forecast.peak_ram_bytes if self.arena_bytes is None else self.arena_bytes
        return replace(forecast, flash_bytes=self.num_bytes, peak_ram_bytes=ram)


@dataclass(frozen=True, slots=True)
class Corner:
    """One of four files: full or pruned, float32 or int8."""

    name: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: what `summary.json` says."""

    before: Measures
    after: Measures
    test: TestResult | None
    reason: str
    is_met: bool
    num_removed: int


def removed_by(steps: Iterable[Step]) -> tuple[Neuron, ...]:
    """Return the neurons that are gone after the steps, in the order in which they went.

    >>> one = Measures(0.1, None, Costs(4, 0, 0, 0, 0))
    >>> a, b, c = (Neuron("0", index) for index in range(3))
    >>> first = Step(1, (a, b), (0.0, 0.0), one, 0.0)
    >>> exchange = Step(2, (c,), (0.0,), one, 0.0, restored=(a,))
    >>> [str(neuron) for neuron in removed_by([first, exchange])]
    ['0[1]', '0[2]']
    """
    gone: dict[Neuron, None] = {}
    for step in steps:
        for neuron in step.restored:
            gone.pop(neuron, None)
        gone.update(dict.fromkeys(step.removed))
    return tuple(gone)
