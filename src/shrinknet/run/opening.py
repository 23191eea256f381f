"""Open a finished run again: `shrinknet.load`, and the verbs that take a run folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shrinknet.core.config import WEIGHTS, RunConfig, SearchOptions
from shrinknet.core.errors import BadInputError, RunFolderError
from shrinknet.core.folder import RunFolder, whole
from shrinknet.core.named import is_import_path
from shrinknet.core.records import removed_by
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.export.artefact import Artefact
from shrinknet.export.base import BY_NAME as EXPORTERS
from shrinknet.export.base import Exporter, Find, exporter_names, find_exporter
from shrinknet.graph.trace import named_tensors
from shrinknet.loading.data import ROLES, load_data
from shrinknet.loading.models import fill, load_model
from shrinknet.recovery.augment import BY_NAME as AUGMENTATIONS
from shrinknet.recovery.augment import Augmentation
from shrinknet.recovery.descent import smaller, spread
from shrinknet.run.facts import Shipped, finish
from shrinknet.run.family import portions_of
from shrinknet.run.remade import remade, trusted
from shrinknet.run.run import Run
from shrinknet.run.together import compensation_for
from shrinknet.run.written import with_threads_of
from shrinknet.search.steps import measure
from shrinknet.surgery.remove import kept_indices
from shrinknet.task.accuracy import ASKED, Judge, nobody_says
from shrinknet.task.data import Source
from shrinknet.task.losses import BY_NAME
from shrinknet.task.measured import BY_NAME as METRICS
from shrinknet.task.measured import Given, find_metric
from shrinknet.task.task import Task

Roles = Mapping[str, Source] | Sequence[Source]


def load(
    folder: str | Path,
    *,
    model: nn.Module | str | None = None,
    data: str | Path | Roles | None = None,
    loss: str | Callable[[Tensor, Tensor], Tensor] | None = None,
    accuracy: str | Judge | None = None,
    metrics: Given | None = None,
    artefact: object = None,
    trust: bool = False,
) -> Run:
    """Return the finished run in a folder: its model, its plan, its history, its whole family. Nothing is scored.

    A folder is data: nothing that it names as `package.module:name` is imported unless you name it again here, or say
    that you trust it.

    Args:
        folder: what `prune(out=...)` or `shrinknet prune --out` wrote.
        model: the network that the run began with, or `package.module:factory`, which is given its weights:
            `run.model` is then of your own class. Where it is left out, the exported network in the folder stands in
            for it, unless the folder is trusted and its class can be made by its name.
        data: an .npz file, `package.module:factory`, or the roles themselves: {"calibration": (inputs, targets), ...},
            or in that order. Where left out, the file that the run was made with.
        loss: where the run was made with a loss of your own.
        accuracy: where the run was made with an accuracy of your own.
        metrics: where the run was made with metrics of your own; those that are not named are not measured again.
        artefact: where files were made by an exporter of your own: it, its class or its import path. It is wanted when
            it is used, to verify its file or to make another.
        trust: import the model's class or factory, data, loss, accuracy, metrics and exporter that the folder names.

    Raises:
        RunFolderError: there is no finished run, its files do not belong together, or the network is another one.
        BadInputError: data or loss have to be named.

    Cost: one trace of the network, and the proof again.

    >>> import tempfile, torch
    >>> from shrinknet.api import prune
    >>> from shrinknet.search.goals import RemovedNeurons
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> rows = torch.randn(20, 4), torch.arange(20) % 2
    >>> where = tempfile.mkdtemp()
    >>> run = prune(Task(model, "cross-entropy", rows), "magnitude", goals=[RemovedNeurons(5)], out=where)
    >>> load(where, model=model, data=[rows]).model[0].out_features
    3
    """
    opened = RunFolder.open(folder)
    with whole(opened):
        config = opened.config
        _check_is_pruning(config)
        roles = _roles(data, config, trust)
        judged_by = _loss(loss, config, trust)
        accuracy = _accuracy(accuracy, config, trust)
        measured = _metrics(config, trust) if metrics is None else metrics
        network = _original(opened, model, trust)
    with with_threads_of(opened.path):
        sources = (roles["calibration"], roles.get("validation"), roles.get("test"))
        more = {"output": config.get("output"), "free": config.get("free")}
        task = Task(network, judged_by, *sources, _batch_size(config), accuracy, measured, **more)
        with whole(opened):
            return reopened(opened, task, finding(artefact, trust=trust), trust=trust)


def _check_is_pruning(config: Mapping[str, Any]) -> None:
    if config.get("verb") == "sparsify":
        do = "Name its folder 'smaller', if whole neurons went."
        raise BadInputError("folder", "a run of 'shrinknet prune'", "one of 'shrinknet sparsify'", do)


def _original(opened: RunFolder, model: nn.Module | str | None, trust: bool) -> nn.Module:
    """The network that the run began with: the user's own, where it is given or trusted, with the same weights."""
    stored = load_model(str(opened.path / "original.pt2")).model
    own = remade(model, stored) if isinstance(model, str) else model
    if own is None and trust:
        own = trusted(opened.architecture(), opened.config.get("model"), stored)
    if own is None:
        return stored
    _check_same_weights(opened, stored, own)
    return own


