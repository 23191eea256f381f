"""The run folder: its schema, how it is written so that a kill loses nothing, and how it is read back.

Every file is replaced whole (written beside, synced, renamed); only `history.csv` grows, by one synced write for each
step. A torn last step is dropped on reading: it is the step under way.
"""

import csv
import io
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shrinknet.errors import RunFolderError, ShrinknetError
from shrinknet.records import (
    Difference,
    Frozen,
    Group,
    Neuron,
    Plan,
    Slice,
    Step,
    Verification,
)
from shrinknet.tables import (
    ANSWER_COLUMNS,
    BARE_COLUMNS,
    COLUMNS,
    RACE_COLUMNS,
    answer_rows,
    bare_row,
    csv_text,
    race_rows,
    step_rows,
    steps_of,
    with_answers,
    with_bare,
)

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder that holds one run. The only thing in shrinknet that changes."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], *, resume: bool = False) -> "RunFolder":
        """Start a run in an empty or new folder, or come back to the same run.

        Raises:
            RunFolderError: the folder holds another run, or anything else.
        """
        folder = cls(Path(path))
        config = {"schema": SCHEMA, **config}
        if (folder.path / "config.json").exists():
            folder._check_same_run(config, resume)
        elif folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            raise RunFolderError(
                f"out must be a new or empty folder. Got {str(path)!r}, which holds other files. Name another folder."
            )
        else:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.write_json("config.json", config)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open an existing run.

        Raises:
            RunFolderError: there is no run in that folder.
        """
        folder = cls(Path(path))
        if not (folder.path / "config.json").is_file():
            raise RunFolderError(
                f"folder must be a run folder, written by 'shrinknet prune'. Got {str(path)!r}, which has no "
                f"config.json. Check the path."
            )
        return folder

    def _check_same_run(self, config: Mapping[str, Any], resume: bool) -> None:
        if not resume:
            raise RunFolderError(
                f"out must be a new or empty folder. Got {str(self.path)!r}, which holds another run. "
                f"Name another folder, or go on with that run with `resume=True`."
            )
        theirs, ours = self.config, json.loads(json.dumps(config))
        different = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
        if different:
            key = different[0]
            raise RunFolderError(
                f"resume must come with the options that the run began with. Got {key} = {ours.get(key)!r}, the run "
                f"has {theirs.get(key)!r}. Use the same command, or another folder."
            )

    @property
    def config(self) -> dict[str, Any]:
        """The resolved options that the run began with."""
        return self.read_json("config.json")

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.path / name).exists()

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the folder's JSON files.

        Raises:
            RunFolderError: it is missing or damaged.
        """
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text())
            if not isinstance(content, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"folder must be a complete run folder. Got {str(self.path)!r}, whose {name} cannot be read ({error}). "
                f"Make the run again, in another folder."
            ) from error
        return content

    def write_json(self, name: str, content: object) -> None:
        """Replace one of the folder's JSON files."""
        self.write(name, (json.dumps(_plain(content), indent=1, allow_nan=False) + "\n").encode())

    def write(self, name: str, content: bytes) -> None:
        """Replace a file whole: a reader sees the old one or the new one, also after a kill."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.part")
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)

    def remove(self, *names: str) -> None:
        """Delete files that are no longer true."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def append(self, step: Step) -> None:
        """Add a step to the history, in one synced write; before it what stands in files of their own.

        That is how its neurons were found, if by a race; its losses without compensation, where there is one; and which
        validation rows it answers otherwise.
        """
        if step.race is not None:
            self._grow("racing.csv", RACE_COLUMNS, [list(row.values()) for row in race_rows(step.race, step.number)])
        if step.bare is not None:
            self._grow("without_compensation.csv", BARE_COLUMNS, [bare_row(step.number, step.bare)])
        if rows := answer_rows(step):
            self._grow("answers.csv", ANSWER_COLUMNS, rows)
        self._grow("history.csv", COLUMNS, step_rows(step))

    def _grow(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        path = self.path / name
        text = csv_text(rows)
        if not path.exists():
            text = csv_text([columns]) + text
        with open(path, "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def races(self) -> list[dict[str, str]]:
        """Return the rows of `racing.csv`: one for each neuron that won a race; none where there was no race."""
        return self._table("racing.csv")

    def _table(self, name: str) -> list[dict[str, str]]:
        """The whole rows of a file; none where it is not there."""
        path = self.path / name
        if not path.exists():
            return []
        text = path.read_text()
        return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of the artefact that the run is for; None where that is the weights file."""
        wanted = tuple(self.config.get(key) for key in ("artefact", "quantize"))
        return next((one for one in self.manifests() if (one["kind"], one["quantize"]) == wanted), None)

    def manifests(self) -> list[dict[str, Any]]:
        """Return the manifests of all artefacts in the folder."""
        return [self.read_json(f"artefacts/{path.name}") for path in sorted(self.path.glob("artefacts/model*.json"))]

    def corners(self) -> list[dict[str, Any]]:
        """Return what full and pruned, float and int8 files measure; nothing where none is in int8."""
        return list(self.read_json("artefacts/corners.json")["corners"]) if self.has("artefacts/corners.json") else []

    def history(self) -> list[Step]:
        """Return the steps written so far, a torn last line left out.

        Raises:
            RunFolderError: the history is not one that shrinknet wrote.
        """
        path = self.path / "history.csv"
        if not path.exists():
            return []
        try:
            steps = with_bare(steps_of(self._table("history.csv")), self._table("without_compensation.csv"))
            return with_answers(steps, self._table("answers.csv"))
        except (KeyError, ValueError, TypeError) as error:
            raise RunFolderError(
                f"folder must be a run folder whose history.csv shrinknet wrote. Got {str(path)!r}, which cannot be "
                f"read ({error}). Run it again in another folder."
            ) from error

    def keep_history(self, steps: Sequence[Step]) -> None:
        """Replace the history by these steps; the files beside it first, so that a kill leaves nothing without them."""
        races = [list(row.values()) for row in self.races() if int(row["step"]) <= steps[-1].number]
        bare = [bare_row(step.number, step.bare) for step in steps if step.bare is not None]
        answers = [row for step in steps for row in answer_rows(step)]
        self._replace("racing.csv", RACE_COLUMNS, races)
        self._replace("without_compensation.csv", BARE_COLUMNS, bare)
        self._replace("answers.csv", ANSWER_COLUMNS, answers)
        self._replace("history.csv", COLUMNS, [row for step in steps for row in step_rows(step)])

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
    ) -> None:
        """Write the order of the removals, what is kept of each parameter axis, and which attributes change."""
        order = {
            "removed": [[neuron.group, neuron.index] for neuron in plan.removed],
            "remaining": [[neuron.group, neuron.index] for neuron in plan.remaining],
        }
        axes = {name: {str(axis): list(kept_on) for axis, kept_on in cut.items()} for name, cut in kept.items()}
        self.write_json("plan.json", {**order, "kept": axes, "attributes": attributes})

    def plan(self) -> Plan:
        """Read the order of the removals."""
        content = self.read_json("plan.json")
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
        return tuple(
            Group(group["name"], group["width"], tuple(
                Slice(part["parameter"], part["axis"], part["role"], tuple(part["owners"]))
                for part in group["slices"]
            ))
            for group in self.read_json("groups.json")["groups"]
        )  # fmt: skip

    def verification(self) -> Verification:
        """Read the proof."""
        content = self.read_json("verification.json")
        differences = tuple(
            Difference(d["precision"], float(d["worst"]), float(d["tolerance"]), d["num_samples"], d["output"])
            for d in content["differences"]
        )
        return Verification(differences, content["shapes_checked"], content["broke_at"])


@contextmanager
def whole(folder: RunFolder) -> Iterator[None]:
    """Turn what a damaged file of a run folder leads to into one sentence.

    Raises:
        RunFolderError: a file lacks an entry, or holds one of another kind.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ShrinknetError):
            raise
        raise RunFolderError(
            f"folder must be a whole, undamaged run folder. Got {str(folder.path)!r}, where something is missing or of "
            f"another kind ({type(error).__name__}: {error}). Make the run again, in another folder."
        ) from error


def _plain(value: Any) -> Any:
    """Records as dictionaries; numbers that JSON has no word for as text."""
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        return str(value)
    return value


def environment() -> dict[str, object]:
    """Return what a figure needs beside it: versions and the machine."""
    packages = {}
    for name in ("shrinknet", "torch", "numpy", "safetensors"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        "packages": packages,
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
