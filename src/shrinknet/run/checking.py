"""The files of a run, looked at again: what they compute, beside the masked network."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Difference, Manifest
from shrinknet.export.artefact import Artefact
from shrinknet.loading.models import fill, load_model
from shrinknet.run.run import Run
from shrinknet.surgery.proof import compare, cut_program
from shrinknet.surgery.remove import cut_graph
from shrinknet.task.trees import called


def check_files(run: Run) -> dict[str, Difference]:
    """Compare the masked network with the files in the run folder, by name.

    `model.pt2` is run as it is; `model.safetensors` fills the cut graph, rebuilt from the plan. Artefacts must be
    the files that their manifests describe; those in float32 are run by their own runtimes beside the masked
    network, those in int8 beside the network quantized anew (other data than the run's own give other ranges).

    Raises:
        BadInputError: a file is missing, damaged or unsafe to open, or the weights do not fit the plan.
    """
    assert run.folder is not None
    exported = load_model(str(run.folder.path / "model.pt2")).model
    rebuilt = cut_graph(run.network.trace, run.network.present)
    fill(rebuilt, run.folder.path / "model.safetensors")
    data = run.task.test or run.task.validation or run.task.calibration
    answers: dict[str, Callable[[Any], Any]] = {
        "model.pt2": lambda inputs: called(exported, inputs),
        "model.safetensors": cut_program(run.network.trace, rebuilt, None).outputs,
    }
    found = {
        name: compare(run.network, answer, (batch.inputs for batch in data.batches()))[0]
        for name, answer in answers.items()
    }
    return found | {f"artefacts/{one.file}": _check_artefact(run, one) for one in run.folder.manifests()}


def _check_artefact(run: Run, manifest: Manifest) -> Difference:
    assert run.folder is not None
    name = f"artefacts/{Path(manifest.file).name}"
    path = run.folder.path / name
    content = path.read_bytes() if path.is_file() else b""
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        came = f"another (SHA-256 {digest[:12]}...)" if content else "nothing"
        raise BadInputError(name, "the file that its manifest describes", came, "Export it again.")
    ships = Artefact(run.task, run.network.trace, manifest.kind, manifest.quantize, True, run.ships.find)
    if manifest.quantize != "none":
        return ships.checked_again(content, run.cut)
    answer, rows = ships.exporter.opened(content, path), ships.rows_to_check()
    return compare(run.network, answer, (batch.inputs for batch in rows.batches()))[0]