def reopened(folder: RunFolder, task: Task, find: Find = find_exporter, *, trust: bool = False) -> Run:
    """Return the run in a folder, given its original network and data again. Nothing is scored.

    `find` finds its exporters; `trust` lets augmentations of one's own be imported.

    Raises:
        RunFolderError: the network is not the one that the run began with, or the run is not finished.
    """
    config = RunConfig.of(folder.config)
    asked = config.search
    network = gated(task, asked.keep, asked.only)
    if network.groups != folder.groups():
        raise RunFolderError(
            f"folder must come with the network that it began with. Got one with other groups than "
            f"{str(folder.path)!r}. Use the run's own original.pt2."
        )
    history, plan, end = tuple(folder.history()), folder.plan(), folder.ending()
    if not history:
        raise RunFolderError(
            f"folder must have a history. Got {str(folder.path)!r}, which has none. Make the run again."
        )
    ships = Artefact(task, network.trace, asked.kind, asked.quantize, asked.allow_float, find)
    if config.moves_all_weights:
        bare = network.without(plan.removed)
        masked = bare.refit(as_cut(bare, folder.path / "model.safetensors"))
    else:
        masked = compensation_for(config, task, network).after(portions_of(history, plan.removed))
    measures = measure(task, masked, lambda present: end.after.costs)
    run = finish(Run, task, masked, history, plan, measures, end.reason, end.is_met, config, ships, ship=False)
    _check_belongs(folder, run)
    unfit = folder.read_json("plan.json").get("fixed_width")
    augmentations = _augmentations(asked, trust=trust)
    return replace(run, folder=folder, unfit=unfit, shipped=_shipped(folder, ships.name), augmentations=augmentations)


def as_cut(network: GatedNetwork, file: Path) -> dict[str, Tensor]:
    """Return a masked network's tensors with the weights of the smaller one that was written in their places."""
    cut = smaller(network)
    fill(cut, file)
    return spread(network, {name: tensor.detach() for name, tensor in named_tensors(cut).items()})


def _augmentations(asked: SearchOptions, *, trust: bool) -> tuple[Augmentation, ...] | None:
    """What a joint refit makes of inputs; None where some are code that nobody trusts."""
    names = list(map(str, asked.augment))
    return tuple(map(AUGMENTATIONS.find, names)) if trust or not any(map(is_import_path, names)) else None


def _shipped(folder: RunFolder, kind: str) -> Shipped | None:
    """The artefact that the run was made for; None where that is the weights file."""
    manifest = folder.manifest()
    if manifest is None or kind == WEIGHTS:
        return None
    return Shipped((folder.path / "artefacts" / Path(manifest.file).name).read_bytes(), manifest)


def _check_belongs(folder: RunFolder, run: Run) -> None:
    """What stands in a folder twice must say the same: the order of the removals, and what is kept of each tensor."""
    plan, trace = run.plan, run.network.trace
    order = zip(removed_by(run.history), plan.removed + plan.remaining, strict=False)
    said, kept = folder.read_json("plan.json"), kept_indices(trace, run.network.present)
    axes = {name: {str(axis): list(places) for axis, places in cut.items()} for name, cut in kept.items()}
    different = [
        *(["an order that history.csv does not have"] if any(one != other for one, other in order) else []),
        *(["kept indices that are not those of its order"] if said["kept"] != axes else []),
    ]
    if different:
        raise RunFolderError(
            f"plan.json must say what the rest of the run folder says. Got {different[0]} in {str(folder.path)!r}. "
            f"Make the run again, in another folder."
        )


