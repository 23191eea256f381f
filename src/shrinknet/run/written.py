"""What is written of a run: its folder, its exported files, its page."""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils._pytree import tree_structure

from shrinknet.core.disk import writing
from shrinknet.core.errors import BadInputError
from shrinknet.core.folder import RunFolder
from shrinknet.core.machine import environment
from shrinknet.core.records import Corner, Ending, Manifest
from shrinknet.core.sealed import SEAL
from shrinknet.export.artefact import Artefact
from shrinknet.export.base import exporter_names, find_exporter
from shrinknet.export.exported_program import pt2_bytes
from shrinknet.export.weights import safetensors_bytes
from shrinknet.graph.trace import Trace, named_tensors
from shrinknet.report.page import write_page
from shrinknet.run.facts import Facts, Shipped
from shrinknet.run.remade import architecture
from shrinknet.surgery.remove import kept_indices
from shrinknet.task.task import Task
from shrinknet.task.trees import Inputs, call_of

log = logging.getLogger(__name__)

MOST_THREADS = 256

FRAME = 'style="width: 100%; height: 900px; border: 0"'


@contextmanager
def with_threads_of(out: str | Path | None) -> Iterator[None]:
    """Compute with as many threads as the run in a folder began with: their number changes last bits."""
    before = torch.get_num_threads()
    recorded = None
    if out is not None and (Path(out) / "environment.json").is_file():
        recorded = RunFolder(Path(out)).read_json("environment.json").get("num_threads")
    try:
        if isinstance(recorded, int) and 1 <= recorded <= MOST_THREADS:
            torch.set_num_threads(recorded)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def under_way(folder: RunFolder | None) -> Iterator[None]:
    """Hold a run's folder while the run is under way, and compute with as many threads as it began with."""
    if folder is None:
        yield
        return
    with folder.held(), with_threads_of(folder.path):
        yield


def check_containers(inputs: Inputs) -> None:
    """Whoever opens a run's files need not have the user's classes: a call is made of tuples, lists and mappings.

    Raises:
        BadInputError: forward takes a container of another class.
    """
    waiting = [tree_structure(call_of(inputs))]
    while waiting:
        spec = waiting.pop()
        if spec.type not in (None, tuple, list, dict, OrderedDict):
            name = getattr(spec.context, "__name__", spec.type.__name__)
            do = "Let forward take a tuple, a list or a mapping."
            raise BadInputError("out", "left out where forward takes a container of one's own", repr(name), do)
        waiting += spec.children()


def write_artefact(folder: RunFolder, shipped: Shipped) -> str:
    """Write an artefact with its manifest beside it, and return its path in the folder."""
    name = f"artefacts/{shipped.manifest.file}"
    folder.write(name, shipped.content)
    folder.write_json(f"{name}.json", shipped.manifest)
    return name


def write_machine(folder: RunFolder) -> None:
    """Write where a run is made, which is under way from here on."""
    folder.remove(SEAL)
    folder.write_json("environment.json", {**environment(), "num_threads": torch.get_num_threads()})


def write_start(folder: RunFolder, task: Task, traced: Trace) -> None:
    """Write what is known before the first step: the machine, the groups, the untouched network."""
    write_machine(folder)
    folder.write_groups(traced.groups, traced.frozen)
    folder.write_json("architecture.json", architecture(task.model))
    assert traced.exported is not None
    folder.write("original.pt2", pt2_bytes(traced.exported))


def write_end(folder: RunFolder, run: Facts) -> None:
    """Write proof, plan and models; no model where the proof fails."""
    folder.write_json("verification.json", run.verification)
    if not run.verification.holds:
        folder.remove("model.pt2", "model.safetensors", "summary.json")
        return
    kept = kept_indices(run.network.trace, run.network.present)
    folder.write_plan(run.plan, kept, run.attributes, run.fixed_width)
    folder.write("model.pt2", pt2_bytes(run.exported))
    folder.write("model.safetensors", safetensors_bytes(named_tensors(run.cut)))
    if run.shipped is not None:
        write_artefact(folder, run.shipped)
    if run.ships.quantize != "none":
        folder.write_json("artefacts/corners.json", {"corners": corners(run)})
    gone = len(run.plan.removed)
    ending = Ending(run.history[0].measures, run.measures, run.test, run.reason, run.is_met, gone)
    folder.write_json("summary.json", ending)
    folder.seal()
    write_page([folder], folder.path / "report" / "index.html")


def corners(run: Facts) -> list[Corner]:
    """Return the manifests of four files: full and pruned, in float32 and in int8, each run by what runs it.

    Cost: makes two files more, and runs three.
    """
    trace, float_kind = run.network.trace, "executorch"
    corners_of = {"full": (None, trace.present()), "pruned": (run.cut, run.network.present)}
    found = []
    for quantize in ("none", run.ships.quantize):
        kind = float_kind if quantize == "none" else run.ships.kind
        ships = run.ships if quantize != "none" else Artefact(run.task, trace, kind, quantize)
        for name, (cut, present) in corners_of.items():
            made = run.artefact if ships is run.ships and cut is run.cut else None
            made = made or ships.ship(cut, ships.costs(present))[1]
            found.append(Corner(f"{name}, {'float32' if quantize == 'none' else quantize}", made))
    return found


def export(run: Facts, kind: object, out: str | Path | None, quantize: str, *, allow_float: bool) -> Manifest:
    """Write the smaller network as another program's file, with its manifest: see `Run.export`."""
    find_exporter(kind, quantize)
    ships = Artefact(run.task, run.network.trace, kind, quantize, allow_float)
    content, manifest = ships.ship(run.cut, ships.costs(run.network.present))
    if out is not None:
        path = Path(out)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        folder, manifest = RunFolder(path.parent), replace(manifest, file=path.name)
        folder.write(path.name, content)
        folder.write_json(f"{path.name}.json", manifest)
    elif run.folder is not None:
        with run.folder.held(), run.folder.changing():
            where = write_artefact(run.folder, Shipped(content, manifest))
        if manifest.kind not in exporter_names():
            log.warning("%s is of an exporter of your own: whoever verifies the run says `trust=True`.", where)
    else:
        raise BadInputError("out", "a file for a run that has no folder", "nothing", "Name it as 'net.pte'.")
    return manifest


def report(run: Facts, out: str | Path) -> Path:
    """Write the run, if it is not written yet, and its web page; return the page's path."""
    folder = run.folder or save(run, out)
    return write_page([folder], Path(out) / "index.html" if run.folder else folder.path / "report" / "index.html")


def framed(run: Facts) -> str:
    """Return the run's page in a frame, for a notebook."""
    with TemporaryDirectory() as beside:
        page = report(run, Path(beside) / "run").read_text(encoding="utf-8")
    return f'<iframe title="shrinknet" srcdoc="{escape(page)}" sandbox="allow-scripts" {FRAME}></iframe>'


def save(run: Facts, out: str | Path, *, resume: bool = False, **changed: object) -> RunFolder:
    """Write the run into a new folder and return it: see `Run.save`."""
    check_containers(run.task.example_inputs)
    folder = RunFolder.create(out, {**run.config.content, **changed}, resume=resume)
    with folder.held():
        write_start(folder, run.task, run.network.trace)
        folder.keep_history(run.history)
        write_end(folder, run)
    return folder
