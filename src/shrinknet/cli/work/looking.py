"""What `analyse` looks at, and how it shows what it found."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from shrinknet.analysis import files
from shrinknet.analysis.agreement import ORACLE, agreement
from shrinknet.analysis.cancellation import Together, cancellation
from shrinknet.analysis.error_surface import Alphas, error_surfaces
from shrinknet.analysis.pruning_limit import Limit, check_asked, neuron_limit, weight_limit
from shrinknet.analysis.recall_distortion import AtRatio, over_runs, recall_distortion
from shrinknet.cli import console
from shrinknet.cli.analyse import StepFlags, SubjectFlags
from shrinknet.cli.options import RunFlags, TaskFlags
from shrinknet.cli.work.opening import make_task, reopen
from shrinknet.core.config import Scope
from shrinknet.core.disk import writing
from shrinknet.core.errors import BadInputError
from shrinknet.core.folder import RunFolder, whole
from shrinknet.core.records import Neuron, Step, removed_by
from shrinknet.core.units import counted
from shrinknet.report.page import write_page
from shrinknet.report.page_data import with_handed_back
from shrinknet.task.task import Task

Shown = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""The heads of a table, and its rows."""


@dataclass(frozen=True)
class Subject:
    """What is looked at, and where the findings go."""

    task: Task
    gone: tuple[Neuron, ...]
    folder: RunFolder
    history: tuple[Step, ...] = ()


def _subject(source: str, given: SubjectFlags, step: int = 0) -> Subject:
    """A run as it was after some step, or a model with data."""
    if (Path(source) / "config.json").is_file():
        run = reopen(Path(source), given)
        last = run.history[-1].number
        if not 0 <= step <= last:
            raise BadInputError("--step", f"one of the run's steps, 0 to {last}", str(step), "Leave it out for 0.")
        is_bare = not run.config.search.refits
        if step and not is_bare:
            do = "'analyse surface' sees the refit readers."
            raise BadInputError("--step", "0 for a run whose readers were refit", str(step), do)
        gone = removed_by(taken for taken in run.history if taken.number <= step)
        return Subject(run.task, gone, _folder(given.out or Path(source)), run.history if is_bare else ())
    if Path(source).is_dir():
        RunFolder.open(source)  # says what is missing
    if given.data is None:
        raise BadInputError("--data", "given with a model", "nothing", "Name the data, or a run folder.")
    shared = {name: getattr(given, name) for name in ("weights", "example_input", "trust_pickle", "batch_size")}
    flags = TaskFlags(loss=given.loss or "cross-entropy", **shared)
    return Subject(make_task(source, given.data, given.seed, flags), (), _folder(given.out or Path()))


def _folder(path: Path) -> RunFolder:
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


@dataclass(frozen=True)
class Finding:
    """What a verb found, as it is shown: the JSON that was written, or tables and remarks; then a last line."""

    folder: RunFolder
    file: str
    last_line: str
    tables: Sequence[Shown]
    remarks: Sequence[str] = ()

    def show(self, as_json: bool, content: Any = None) -> None:
        """Print it: all that the file holds where no other `content` is given."""
        if as_json:
            console.print_json(self.folder.read_json(f"analysis/{self.file}") if content is None else content)
        else:
            for columns, rows in self.tables:
                console.table("", columns, rows)
            for remark in self.remarks:
                console.talk.print(remark)
        console.talk.print(f"{self.last_line} Written to {self.folder.path / 'analysis'}.")


def surface(run: Path, given: RunFlags, every: int, alphas: str, *, as_json: bool) -> None:
    """Draw the error surface of each N-th neuron of a run."""
    values = Alphas.parsed(alphas)
    opened = reopen(run, given)
    with console.Bar("error surfaces") as bar:
        found = error_surfaces(opened, every=every, alphas=values, tell=bar.tell)
    folder = RunFolder.open(run)
    files.write_surfaces(folder, found)
    write_page([folder], run / "report" / "index.html")
    rows = [(one.step, str(one.neuron), f"{one.rise:.4g}", one.verdict, one.ground) for one in found]
    words = f"{counted(len(found), 'surface')} of {counted(len(values.values), 'value')} each, on the run's page."
    table = ("step", "neuron", "rise", "verdict", "because"), rows
    Finding(folder, "surfaces.json", words, [table]).show(as_json)


