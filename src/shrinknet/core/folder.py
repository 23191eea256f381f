"""The run folder: its schema, how it is written so that a kill loses nothing, and how it is read back.

Every file is replaced whole (written beside, synced, renamed); only `history.csv` grows, by one synced write for each
step. A torn last step is dropped on reading: it is the step under way. Each row of it bears a check that follows from
all before it, and a finished run is sealed: `seal.json` holds the hash of every file, and whoever opens it looks.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shrinknet.core.config import RunConfig
from shrinknet.core.disk import grow
from shrinknet.core.errors import RunFolderError, ShrinknetError, first_line
from shrinknet.core.reading import all_restored, as_json, restored
from shrinknet.core.records import Corner, Ending, Frozen, Group, Manifest, Neuron, Plan, Step, Verification
from shrinknet.core.sealed import SealedFolder
from shrinknet.core.tables import (
    ANSWER_COLUMNS,
    RACE_COLUMNS,
    answer_rows,
    bare_columns,
    bare_row,
    checked_rows,
    columns,
    csv_text,
    followed,
    race_rows,
    steps_of,
    with_answers,
    with_bare,
)

LONGEST_ROW = 2**16


@dataclass(frozen=True, slots=True)
class RunFolder(SealedFolder):
    """A folder that holds one run. The only thing in shrinknet that changes."""

    def append(self, step: Step) -> None:
        """Add a step to the history, in one synced write; before it what stands in files of their own.

        That is how its neurons were found, if by a race; its losses without compensation, where there is one; and which
        validation rows it answers otherwise.
        """
        if step.race is not None:
            self._grow("racing.csv", RACE_COLUMNS, [list(row.values()) for row in race_rows(step.race, step.number)])
        if step.bare is not None:
            self._grow("without_compensation.csv", bare_columns(step.bare.metrics), [bare_row(step.number, step.bare)])
        if rows := answer_rows(step):
            self._grow("answers.csv", ANSWER_COLUMNS, rows)
        self._grow("history.csv", columns(step.measures.metrics), checked_rows(step, self._last_check()))

    def _grow(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        header = [] if self.has(name) else [columns]
        grow(self.path, name, csv_text([*header, *rows]).encode())

    def _last_check(self) -> str:
        """The check of the last row, found without reading the whole history."""
        if not self.has("history.csv"):
            return ""
        with open(self.path / "history.csv", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_ROW))
            return file.read().decode(errors="replace").rstrip().rpartition(",")[2]

    def races(self) -> list[dict[str, str]]:
        """Return the rows of `racing.csv`: one for each neuron that won a race; none where there was no race."""
        return self.table("racing.csv")

    def table(self, name: str) -> list[dict[str, str]]:
        """Return the whole rows of a table, a torn last line left out; none where it is not there."""
        path = self.path / name
        if not path.exists():
            return []
        text = path.read_text()
        return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))

    def manifest(self) -> Manifest | None:
        """Return the manifest of the artefact that the run is for; None where that is the weights file."""
        asked = RunConfig.of(self.config).search
        wanted = (asked.artefact, asked.quantize)
        return next((one for one in self.manifests() if (one.kind, one.quantize) == wanted), None)

    def manifests(self) -> list[Manifest]:
        """Return the manifests of all artefacts in the folder."""
        paths = sorted(self.path.glob("artefacts/model*.json"))
        return [restored(Manifest, self.read_json(f"artefacts/{path.name}")) for path in paths]

    def corners(self) -> tuple[Corner, ...]:
        """Return what full and pruned, float and int8 files measure; nothing where none is in int8."""
        if not self.has("artefacts/corners.json"):
            return ()
        return all_restored(Corner, self.read_json("artefacts/corners.json")["corners"])

    def history(self) -> list[Step]:
        """Return the steps written so far, a torn last line left out.

        Raises:
            RunFolderError: the history is not one that shrinknet wrote.
        """
        path = self.path / "history.csv"
        if not path.exists():
            return []
        try:
            rows = self.table("history.csv")
            bare, answers = self.table("without_compensation.csv"), self.table("answers.csv")
            if self.is_sealed_when_finished:
                rows = followed(rows, bare, answers)
            return with_answers(with_bare(steps_of(rows), bare), answers)
        except (LookupError, ValueError, TypeError, ArithmeticError, csv.Error) as error:
            raise RunFolderError(
                f"folder must be a run folder whose history.csv shrinknet wrote. Got {str(self.path)!r}, which cannot "
                f"be read ({first_line(error)}). Run it again in another folder."
            ) from error

    def keep_history(self, steps: Sequence[Step]) -> None:
        """Replace the history by these steps; the files beside it first, so that a kill leaves nothing without them.

        A history that gets shorter goes first: rows beside it of steps that are gone are not looked at.
        """
        if len({row["step"] for row in self.table("history.csv")}) > len(steps):
            self._replace_history(steps)
        races = [list(row.values()) for row in self.races() if int(row["step"]) <= steps[-1].number]
        bare = [bare_row(step.number, step.bare) for step in steps if step.bare is not None]
        answers = [row for step in steps for row in answer_rows(step)]
        metrics = steps[0].measures.metrics
        self._replace("racing.csv", RACE_COLUMNS, races)
        self._replace("without_compensation.csv", bare_columns(metrics), bare)
        self._replace("answers.csv", ANSWER_COLUMNS, answers)
        self._replace_history(steps)

    def _replace_history(self, steps: Sequence[Step]) -> None:
        rows, check = list[Sequence[object]](), ""
        for step in steps:
            rows.extend(checked_rows(step, check))
            check = str(rows[-1][-1])
        self._replace("history.csv", columns(steps[0].measures.metrics), rows)

    def _replace(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Write a table anew; no file where it has no row."""
        if rows:
            self.write(name, csv_text([columns, *rows]).encode())
        else:
            self.remove(name)

    def write_plan(
        self,
        plan: Plan,
        kept: Mapping[str, Mapping[int, Sequence[int]]],
        attributes: Mapping[str, Mapping[str, Any]],
        fixed_width: str | None = None,
    ) -> None:
        """Write the order of the removals, what is kept of each parameter axis, and which attributes change.

        `fixed_width` says why the network's own class does not bear the cut, where that is so.
        """
        order = {
            "removed": [[neuron.group, neuron.index] for neuron in plan.removed],
            "remaining": [[neuron.group, neuron.index] for neuron in plan.remaining],
        }
        axes = {name: {str(axis): list(kept_on) for axis, kept_on in cut.items()} for name, cut in kept.items()}
        content = {**order, "kept": axes, "attributes": attributes}
        if fixed_width is not None:
            content["fixed_width"] = fixed_width
        self.write_json("plan.json", {**content, "sha256": digest_of_plan(as_json(content))})

    def plan(self) -> Plan:
        """Read the order of the removals."""
        content = self.read_json("plan.json")
        if "sha256" in content and content["sha256"] != digest_of_plan(content):
            raise RunFolderError(
                f"plan.json must be as shrinknet wrote it. Got one in {str(self.path)!r} that was changed since. Make "
                f"the run again."
            )
        widths = {group.name: group.width for group in self.groups()}
        removed, remaining = (
            tuple(Neuron(group, int(index)) for group, index in content[key]) for key in ("removed", "remaining")
        )
        if len(set(removed + remaining)) < len(removed + remaining):
            raise RunFolderError(
                f"plan.json must name each neuron once. Got one twice in {str(self.path)!r}. Make the run again."
            )
        for neuron in removed + remaining:
            if not 0 <= neuron.index < widths.get(neuron.group, 0):
                raise RunFolderError(
                    f"plan.json must name neurons of groups.json. Got {neuron} in {str(self.path)!r}. "
                    f"Make the run again."
                )
        return Plan(removed, remaining)

    def write_groups(self, groups: Iterable[Group], frozen: Iterable[Frozen]) -> None:
        """Write what can be removed and what is frozen."""
        self.write_json("groups.json", {"groups": list(groups), "frozen": list(frozen)})

    def groups(self) -> tuple[Group, ...]:
        """Read what can be removed."""
        return all_restored(Group, self.read_json("groups.json")["groups"])

    def frozen(self) -> tuple[Frozen, ...]:
        """Read what is frozen, and why."""
        return all_restored(Frozen, self.read_json("groups.json")["frozen"])

    def architecture(self) -> Mapping[str, Any]:
        """Read of which class the network is; nothing in a run of an older version."""
        return self.read_json("architecture.json") if (self.path / "architecture.json").is_file() else {}

    def ending(self) -> Ending:
        """Read how the run ended."""
        return restored(Ending, self.read_json("summary.json"))

    def verification(self) -> Verification:
        """Read the proof."""
        return restored(Verification, self.read_json("verification.json"))


def digest_of_plan(content: Mapping[str, Any]) -> str:
    """Return the hash that a plan bears of all else in it."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


OF_PYTHON = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, AssertionError, RecursionError)
DAMAGED = (*OF_PYTHON, csv.Error)
"""What a file that lacks an entry, or holds one of another kind, leads to."""


@contextmanager
def whole(folder: RunFolder) -> Iterator[None]:
    """Turn what a damaged file of a run folder leads to into one sentence.

    Raises:
        RunFolderError: a file lacks an entry, or holds one of another kind.
    """
    try:
        yield
    except ShrinknetError:
        raise
    except DAMAGED as error:
        raise RunFolderError(
            f"folder must be a whole, undamaged run folder. Got {str(folder.path)!r}, where something is missing or of "
            f"another kind ({type(error).__name__}: {first_line(error)}). Make the run again, in another folder."
        ) from error
