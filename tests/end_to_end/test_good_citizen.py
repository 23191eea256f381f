"""What a program that imports shrinknet meets: nothing of its own is changed, errors travel, threads work, words are few."""

import asyncio
import copy
import json
import logging
import multiprocessing
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.core import errors
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.task.scoring import Scoring

STATE = """
import json, logging, os, random, sys, warnings
import matplotlib, numpy, torch
import matplotlib.figure, scipy.cluster.hierarchy, scipy.stats, torch._dynamo, torch.export, torch.fx

matplotlib.use("svg")

def state():
    loggers = [one for name, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)]
    return {
        "backend": matplotlib.get_backend(), "pyplot": "matplotlib.pyplot" in sys.modules,
        "filters": [str(one) for one in warnings.filters], "show": str(warnings.showwarning),
        "levels": {one.name: (one.level, len(one.handlers)) for one in loggers 
                   if "shrinknet" not in one.name and one.name != "torch.__trace"},  # torch's own takes its handler off
        "root": (logging.root.level, len(logging.root.handlers), logging.root.manager.disable),
        "ours": (logging.getLogger("shrinknet").level, len(logging.getLogger("shrinknet").handlers)),
        "path": list(sys.path), "hook": str(sys.excepthook), "environ": dict(os.environ),
        "random": str(random.getstate()), "numpy": str(numpy.random.get_state()), "printed": str(numpy.get_printoptions()),
        "torch": torch.get_rng_state().tolist(), "dtype": str(torch.get_default_dtype()), "grad": torch.is_grad_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "fx": torch.fx.config.do_not_emit_stack_traces,
    }

before = state()
import shrinknet as sn
imported = state()
model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
rows = torch.randn(40, 4), torch.arange(40) % 3
before["torch"] = imported_torch = torch.get_rng_state().tolist()
run = sn.prune(sn.Task(model, "cross-entropy", rows, rows), goals=[sn.RemovedNeurons(2)])
run._repr_html_()
used = state()
told = {name for name in used["levels"] if name not in before["levels"]}
used["levels"] = {name: level for name, level in used["levels"].items() if name not in told}
imported["levels"] = {name: level for name, level in imported["levels"].items() if name in before["levels"]}
imported["torch"] = imported_torch
print(json.dumps([[name for name in before if before[name] != after[name]] for after in (imported, used)]))
"""


def test_importing_and_using_it_changes_nothing_of_the_process() -> None:
    """Whatever its own requirements do on import is done before: that is theirs."""
    done = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[], []], "by importing, by using"


EVERY_ERROR = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.ShrinknetError)]


def made(kind: type[Exception]) -> Exception:
    four = ("step", "a whole number", 0, "Leave it out.")
    return kind(*four) if kind is sn.BadInputError else kind("a sentence. Got another.")


def raised(kind: type[Exception]) -> None:
    raise made(kind)


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_errors_are_pickled_and_copied(kind: type[Exception]) -> None:
    error = made(kind)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is kind
        assert str(other) == str(error)
        assert vars(other) == vars(error)


def test_the_four_parts_of_an_error_can_be_read() -> None:
    error = sn.BadInputError("step", "a whole number", lambda: 0, "Leave it out.")  # what came need not be picklable
    again = pickle.loads(pickle.dumps(error))
    assert (again.argument, again.allowed, again.do) == ("step", "a whole number", "Leave it out.")
    assert "lambda" in again.got
    assert str(again) == str(error)


def test_errors_come_back_from_other_processes_as_themselves() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        for kind in (sn.BadInputError, sn.VerificationError):
            with pytest.raises(kind, match="^" + str(made(kind)).replace(".", r"\.")):
                pool.submit(raised, kind).result()


ROWS = torch.randn(60, 16, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4


def networks() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 4)),
        nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4)),
        nn.Sequential(nn.Linear(16, 8), nn.Dropout(), nn.Tanh(), nn.Linear(8, 4)),
        nn.Sequential(nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4)),
    ]


