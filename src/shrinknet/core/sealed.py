"""A folder of files that belong together: written whole, held by one process, sealed once its run is finished.

`seal.json` holds the hash of every file, and whoever opens the folder looks.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shrinknet.core.disk import held, is_left_over, odd_below, write_whole, writing
from shrinknet.core.errors import RunFolderError
from shrinknet.core.reading import as_json
from shrinknet.core.units import names_in

log = logging.getLogger(__name__)

SCHEMA = 2

SEAL = "seal.json"
MODELS = ("model.pt2", "model.safetensors")

SEALED = names_in("""
    answers.csv, architecture.json, artefacts/*, config.json, environment.json, groups.json, history.csv,
    masks.safetensors, model.pt2, model.safetensors, original.pt2, plan.json, racing.csv, sparse.safetensors,
    state.safetensors, summary.json, training.csv, verification.json, without_compensation.csv
""")
"""The files that belong together. Pages and analyses are not among them: they can be made again."""

AnyFolder = TypeVar("AnyFolder", bound="SealedFolder")


@dataclass(frozen=True, slots=True)
class SealedFolder:
    """A folder that holds the files of one run, whatever they say."""

    path: Path

    @classmethod
    def create(cls: type[AnyFolder], path: str | Path, config: Mapping[str, Any], *, resume: bool = False) -> AnyFolder:
        """Start a run in an empty or new folder, or come back to the same run.

        Raises:
            RunFolderError: the folder holds another run, or anything else.
        """
        folder = cls(Path(path))
        config = {"schema": SCHEMA, **config}
        if (folder.path / "config.json").exists():
            folder._refuse_odd_files()
            folder._check_same_run(config, resume)
            return folder
        if folder.path.exists() and not (folder.path.is_dir() and all(map(is_left_over, folder.path.iterdir()))):
            raise RunFolderError(
                f"out must be a new or empty folder. Got {str(path)!r}, which holds other files. Name another folder."
            )
        with writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        with folder.held():
            folder.write_json("config.json", config)
        return folder

    @classmethod
    def open(cls: type[AnyFolder], path: str | Path) -> AnyFolder:
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
        folder._refuse_odd_files()
        if folder.has(SEAL) and folder.has("summary.json"):
            folder._check_seal()
        elif folder.has("summary.json") and folder.is_sealed_when_finished:
            raise RunFolderError(
                f"folder must be a finished run. Got {str(path)!r}, which has no {SEAL}. Go on with it: the same "
                f"command with `resume=True`."
            )
        if not folder.is_sealed_when_finished:
            log.warning("%s was made before runs were sealed: its files are not held against one another.", path)
        return folder

    def _refuse_odd_files(self) -> None:
        if odd := odd_below(self.path):
            raise RunFolderError(
                f"folder must be a run folder of plain files. Got {str(self.path)!r}, whose {odd[0]!r} is a link or a "
                f"device. Put the file itself there."
            )

    def held(self) -> AbstractContextManager[None]:
        """Hold the folder while a run is under way in it; a second process is told so in one sentence."""
        return held(self.path)

    @property
    def is_sealed_when_finished(self) -> bool:
        """Whether the run was made when finished runs began to be sealed."""
        schema = self.config.get("schema")
        return not (isinstance(schema, int) and schema < SCHEMA)

    def _sealed_files(self) -> list[str]:
        """The files that belong together, by their path in the folder."""
        found = (path.relative_to(self.path).as_posix() for glob in SEALED for path in self.path.glob(glob))
        return sorted(name for name in found if not is_left_over(Path(name)))

    def seal(self) -> None:
        """Hash every file that belongs to the finished run: nothing of it can change without a word."""
        self.write_json(SEAL, {"sha256": {name: self._digest(name) for name in self._sealed_files()}})

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Write more into a finished run, which is sealed again at the end."""
        if not self.has(SEAL):
            yield
            return
        self._check_seal()
        self.remove(SEAL)
        try:
            yield
        finally:
            self.seal()

    def _digest(self, name: str) -> str:
        with open(self.path / name, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def changed(self) -> list[str]:
        """Return the names of the files that are not what they were when the run was sealed."""
        said = self.read_json(SEAL).get("sha256")
        said = said if isinstance(said, dict) else {}
        files = self._sealed_files()
        return sorted({name for name in files if said.get(name) != self._digest(name)} | said.keys() - {*files})

    def _check_seal(self) -> None:
        """What holds the models is left to `verify`, which runs them: nobody else reads them."""
        if wrong := [name for name in self.changed() if name not in MODELS]:
            raise RunFolderError(
                f"folder must be a run folder as shrinknet left it. Got {str(self.path)!r}, whose {wrong[0]!r} was "
                f"changed, added or taken away since. Make the run again, or take that change back."
            )

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
        except FileNotFoundError as error:
            raise RunFolderError(
                f"folder must be a finished run. Got {str(self.path)!r}, which has no {name}. Go on with it: the same "
                f"command with `resume=True`."
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(
                f"folder must be a complete run folder. Got {str(self.path)!r}, whose {name} cannot be read ({error}). "
                f"Make the run again, in another folder."
            ) from error
        return content

    def write_json(self, name: str, content: object) -> None:
        """Replace one of the folder's JSON files."""
        self.write(name, (json.dumps(as_json(content), indent=1, allow_nan=False) + "\n").encode())

    def write(self, name: str, content: bytes) -> None:
        """Replace a file whole: a reader sees the old one or the new one, also after a kill."""
        write_whole(self.path, name, content)

    def remove(self, *names: str) -> None:
        """Delete files that are no longer true."""
        for name in names:
            with writing(self.path / name):
                (self.path / name).unlink(missing_ok=True)
