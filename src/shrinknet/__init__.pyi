from shrinknet.analysis.agreement import agreement as agreement
from shrinknet.analysis.cancellation import cancellation as cancellation
from shrinknet.analysis.error_surface import Alphas as Alphas
from shrinknet.analysis.error_surface import error_surface as error_surface
from shrinknet.analysis.error_surface import error_surfaces as error_surfaces
from shrinknet.analysis.pruning_limit import neuron_limit as neuron_limit
from shrinknet.analysis.pruning_limit import weight_limit as weight_limit
from shrinknet.analysis.recall_distortion import recall_distortion as recall_distortion
from shrinknet.api import prune as prune
from shrinknet.api import race as race
from shrinknet.api import rank as rank
from shrinknet.core.errors import (
    BadInputError as BadInputError,
)
from shrinknet.core.errors import (
    ExportError as ExportError,
)
from shrinknet.core.errors import (
    FixedWidthError as FixedWidthError,
)
from shrinknet.core.errors import (
    NothingToRemoveError as NothingToRemoveError,
)
from shrinknet.core.errors import (
    RunFolderError as RunFolderError,
)
from shrinknet.core.errors import (
    ShrinknetError as ShrinknetError,
)
from shrinknet.core.errors import (
    UnfollowedOperatorError as UnfollowedOperatorError,
)
from shrinknet.core.errors import (
    VerificationError as VerificationError,
)
from shrinknet.core.errors import (
    WorkerError as WorkerError,
)
from shrinknet.core.records import (
    Costs as Costs,
)
from shrinknet.core.records import (
    Frozen as Frozen,
)
from shrinknet.core.records import (
    Group as Group,
)
from shrinknet.core.records import (
    Manifest as Manifest,
)
from shrinknet.core.records import (
    Measures as Measures,
)
from shrinknet.core.records import (
    Neuron as Neuron,
)
from shrinknet.core.records import (
    Plan as Plan,
)
from shrinknet.core.records import (
    RaceResult as RaceResult,
)
from shrinknet.core.records import (
    Slice as Slice,
)
from shrinknet.core.records import (
    Step as Step,
)
from shrinknet.core.records import (
    Verification as Verification,
)
from shrinknet.core.scores import Scores as Scores
from shrinknet.core.version import __version__ as __version__
from shrinknet.criteria import Criterion as Criterion
from shrinknet.criteria import criterion_names as criterion_names
from shrinknet.export.base import Built as Built
from shrinknet.export.base import Exporter as Exporter
from shrinknet.export.inference import InferenceGraph as InferenceGraph
from shrinknet.export.inference import by_tensors as by_tensors
from shrinknet.graph.trace import Trace as Trace
from shrinknet.graph.trace import trace as trace
from shrinknet.run.opening import load as load
from shrinknet.run.run import Run as Run
from shrinknet.search.goals import (
    FlashBytes as FlashBytes,
)
from shrinknet.search.goals import (
    Goal as Goal,
)
from shrinknet.search.goals import (
    Macs as Macs,
)
from shrinknet.search.goals import (
    NumParameters as NumParameters,
)
from shrinknet.search.goals import (
    PeakRamBytes as PeakRamBytes,
)
from shrinknet.search.goals import (
    RemovedFraction as RemovedFraction,
)
from shrinknet.search.goals import (
    RemovedNeurons as RemovedNeurons,
)
from shrinknet.search.guards import AccuracyDrop as AccuracyDrop
from shrinknet.search.guards import ClassRecall as ClassRecall
from shrinknet.search.guards import Guard as Guard
from shrinknet.search.guards import LossRise as LossRise
from shrinknet.search.guards import MetricDrop as MetricDrop
from shrinknet.search.guards import MetricRise as MetricRise
from shrinknet.search.guards import WorstClassRecall as WorstClassRecall
from shrinknet.sparsify.api import Sparsified as Sparsified
from shrinknet.sparsify.api import remove as remove
from shrinknet.sparsify.api import sparsify as sparsify
from shrinknet.sparsify.base import Sparsifier as Sparsifier
from shrinknet.sparsify.base import find_sparsifier as find_sparsifier
from shrinknet.sparsify.base import sparsifier_names as sparsifier_names
from shrinknet.sparsify.to_plan import to_plan as to_plan
from shrinknet.surgery.apply_plan import apply_plan as apply_plan
from shrinknet.task.metrics import Metric as Metric
from shrinknet.task.scoring import Scoring as Scoring
from shrinknet.task.task import Task as Task
