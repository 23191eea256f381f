"""One run's search: everything that was asked for is checked, then made ready, then the steps begin."""

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from shrinknet.compensation.readers import not_refit
from shrinknet.core.config import RunConfig
from shrinknet.core.errors import BadInputError, NothingToRemoveError
from shrinknet.core.folder import RunFolder
from shrinknet.core.quantities import ACCURACY
from shrinknet.core.records import Step, Tie
from shrinknet.core.units import some_of
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.memory import in_memory
from shrinknet.export.artefact import Artefact
from shrinknet.graph.configs import has_config
from shrinknet.graph.operators import describe
from shrinknet.graph.ties import ties_of
from shrinknet.measure.costs import CostsOf
from shrinknet.recovery.augment import check_augmentations
from shrinknet.run.allowed import check_loss, check_network
from shrinknet.run.choosing import Scorers, choosing, differentiated_twice, remembered
from shrinknet.run.effort import Effort, began_with, effort_asked, effort_of
from shrinknet.run.options import Pruning
from shrinknet.run.own_class import foretell
from shrinknet.run.run import Run
from shrinknet.run.searching import Search
from shrinknet.run.together import compensation_for
from shrinknet.run.written import check_containers, under_way, with_threads_of, write_start
from shrinknet.search.goals import limits_of
from shrinknet.search.guards import check_ways
from shrinknet.search.price import Price, by_neuron, by_units
from shrinknet.search.rank import Limits
from shrinknet.search.schedule import reaching, to_go
from shrinknet.search.steps import check_reachable, first_step
from shrinknet.search.typed import check_asked
from shrinknet.task.task import Task

log = logging.getLogger(__name__)

MOST_STEPS = 1000
"""Where nobody says how many neurons go at each step, a run measures the network about so often at most."""


def search(task: Task, options: Pruning) -> Run:
    """Prune a task's network as the options say (see `shrinknet.prune`)."""
    scoring, goals = options.how, options.goals
    effort_asked(options)
    check_augmentations(options.augmentations, task.example_inputs)
    check_loss(task, options.rule, scoring, options.compensate)
    network = gated(task, options.keep, options.only, scoring)
    task = in_memory(task, network, differentiated_twice(options.rule, scoring, network))
    is_open = options.compensate == "auto"
    options = _compensated(options, network, len(task.calibration))
    limits = replace(options.limits, ties=_ties(network, task, options))
    _check_polish(task, options, limits)
    foretell(task, network, limits)
    ships = Artefact(task, network.trace, options.kind, options.quantize, options.allow_float)
    ships.check(goals, options.max_latency)
    with scoring.arithmetic(), with_threads_of(options.out if options.resume else None):
        check_network(task, options.rule, network)
        start = first_step(task, network, ships.costs)
    _check_asked(task, network, options, limits, start, ships)
    freed = None if options.price == "neuron" else ships.freed(options.price, limits_of(goals, start.measures))
    price = by_neuron if freed is None else by_units(freed)
    try:
        effort, facts, step = _effort(task, network, options, limits, start, ships.costs, price)
    except BadInputError as error:
        if error.argument != "effort" or not is_open or not options.refits:
            raise
        options = options.without_compensation("the effort does not pay for a refit")
        effort, facts, step = _effort(task, network, options, limits, start, ships.costs, price)
    options = replace(options, step=step)
    config = options.written(task, limits.ties, facts)
    if options.out is not None:
        check_containers(task.example_inputs)
    folder = None if options.out is None else RunFolder.create(options.out, config.content, resume=options.resume)
    with under_way(folder), ExitStack() as workers:
        if folder is not None:
            write_start(folder, task, network.trace)
        compensation = compensation_for(config, task, network)
        if options.refits and (left := not_refit(network.program)):
            log.info("Not refit, whatever goes before them: %s.", some_of(list(dict.fromkeys(map(describe, left)))))
        scorers = Scorers(task, options, None if folder is None else folder.path / "shards", workers)
        choose = choosing(network, options, limits, scorers, compensation, effort, price)
        return Search(
            task=task,
            network=network,
            options=options,
            choose=remembered(choose),
            choose_anew=choose,
            effort=effort,
            limits=limits,
            start=start,
            price=price,
            ships=ships,
            compensation=compensation,
            folder=folder,
        ).run(config)