def for_pairs(source: str, given: StepFlags, scope: Scope, max_pairs: int, *, as_json: bool) -> None:
    """Look for neurons that cancel each other."""
    subject = _subject(source, given, given.step)
    with console.Bar("cancellation") as bar:
        wanted = {**vars(scope), "max_pairs": max_pairs, "seed": given.seed}
        found = cancellation(subject.task, gone=subject.gone, tell=bar.tell, **wanted)
    files.write_cancellation(subject.folder, found)
    pairs = [
        (one.group, f"{one.group}[{i}]", f"{one.group}[{j}]", f"{value:.4g}")
        for one in found
        for i, j, value in one.strongest(5)
    ]
    together = [(one.group, group) for one in found for group in one.together]
    rows = [
        (_members(name, group), f"{group.sum_of_rises:.4g}", f"{group.joint_rise:.4g}", f"{group.p:.2g}")
        for name, group in together
    ]
    tables: list[Shown] = [(("group", "neuron", "cancels", "interaction"), pairs)]
    if together:
        tables.append((("removed together", "rises added up", "rise together", "p"), rows))
    remarks = [f"{one.group}: {one.chosen}." for one in found]
    words = f"{counted(sum(one.num_pairs for one in found), 'pair')}, {counted(len(together), 'cancelling group')}."
    Finding(subject.folder, "cancellation.json", words, tables, remarks).show(as_json)


def _members(name: str, group: Together) -> str:
    """The first twelve neurons of a group."""
    more = " ..." if len(group.neurons) > 12 else ""
    return f"{name}: {', '.join(map(str, group.neurons[:12]))}{more}"


def recall(runs: Sequence[Path], step: int | None, ratios: str, seed: int, *, as_json: bool) -> None:
    """Say which classes pay, in one run or over several."""
    folders = [RunFolder.open(run) for run in runs]
    histories = []
    for folder in folders:
        with whole(folder):
            histories.append(folder.history())
    if len(runs) > 1:
        with whole(folders[0]):
            several = over_runs(histories, _numbers(ratios))
        _over_runs(folders, several, as_json)
        return
    folder = folders[0]
    with whole(folder):
        found = recall_distortion(histories[0], _compared(folder, histories[0], step), seed=seed)
    files.write_recall(folder, found)
    for number in found.history.without_rows:
        console.talk.print(f"Class {number} has no validation row: it has no recall and takes no part.")
    columns = ("class", "rows", "recall before", "after", "precision after", "balance before", "after", "p of the fall")
    rows = [
        (
            one.number,
            one.rows,
            *(f"{share:.4f}" for share in (one.recall_before, one.recall_after, one.precision_after)),
            *(f"{balance:+.3f}" for balance in (one.balance_before, one.balance_after)),
            f"{one.p:.2g}",
        )
        for one in found.classes
    ]
    low, high = found.interval
    words = (
        f"Slope {found.slope:.3f} (99 % interval {low:.3f} to {high:.3f}): {found.verdict}. Worst class: "
        f"{found.worst.number}, recall {found.worst.recall_after:.4f}. {counted(len(found.lost), 'row')} became wrong."
    )
    Finding(folder, "recall.json", words, [(columns, rows)]).show(as_json)


def _compared(folder: RunFolder, history: list[Step], step: int | None) -> int | None:
    """The step asked for; else the one whose network the run handed back, if it is finished."""
    if step is not None or not history or not folder.has("summary.json"):
        return step
    among, place = with_handed_back(folder, history)
    if len(among) > len(history):
        must, got = (
            "a run that handed back a step of its history",
            "one that was cut to another budget, or all of whose weights were refit together",
        )
        raise BadInputError("RUN", must, got, "Name a step with --step.")
    return among[place].number


def _over_runs(folders: list[RunFolder], found: list[AtRatio], as_json: bool) -> None:
    files.write_ratios(folders[0], found)
    rows = [
        (
            f"{one.ratio:g}",
            f"{one.mean:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            one.label,
            "" if isnan(one.p_rise) else f"{one.p_rise:.2g}",
        )
        for one in found
    ]
    table = ("ratio", "mean slope", "95 % of families", "", "p that it rises"), rows
    words = f"{len(folders)} runs: below 1 gaps narrow (<), above they widen (>), else it cannot be told (?)."
    Finding(folders[0], "intensification.json", words, [table]).show(as_json)


