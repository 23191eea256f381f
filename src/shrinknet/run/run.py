"""What a run gives back: the smaller network, its proof, its history, its files, and its whole family."""

from dataclasses import dataclass
from pathlib import Path

from shrinknet.core.errors import BadInputError
from shrinknet.core.folder import RunFolder
from shrinknet.core.options import taking
from shrinknet.core.progress import Tell, tell_nobody
from shrinknet.core.records import Corner, Manifest
from shrinknet.report import summary
from shrinknet.run import family, written
from shrinknet.run.facts import Facts
from shrinknet.run.recovered import Recovery, recover
from shrinknet.run.together import refit_together
from shrinknet.search.goals import Goal


@dataclass(frozen=True)
class Run(Facts):
    """What `prune` gives back: the smaller network, its proof, its history, and its whole family.

    Attributes:
        history: the steps taken, step 0 being the untouched network.
        plan: which neurons went, in which order, and in which order the others would follow.
        measures: the network as it is now, measured.
        reason: why the run stopped.
        is_met: whether every goal was reached (and no guard stood in the way).
        verification: the proof that the cut network computes what the masked network computed.
        test: loss and metrics on data that nothing else has seen.
        config: what the run was made with, as `config.json` has it.
        folder: where the run is written, if anywhere.
        augmentations: what a joint refit makes of calibration inputs; None where a folder names some of one's own.
        unfit: why the class that the run began with does not bear a cut, where an exported network stands in for it.
    """

    def at(self, *goals: Goal, tell: Tell = tell_nobody) -> "Run":
        """Return another member of the family: the first of the same order that reaches every goal. Nothing is scored.

        Raises:
            BadInputError: the run was recovered, so that its weights belong to this one size.

        Where the history ends before a goal, the order of the last ranking is followed; `is_met` says whether the
        goals can be reached at all. An artefact that misses a budget by measurement is followed by a smaller one.

        `tell` is told how far a joint refit is.

        Cost: no scoring; a few passes over the data to measure and prove the one network; where the run's weights were
        refit together, those of this one are, too.
        """
        if self.config.recovered:
            do = "Cut the run that it was recovered from, and recover what that gives."
            got = "one whose weights were trained on with labels"
            raise BadInputError("run", "one that was not recovered where another budget is wanted", got, do)
        return refit_together(family.at(self, goals), tell)

    @taking(Recovery)
    def recover(self, options: Recovery) -> "Run":
        """Train all weights of the smaller network on with labels, and return it as a run of its own, proven anew.

        What is minimised is the run's loss and, unless `labels_alone`, how far its answers are from the whole
        network's. Batch norms keep their statistics. A fifth of the rows (at most 2,000) is held out and says which
        pass was best, the start's weights included: never worse than the run on these rows.

        Args:
            data: training rows with targets, as a task takes them; the run's calibration rows where left out. Rows of
                the run's validation and test data must not be among them.
            passes, augment, seed: how often they are gone through, and what augmentations ("flip", "shift", a function
                of inputs and a generator) make of them.
            out: a new folder for the recovered run; its state is written after each pass, so that a kill loses one.
            resume: go on with the recovery in that folder; it ends in the same bits as if it had never stopped.
            config: what to write beside the options about where the rows came from.
            tell: told how far it is.

        Raises:
            BadInputError: the loss knows no labels, the rows cannot be used, or the run removed nothing.
            VerificationError: the proof fails. RunFolderError: `out` holds something else.

        Cost: for each pass over the rows a forward pass of the whole network, a forward and a backward pass of the
        smaller one.

        >>> from torch import nn, randn
        >>> from shrinknet.api import prune
        >>> from shrinknet.search.goals import RemovedNeurons
        >>> from shrinknet.task.task import Task
        >>> rows = randn(40, 4)
        >>> task = Task(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "cross-entropy",
        ...             (rows, (rows[:, 0] > 0).long()))
        >>> run = prune(task, "magnitude", goals=[RemovedNeurons(6)])
        >>> run.recover(passes=2).model[0].out_features
        2
        """
        return recover(self, options)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (what, before, after) for every figure that was measured."""
        return summary.rows(self.history[0].measures, self.measures, self.test, self.config.qualities, self.artefact)

    def corners(self) -> list[Corner]:
        """Return the manifests of four files: full and pruned, in float32 and in int8, each run by what runs it.

        Cost: makes two files more, and runs three.
        """
        return written.corners(self)

    def export(
        self, kind: object, out: str | Path | None = None, quantize: str = "none", *, allow_float: bool = False
    ) -> Manifest:
        """Write the smaller network as another program's file, run it there, and write its manifest beside it.

        Args:
            kind: "executorch", "onnx", "pt2", "cortex-m", `package.module:Class`, or an exporter of your own.
            out: the file; where left out, in the run's own folder.
            quantize: "none" or "int8".
            allow_float: whether an int8 file may hold operators that compute in float; the manifest names them.

        Raises:
            BadInputError: no such exporter, its extra is missing, or there is no folder to write to.
            ExportError: an operator is not known there or would stay in float, or the file does not compute what
                torch computes.
        """
        return written.export(self, kind, out, quantize, allow_float=allow_float)

    def __repr__(self) -> str:
        return f"<Run: {self.last_line()}>"

    def summary(self) -> str:
        """Return before and after in a few lines, the proof, and why the run stopped."""
        lines = [f"{what:<30}{before:>14} -> {after:>14}" for what, before, after in self.rows()]
        made = [] if self.artefact is None else [summary.shipped_line(self.artefact, self.config.qualities)]
        said = [*summary.exchanges_line(self.history), *summary.compensation_line(self.config)]
        said += summary.coupled_line(self.config)
        return "\n".join([*lines, *said, summary.proof_line(self.verification), *made, self.last_line()])

    def last_line(self) -> str:
        """Return what the run did, in one line."""
        return summary.last_line(
            self.history[0].measures, self.measures, self.test, self.reason, self.config.qualities, self.artefact
        )

    def report(self, out: str | Path) -> Path:
        """Write the run, if it is not written yet, and its web page; return the page's path.

        Args:
            out: a new folder for the run; where the run has one already, the page's own folder.
        """
        return written.report(self, out)

    def _repr_html_(self) -> str:
        """The run's page in a frame, for a notebook."""
        return written.framed(self)

    def save(self, out: str | Path, *, resume: bool = False, **changed: object) -> RunFolder:
        """Write the run into a new folder and return it; `changed` options are written instead of the run's own.

        With `resume` the folder may hold the same run, broken off.
        """
        return written.save(self, out, resume=resume, **changed)