def _check_asked(
    task: Task, network: GatedNetwork, options: Pruning, limits: Limits, start: Step, ships: Artefact
) -> None:
    """Raise BadInputError for goals and guards that this network does not know, or cannot reach."""
    check_ways(options.guards, {one.name: one.quality for one in task.metrics} | {ACCURACY.name: ACCURACY})
    check_asked("goals", options.goals, lambda goal: goal.progress(start.measures, start.measures))
    check_asked("guards", options.guards, lambda guard: guard.check(start.measures))
    check_asked("guards", options.guards, lambda guard: guard.broken(start.measures, start.measures))
    if not options.whole_curve:
        check_reachable(options.goals, start.measures, network, limits, ships.costs, ships.least, ships.held_by)


def _check_polish(task: Task, options: Pruning, limits: Limits) -> None:
    """Raise BadInputError where exchanges cannot be judged, or made one neuron at a time."""
    if options.polish:
        task.loss.needs_each_sample("polish")
        if limits.in_blocks:
            tied = ", ".join(by for tie in limits.ties for by in tie.by)
            given = f"`multiple_of={limits.multiple_of}`" if limits.multiple_of > 1 else f"{tied} tied"
            do = "Leave `polish` out, or say `multiple_of=1` and `tie='none'`."
            raise BadInputError("polish", "left out where neurons go in blocks", given, do)


def _compensated(options: Pruning, network: GatedNetwork, num_samples: int) -> Pruning:
    """The options with what makes up for what is gone; a run that goes on has what it began with."""
    if options.compensate == "auto" and (began := began_with(options)) is not None:
        return replace(options, compensate=RunConfig.of(began).search.compensate)
    return options.with_compensation(network, num_samples)


def _effort(
    task: Task, network: GatedNetwork, options: Pruning, limits: Limits, start: Step, costs_of: CostsOf, price: Price
) -> tuple[Effort | None, dict[str, object], int | None]:
    """How the effort is spent, what is written of that, and how many neurons go at each step where that is said."""
    if options.step is not None:
        return None, {}, options.step
    aims = () if options.whole_curve else options.goals
    reaches = reaching(start, aims, costs_of)
    num_to_go = to_go(network, limits, reaches)
    step = _neurons_a_step(network, options)
    with options.how.arithmetic():
        effort, facts = effort_of(
            task,
            network,
            options,
            num_to_go,
            step,
            start,
            lambda: (to_go(network, limits, reaches), price(network, limits)),
        )
    if effort is not None:
        return effort, facts, None
    if step > 1:
        log.info("%d neurons go at each step, as there are %d: `step=1` takes one.", step, network.trace.num_neurons)
    return None, facts, step


def _ties(network: GatedNetwork, task: Task, options: Pruning) -> tuple[Tie, ...]:
    """Return which groups shrink together so that the model's own class can hold what is left.

    Raises:
        BadInputError: it has no config to tie by. NothingToRemoveError: no group can shrink then.
    """
    of_config = options.tie == "config"
    if of_config and not has_config(task.model):
        allowed, got = "'config' for a network of transformers'", f"'config' for a {type(task.model).__name__}"
        raise BadInputError("tie", allowed, got, "Leave it out: widths that its class says once are tied.")
    ties = () if options.tie == "none" else ties_of(network.trace, task.model, of_config=of_config)
    fixed = {name for tie in ties if tie.is_fixed for name in tie.groups}
    if not fixed:
        return ties
    names = " and ".join(by for tie in ties if tie.is_fixed for by in tie.by)
    stay = f"their width is also that of others that never go ({names})"
    if len(fixed) == len(network.groups):
        raise NothingToRemoveError(
            f"model must be a network with neurons that can be removed. Got one where no group can shrink: {stay}. "
            "Say `tie='none'`: the exported form, not the class, can hold what is left."
        )
    log.warning("%s stay whole: %s. `tie='none'` lets them go, without the class.", ", ".join(sorted(fixed)), stay)
    return ties


def _neurons_a_step(network: GatedNetwork, options: Pruning) -> int:
    """Of how many neurons the exact search measures once: one, unless there are so many that it would take too long."""
    if options.resume and options.out is not None and (Path(options.out) / "config.json").is_file():
        return RunConfig.of(RunFolder(Path(options.out)).config).search.step or 1  # as the run began
    return -(-network.trace.num_neurons // MOST_STEPS)
