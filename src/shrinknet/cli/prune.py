"""`shrinknet prune`: the main job."""

import hashlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from shrinknet.api import prune
from shrinknet.cli import console
from shrinknet.cli.options import (
    AccuracyName,
    Address,
    AllowFloat,
    BatchSize,
    Clip,
    Compensate,
    Compile,
    Confidence,
    CriterionName,
    DataPath,
    ExampleInput,
    Executor,
    Flash,
    Json,
    Keep,
    LossName,
    MacsBudget,
    MaxLatency,
    Memory,
    MinNeurons,
    Model,
    MultipleOf,
    Only,
    Out,
    Parameters,
    Price,
    Quantize,
    Ram,
    Remove,
    Screen,
    Seed,
    Tf32,
    Threads,
    To,
    TrustPickle,
    Weights,
    Workers,
    artefact_kind,
    make_goals,
    make_task,
)  # fmt: skip
from shrinknet.cli.words import said
from shrinknet.core.units import parse_fraction, parse_milliseconds
from shrinknet.report import summary
from shrinknet.run.run import Run
from shrinknet.search.guards import AccuracyDrop, ClassRecall, Guard, LossRise, WorstClassRecall
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import DEFAULT_BATCH_SIZE


def command(
    model: Model,
    data: DataPath,
    out: Out,
    weights: Weights = None,
    example_input: ExampleInput = None,
    loss: LossName = "cross-entropy",
    accuracy: AccuracyName = None,
    criterion: CriterionName = "ablation",
    method: Annotated[str, typer.Option(help="reranking, or single-ranking.")] = "reranking",
    step: Annotated[int, typer.Option(help="Neurons removed for each ranking.")] = 1,
    flash: Flash = None,
    ram: Ram = None,
    parameters: Parameters = None,
    macs: MacsBudget = None,
    remove: Remove = None,
    max_accuracy_drop: Annotated[str | None, typer.Option(help="Guard, such as 1%.")] = None,
    max_loss_rise: Annotated[float | None, typer.Option(help="Guard, in the loss's unit.")] = None,
    max_recall_drop: Annotated[str | None, typer.Option(help="Guard on the worst class's recall, such as 5%.")] = None,
    min_class_recall: Annotated[
        str | None, typer.Option(help="Guard: every class's recall stays above, as 70%.")
    ] = None,
    to: To = None,
    quantize: Quantize = "none",
    allow_float: AllowFloat = False,
    price: Price = "neuron",
    compensate: Compensate = "none",
    max_latency: MaxLatency = None,
    clip: Clip = "none",
    keep: Keep = None,
    only: Only = None,
    multiple_of: MultipleOf = 1,
    min_neurons: MinNeurons = 1,
    whole_curve: Annotated[bool, typer.Option("--whole-curve", help="Go on to the end for the whole curve.")] = False,
    memory: Memory = "2GiB",
    confidence: Confidence = None,
    screen: Screen = None,
    compile: Compile = False,
    tf32: Tf32 = False,
    executor: Executor = "serial",
    workers: Workers = None,
    threads: Threads = 1,
    address: Address = None,
    seed: Seed = 0,
    batch_size: BatchSize = DEFAULT_BATCH_SIZE,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    trust_pickle: TrustPickle = False,
    json: Json = False,
) -> None:
    """Remove neurons until every goal is reached, cut once, prove the cut, write the run and its page.

    Without a goal the run goes on until one neuron of each group is left. Exit status 1: a goal or guard could not
    be met; the nearest model is written.
    """
    goals = make_goals(flash, ram, parameters, macs, remove)
    latency = None if max_latency is None else parse_milliseconds("--max-latency", max_latency)
    guards = _guards(max_accuracy_drop, max_loss_rise, max_recall_drop, min_class_recall)
    task = make_task(model, weights, example_input, data, loss, seed, batch_size, trust_pickle, accuracy)
    sources: dict[str, Any] = {
        "model": source_of(model), "weights": source_of(weights), "data": source_of(data), "loss": loss,
        "model_sha256": _hash(model), "weights_sha256": _hash(weights), "data_sha256": _hash(data),
    }  # fmt: skip
    if accuracy is not None:
        sources["accuracy"] = accuracy
    scoring = Scoring(memory, confidence, screen, compile, tf32, executor, workers, threads, address)
    with console.resumable(out), console.Bar("pruning") as bar:
        run = prune(
            task, criterion, method, goals, guards, step=step, clip=clip, keep=keep or (), only=only or (),
            multiple_of=multiple_of, min_neurons=min_neurons, whole_curve=whole_curve,
            artefact=artefact_kind(to, ram, quantize), quantize=quantize, allow_float=allow_float, price=price,
            compensate=compensate,
            max_latency=latency, seed=seed, scoring=scoring, out=out, resume=resume, config=sources, progress=bar,
        )  # fmt: skip
    finish(run, out, json)


def finish(run: Run, out: Path, as_json: bool) -> None:
    """Print a run's result, and leave with exit status 1 where a goal could not be met."""
    if as_json:
        console.print_json({
            "out": str(out), "reason": said(run.reason), "is_met": run.is_met,
            "rows": [dict(zip(("what", "before", "after"), row, strict=True))
                     for row in run.rows()],
            "proof": summary.proof_line(run.verification),
            "artefact": None if run.artefact is None else asdict(run.artefact),
        })  # fmt: skip
    else:
        console.table("", ("", "before", "after"), run.rows())
        for line in summary.coupled_line(run.options):
            console.out.print(line)
        console.out.print(summary.proof_line(run.verification))
        if run.artefact is not None:
            console.out.print(summary.shipped_line(asdict(run.artefact)))
    if run.folder is not None and (line := summary.race_line(run.folder.races())):
        console.talk.print(line)
    console.talk.print(f"Run: {out} (page: {out / 'report' / 'index.html'})")
    if run.is_met:
        console.talk.print(said(run.last_line()))
    else:
        console.talk.print(said(f"Not met; the nearest model is {out / 'model.pt2'}. {run.last_line()}"))
        sys.exit(1)


def _guards(
    accuracy_drop: str | None, loss_rise: float | None, recall_drop: str | None, class_recall: str | None
) -> list[Guard]:
    guards: list[Guard] = []
    if accuracy_drop is not None:
        guards.append(AccuracyDrop(parse_fraction("--max-accuracy-drop", accuracy_drop)))
    if loss_rise is not None:
        guards.append(LossRise(loss_rise))
    if recall_drop is not None:
        guards.append(WorstClassRecall(parse_fraction("--max-recall-drop", recall_drop)))
    if class_recall is not None:
        guards.append(ClassRecall(parse_fraction("--min-class-recall", class_recall)))
    return guards


def source_of(path: str | None) -> str | None:
    """A file's whole path, so that the run can be verified from anywhere; an import path as it is."""
    return str(Path(path).resolve()) if path is not None and Path(path).is_file() else path


def _hash(path: str | None) -> str | None:
    if path is None or not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