def in_threads(jobs) -> list:
    found = [None] * len(jobs)

    def work(place: int) -> None:
        try:
            found[place] = jobs[place]()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_that_rank_and_prune_do_not_disturb_one_another() -> None:
    filters, level = list(warnings.filters), logging.getLogger("torch.export").level

    def ranking(model: nn.Module):
        return dict(sn.rank(sn.Task(model, "cross-entropy", ROWS)))

    alone = [ranking(model) for model in networks()]
    together = in_threads([lambda model=model: ranking(model) for model in networks()])
    for one, other in zip(alone, together, strict=True):
        assert isinstance(other, dict), other
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6)
    assert list(warnings.filters) == filters
    assert logging.getLogger("torch.export").level == level

    def pruned(model: nn.Module, kind: str):
        run = sn.prune(sn.Task(model, "cross-entropy", ROWS), goals=[sn.RemovedNeurons(2)], compensate=kind)
        return run.plan.removed

    kinds = ("none", "none", "least-squares", "mean")
    pairs = list(zip(networks(), kinds, strict=True))
    assert in_threads([lambda m=m, k=k: pruned(m, k) for m, k in pairs]) == [pruned(m, k) for m, k in pairs]


def test_threads_may_share_a_task_and_its_network_comes_back_as_it_was() -> None:
    model = networks()[2].train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    task = sn.Task(model, "cross-entropy", ROWS)
    names = ("ablation", "taylor-1", "magnitude", "ablation")
    found = in_threads([lambda name=name: dict(sn.rank(task, name)) for name in names])
    for name, scores in zip(names, found, strict=True):
        assert isinstance(scores, dict), scores
        assert scores == pytest.approx(dict(sn.rank(task, name)), rel=1e-4, abs=1e-6)
    assert [module.training for module in model.modules()] == modes


def test_a_thread_that_rounds_products_otherwise_waits_its_turn() -> None:
    def flags() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before, seen = flags(), []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with Scoring(tf32=True).arithmetic():
            inside.set()
            leave.wait(10)
            seen.append(flags())

    def alike() -> None:
        with Scoring(tf32=True).arithmetic():
            seen.append(flags())

    def otherwise() -> None:
        with Scoring(tf32=False).arithmetic():
            seen.append(flags())

    threads = [threading.Thread(target=one) for one in (first, alike, otherwise)]
    threads[0].start()
    assert inside.wait(10)
    threads[2].start()
    threads[1].start()
    threads[1].join(10)
    assert seen == [(True, True)], "who wants the same need not wait"
    leave.set()
    for thread in threads:
        thread.join(10)
    assert seen[1:] == [(True, True), (False, False)]
    assert flags() == before


def test_what_it_gives_back_is_said_in_a_few_words() -> None:
    model = nn.Sequential(nn.Linear(16, 300), nn.ReLU(), nn.Linear(300, 4))
    task = sn.Task(model, "cross-entropy", ROWS, ROWS)
    run = sn.prune(task, "magnitude", "single-ranking", [sn.RemovedNeurons(200)], step=200)
    network = gated(task)
    scores = find_criterion("magnitude").score(network, task.calibration)
    for one in (run, task, network, network.trace, network.groups, scores, run.plan, run.history[0]):
        assert len(repr(one)) < 500, repr(one)[:200]
    assert repr(run).startswith("<Run: 300 -> 100 neurons, ")
    assert repr(task) == "<Task: Sequential by cross-entropy, 60 calibration rows, 60 validation rows>"
    assert repr(run.plan) == "<Plan: 200 neurons go, 99 would follow>"
    assert repr(scores) == "<Scores in weight norm: 300 in '0'>"


def test_a_notebook_whose_event_loop_runs_may_use_it() -> None:
    async def cell() -> sn.Run:
        run = sn.prune(sn.Task(networks()[0], "cross-entropy", ROWS), goals=[sn.RemovedNeurons(2)])
        assert run._repr_html_().startswith("<iframe")
        return run

    assert asyncio.run(cell()).is_met
