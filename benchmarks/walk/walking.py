"""One kind of task walked from its training loop to its files, and what came of it."""

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from kinds import Kind

import shrinknet as sn
from shrinknet.core.errors import first_line
from shrinknet.task.trees import called, same


@dataclass(frozen=True)
class Came:
    """What came of one kind: in words where something failed."""

    name: str
    num_lines: int
    num_removed: int
    share: float
    proven: str
    own_class: str
    onnx: str
    reload: str


def walk(kind: Kind, *, with_onnx: bool = True) -> Came:
    """Prune 30 % of the neurons by one ranking of taylor-1; ask for the class, an ONNX file, and the run again."""
    torch.manual_seed(0)
    model, batch, loss = kind.make()
    task = sn.Task(model.eval(), loss, batch, **kind.options)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = sn.prune(
            task, "taylor-1", "single-ranking", [sn.RemovedFraction(0.3)], step=10**6, out=f"{folder}/run",
            **kind.search,
        )  # fmt: skip
        costs = run.history[0].measures.costs
        return Came(
            kind.name,
            kind.num_lines,
            len(run.plan.removed),
            1 - run.measures.costs.num_parameters / costs.num_parameters,
            said(lambda: run.verification.raise_if_broken()),
            said(lambda: _comes_back(run, model)),
            said(lambda: run.export("onnx", Path(folder) / "net.onnx")) if with_onnx else "",
            said(lambda: _opens(run, f"{folder}/run", model, batch, loss)),
        )


def said(what) -> str:
    """Yes, or the first line of what was said instead."""
    try:
        what()
    except Exception as error:  # whatever it is, it belongs into the table
        return f"no ({type(error).__name__}: {first_line(error)})"
    return "yes"


def _comes_back(run, model) -> None:
    if type(run.model) is not type(model):
        raise TypeError(type(run.model).__name__)


def _opens(run, folder, model, batch, loss) -> None:
    again = sn.load(folder, model=model, data=[batch], loss=loss)
    inputs = run.task.example_inputs
    with torch.no_grad():
        if not same(called(again.model, inputs), called(run.model, inputs)):
            raise ValueError("other outputs")
