"""`report/index.html`: one file that opens without a network, made from run folders alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from shrinknet.core.config import RunConfig
from shrinknet.core.disk import write_whole, writing
from shrinknet.core.errors import RunFolderError
from shrinknet.core.folder import RunFolder, whole
from shrinknet.core.quantities import Quality
from shrinknet.core.records import Corner, Ending, Frozen, Group, Manifest, Step, Verification
from shrinknet.report import summary
from shrinknet.report.page_data import MOST_STEPS, page_data
from shrinknet.report.rendering import rendered

MOST_STEPS_LISTED = 60


@dataclass(frozen=True, slots=True)
class Chapter:
    """What the page says of one run."""

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    history: list[Step]
    end: Ending
    verification: Verification
    races: list[dict[str, str]]
    shipped: Manifest | None
    corners: tuple[Corner, ...]

    @property
    def qualities(self) -> Mapping[str, Quality]:
        """How metrics are shown."""
        return RunConfig.of(self.config).qualities

    def metrics_text(self, metrics: Mapping[str, float | None]) -> str:
        """Figures as they are shown."""
        return ", ".join(f"{name} {self.qualities[name].text(value)}" for name, value in metrics.items())

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Before and after."""
        return summary.rows(self.end.before, self.end.after, self.end.test, self.qualities, self.shipped)

    @property
    def last_line(self) -> str:
        """What the run did, in one line."""
        end = self.end
        return summary.last_line(end.before, end.after, end.test, end.reason, self.qualities, self.shipped)

    @property
    def proof(self) -> str:
        """The proof, in one line."""
        return summary.proof_line(self.verification)

    @property
    def has_bare(self) -> bool:
        """Whether there is a second curve: the same removals without compensation."""
        return any(step.bare is not None for step in self.history)

    @property
    def shipped_line(self) -> str:
        """What was measured on the artefact, in one line."""
        return "" if self.shipped is None else summary.shipped_line(self.shipped, self.qualities)

    @property
    def compensation_line(self) -> str:
        """What exchanges brought, and how what is gone was made up for, in one line."""
        return " ".join(summary.exchanges_line(self.history) + summary.compensation_line(RunConfig.of(self.config)))

    @property
    def moves_all_weights(self) -> bool:
        """Whether the network that is handed back is none of the search's."""
        return RunConfig.of(self.config).moves_all_weights

    @property
    def race_line(self) -> str:
        """What races saved, in one line."""
        return summary.race_line(self.races)

    @property
    def largest_scores(self) -> list[Step]:
        """The steps that are listed: the first ones."""
        return self.history[: MOST_STEPS_LISTED + 1]


def write_page(folders: Sequence[RunFolder], out: Path) -> Path:
    """Write one page about one or several runs; several share the trade-off curves.

    Raises:
        RunFolderError: a run is not finished.
    """
    chapters, data = [], []
    for folder, name in zip(folders, _names(folders), strict=True):
        with whole(folder):
            chapter = _chapter(folder, name)
            data.append(page_data(folder, name, chapter.groups, chapter.history, MOST_STEPS // len(folders)))
            chapters.append(chapter)
    with whole(folders[0]):  # of several, a wrong text shows itself only here
        return _write(folders, chapters, data, out)


def _write(folders: Sequence[RunFolder], chapters: list[Chapter], data: list[dict[str, Any]], out: Path) -> Path:
    runs = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")  # no name ends the script
    plotly = (files("shrinknet.report") / "vendor" / "plotly-basic.min.js").read_text(encoding="utf-8")
    metrics = dict.fromkeys(metric["name"] for one in data for metric in one["metrics"])
    html = rendered("shrinknet.report", "page.html", chapters=chapters, metrics=metrics, plotly_js=plotly, runs=runs)
    inside = next((one.path for one in folders if out.is_relative_to(one.path)), None)
    if inside is None:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        inside = out.parent
    write_whole(inside, str(out.relative_to(inside)), html.encode())
    return out


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """Name the curves by what tells the runs apart: the criterion, else the folder."""
    configs = [folder.config for folder in folders]
    for keys in (("criterion",), ("criterion", "method"), ("criterion", "method", "clip")):
        names = [", ".join(str(config.get(key, "")) for key in keys) for config in configs]
        if len(set(names)) == len(names):
            return names
    return [folder.path.name for folder in folders]


def _chapter(folder: RunFolder, name: str) -> Chapter:
    if not folder.has("summary.json"):
        raise RunFolderError(
            f"folder must be a finished run. Got {str(folder.path)!r}, which has no summary.json. "
            f"Go on with it: the same command with `resume=True`."
        )
    groups, history = folder.groups(), folder.history()
    if not history:
        raise ValueError("history.csv has no step")
    return Chapter(
        name=name,
        config=folder.config,
        environment=folder.read_json("environment.json"),
        groups=groups,
        frozen=folder.frozen(),
        history=history,
        end=folder.ending(),
        verification=folder.verification(),
        races=folder.races(),
        shipped=folder.manifest(),
        corners=folder.corners(),
    )