def _check_same_weights(folder: RunFolder, stored: nn.Module, model: nn.Module) -> None:
    """Parameters, and what norms remember, are those of the folder; constants of a forward have names of their own."""
    given, parameters = named_tensors(model), dict(stored.named_parameters(remove_duplicate=False))
    for name, tensor in named_tensors(stored).items():
        if name not in given and name not in parameters:
            continue
        if name not in given or not torch.equal(given[name].detach().cpu(), tensor.detach().cpu()):
            raise RunFolderError(
                f"model must be the network that the run began with. Got one with other weights in {name!r} than "
                f"{str(folder.path)!r} has. Load the weights that were pruned."
            )


def _batch_size(config: Mapping[str, Any]) -> int:
    size = config["batch_size"]
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"batch_size is {size!r}")
    return size


def _roles(data: str | Path | Roles | None, config: Mapping[str, Any], trust: bool) -> dict[str, Any]:
    if isinstance(data, Mapping):
        roles = dict(data)
    elif data is not None and not isinstance(data, str | Path):
        roles = dict(zip(ROLES, data, strict=False))
    else:
        return dict(load_data(_named("data", None if data is None else str(data), config, trust), int(config["seed"])))
    if roles.get("calibration") is None:
        allowed = "a mapping or sequence of roles, the first one 'calibration'"
        raise BadInputError("data", allowed, repr(list(roles)), "Give {'calibration': (inputs, targets), ...}.")
    return roles


def _named(what: str, given: str | None, config: Mapping[str, Any], trust: bool) -> str:
    """What was named here; else what the folder names, unless it would have to be imported."""
    if given is not None:
        return given
    said = config.get(what)
    if said is None:
        raise BadInputError(what, "given for a run that was made in Python", "nothing", "Name it.")
    if is_import_path(str(said)) and not trust:
        got = f"{said!r} in the folder"
        do = "If that is your own, name it here once more, or say `trust=True`."
        raise BadInputError(what, "named again where it is code: nothing that a run folder names is imported", got, do)
    return str(said)


def finding(own: object, *, trust: bool) -> Find:
    """Return what finds a run's exporters: none of somebody's own is imported because a folder says so."""

    def find(kind: Any, quantize: str) -> Exporter:
        if own is not None and kind in (EXPORTERS.text_of(own), find_exporter(own).name):
            return find_exporter(own, quantize)
        if kind not in exporter_names() and not (trust and is_import_path(kind)):
            or_trust = ", or say `trust=True`" if is_import_path(kind) else ""
            allowed = "named again where it is code: nothing that a run folder names is imported"
            do = f"If that exporter is your own, give it here once more{or_trust}."
            raise BadInputError("artefact", allowed, f"{kind!r} in the folder", do)
        return find_exporter(kind, quantize)

    return find


def _loss(loss: Any, config: Mapping[str, Any], trust: bool) -> Any:
    if callable(loss):
        return loss
    name = _named("loss", loss, config, trust)
    if loss is None and name not in BY_NAME.names() and not is_import_path(name):
        do = "Say `loss`, as package.module:function; in Python the function itself will do."
        raise BadInputError("loss", "given for a run with a loss of its own", f"{name!r} in the folder", do)
    return name


def _accuracy(accuracy: Any, config: Mapping[str, Any], trust: bool) -> Any:
    if accuracy is None and "accuracy" in config:
        said = str(config["accuracy"])
        if not (is_import_path(said) and trust):
            return ASKED.get(said, nobody_says)
        accuracy = said
    return accuracy


def _metrics(config: Mapping[str, Any], trust: bool) -> dict[str, object]:
    """The run's metrics that can be found again, under the names that they had there."""
    said = {str(one["name"]): str(one["spec"]) for one in config.get("metrics", ())}
    found = {name: spec for name, spec in said.items() if spec in METRICS.names() or (is_import_path(spec) and trust)}
    return {name: find_metric(spec) for name, spec in found.items()}