def _numbers(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or any(not number >= 1 for number in found) or found != sorted(set(found)):
        raise BadInputError("--ratios", "numbers from 1 on, ascending", repr(text), "Write them as 2,4,10.")
    return found


def limit(
    source: str,
    given: SubjectFlags,
    what: str,
    eps: float | None,
    max_accuracy_drop: str | None,
    draws: int,
    *,
    as_json: bool,
) -> None:
    """Say how small a network can get."""
    if what not in {"weights", "neurons", "both"}:
        raise BadInputError("--what", "weights, neurons or both", repr(what), "Leave it out for both.")
    check_asked(eps, max_accuracy_drop, draws)
    subject = _subject(source, given)
    found = list[Limit]()
    with console.Bar("limit") as bar:
        if what != "neurons":
            found.append(weight_limit(subject.task, eps=eps, seed=given.seed, tell=bar.tell))
        if what != "weights":
            guard: dict[str, Any] = {"max_loss_rise": eps, "max_accuracy_drop": max_accuracy_drop}
            found.append(neuron_limit(subject.task, **guard, draws=draws, seed=given.seed, tell=bar.tell))
    for one in found:
        files.write_limit(subject.folder, one)
    columns = ("", "in all", "can go, predicted", "can go, found", "eps", "top eigenvalue", "seconds")
    rows = [
        (
            one.what,
            one.num,
            f"{100 * one.predicted:.1f} %",
            f"{100 * one.mean_found:.1f} ± {100 * one.error_bar:.1f} %",
            f"{one.eps:.3g}",
            f"{one.spectrum.largest:.3g}",
            f"{one.seconds:.1f}",
        )
        for one in found
    ]
    words = " ".join(
        f"{round(one.num * (1 - one.mean_found)):,} of {one.num:,} {one.what} are needed; {one.advice}."
        for one in found
    )
    content = [subject.folder.read_json(f"analysis/limit-{one.what}.json") for one in found]
    Finding(subject.folder, "", words, [(columns, rows)]).show(as_json, content)


def of_criteria(source: str, given: StepFlags, criteria: Sequence[str], every: int | None, *, as_json: bool) -> None:
    """Say which criterion ranks as ablation does, at one step of a run or along it."""
    subject = _subject(source, given, given.step)
    if every is not None:
        _along(subject, every, criteria, given.seed, as_json)
        return
    with console.Bar("agreement") as bar:
        found = agreement(subject.task, criteria, gone=subject.gone, seed=given.seed, tell=bar.tell)
    files.write_agreement(subject.folder, found)
    able = [one for one in found if not one.why_not]
    groups = list(able[0].by_group) if able else []
    shown = groups if len(groups) <= 6 else []
    rows = [
        (one.criterion, f"{one.overall:.3f}", *(f"{one.by_group[name]:.3f}" for name in shown), f"{one.regret:.4g}")
        for one in able
    ]
    table = ("criterion", "overall", *shown, "loss more than ablation's"), rows
    remarks = [f"{one.criterion} cannot score it: {one.why_not}" for one in found if one.why_not]
    best = next((one for one in able if one.criterion != ORACLE), None)
    words = "" if best is None else f"Besides {ORACLE}, trust {best.criterion} here (Spearman {best.overall:.3f})."
    content = subject.folder.read_json("analysis/agreement.json")["criteria"]
    Finding(subject.folder, "agreement.json", words, [table], remarks).show(as_json, content)


def _along(subject: Subject, every: int, criteria: Sequence[str], seed: int, as_json: bool) -> None:
    """How each criterion agrees with ablation along a run, while two neurons are left."""
    if every < 1 or not subject.history:
        got = str(every) if every < 1 else "a model, or a run whose readers were refit"
        raise BadInputError("--every", "a whole number of at least 1, with a run folder", got, "Name another run.")
    found: dict[int, dict[str, float]] = {}
    last = subject.history[-1].number
    with console.Bar("agreement") as bar:
        for step in subject.history[::every]:
            if step.measures.costs.num_neurons < 2:
                break
            bar.tell(f"step {step.number}", step.number / max(1, last))
            gone = removed_by(taken for taken in subject.history if taken.number <= step.number)
            able = agreement(subject.task, criteria, gone=gone, seed=seed)
            found[step.number] = {one.criterion: one.overall for one in able if not one.why_not}
    subject.folder.write_json("analysis/agreement-along.json", {"steps": found})
    names = list(found[0])
    rows = [
        (str(step), *(f"{overall.get(name, float('nan')):.3f}" for name in names)) for step, overall in found.items()
    ]
    words = f"Spearman's correlation with ablation after {len(found)} of the run's steps."
    Finding(subject.folder, "agreement-along.json", words, [(("step", *names), rows)]).show(as_json)
