"""shrinknet removes whole neurons from a trained network, in the order that costs the least, to fit a budget."""

from shrinknet.analysis.agreement import agreement
from shrinknet.analysis.cancellation import cancellation
from shrinknet.analysis.error_surface import Alphas, error_surface, error_surfaces
from shrinknet.analysis.pruning_limit import neuron_limit, weight_limit
from shrinknet.analysis.recall_distortion import recall_distortion
from shrinknet.api import prune, race, rank
from shrinknet.core.errors import (
    BadInputError,
    ExportError,
    FixedWidthError,
    NothingToRemoveError,
    RunFolderError,
    ShrinknetError,
    UnfollowedOperatorError,
    VerificationError,
)
from shrinknet.core.records import (
    Costs,
    Frozen,
    Group,
    Manifest,
    Measures,
    Neuron,
    Plan,
    RaceResult,
    Slice,
    Step,
    Verification,
)
from shrinknet.core.scores import Scores
from shrinknet.criteria import Criterion, criterion_names
from shrinknet.graph.trace import Trace, trace
from shrinknet.run.opening import load
from shrinknet.run.run import Run
from shrinknet.search.goals import (
    FlashBytes,
    Goal,
    Macs,
    NumParameters,
    PeakRamBytes,
    RemovedFraction,
    RemovedNeurons,
)
from shrinknet.search.guards import AccuracyDrop, ClassRecall, Guard, LossRise, WorstClassRecall
from shrinknet.sparsify.api import Sparsified, remove, sparsify
from shrinknet.sparsify.base import Sparsifier, find_sparsifier, sparsifier_names
from shrinknet.sparsify.to_plan import to_plan
from shrinknet.surgery.apply_plan import apply_plan
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task

__all__ = [
    "AccuracyDrop",
    "Alphas",
    "BadInputError",
    "ClassRecall",
    "Costs",
    "Criterion",
    "ExportError",
    "FixedWidthError",
    "FlashBytes",
    "Frozen",
    "Goal",
    "Group",
    "Guard",
    "LossRise",
    "Macs",
    "Manifest",
    "Measures",
    "Neuron",
    "NothingToRemoveError",
    "NumParameters",
    "PeakRamBytes",
    "Plan",
    "RaceResult",
    "RemovedFraction",
    "RemovedNeurons",
    "Run",
    "RunFolderError",
    "Scores",
    "Scoring",
    "ShrinknetError",
    "Slice",
    "Sparsified",
    "Sparsifier",
    "Step",
    "Task",
    "Trace",
    "UnfollowedOperatorError",
    "Verification",
    "VerificationError",
    "WorstClassRecall",
    "agreement",
    "apply_plan",
    "cancellation",
    "criterion_names",
    "error_surface",
    "error_surfaces",
    "find_sparsifier",
    "load",
    "neuron_limit",
    "prune",
    "race",
    "rank",
    "recall_distortion",
    "remove",
    "sparsifier_names",
    "sparsify",
    "to_plan",
    "trace",
    "weight_limit",
]
