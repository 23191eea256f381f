"""How many samples go through the network at once: as many as the memory that scoring may use allows."""

import logging
from collections.abc import Iterable

from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Group
from shrinknet.engine.checkpoints import least_bytes_for_slopes
from shrinknet.engine.derivatives import bytes_for_curvature
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.replay import chunks_text, samples_at_once
from shrinknet.engine.route import route
from shrinknet.task.scoring import SHARE_OF_ONE_PASS
from shrinknet.task.task import Task

log = logging.getLogger(__name__)


SHARE_OF_GRAPHS = 2
"""Graphs of second derivatives take at most this part of the memory."""


def in_memory(task: Task, network: GatedNetwork, twice: Iterable[Group] = ()) -> Task:
    """Return the same task in batches small enough that what a batch's pass has to keep stays within bounds.

    How many samples these have is the network's to say, not the memory's, as long as one such batch fits at all: values
    that do not fit are computed again, and bits do not depend on the memory. Replays of the groups `twice` are
    differentiated twice; what their graphs hold is not computed again.

    Raises:
        BadInputError: one sample alone takes more.
    """
    memory = int(network.program.scoring.memory)
    needed, allowed = least_bytes(network), network.program.scoring.pass_bytes
    if needed > allowed:
        least = needed * SHARE_OF_ONE_PASS
        do = "Allow more, or look at fewer positions of each sample."
        what = f"enough for one sample's pass through this network, {least:,} bytes"
        raise BadInputError("memory", what, f"{memory:,} bytes", do)
    graph = max((bytes_for_curvature(network, group) for group in twice), default=0)
    if graph * SHARE_OF_GRAPHS > memory:
        do = "Allow more, or use `criterion='taylor-2-sampled'`, which replays nothing."
        what = f"enough for the second derivatives of one sample's replay, {graph * SHARE_OF_GRAPHS:,} bytes"
        raise BadInputError("memory", what, f"{memory:,} bytes", do)
    most = min(allowed // needed, memory // SHARE_OF_GRAPHS // max(1, graph))
    smaller = task.in_batches_of(most if task.loss.couples_samples else min(most, samples_at_once(network)))
    log.info("%s", chunks_text(network, smaller.calibration.batch_size))
    return smaller


def least_bytes(network: GatedNetwork) -> int:
    """Return what one sample's pass has to keep at least, for a replay of one group or for slopes."""
    program = network.passes.program
    paths = [route(program, network.trace.ids_of(group)) for group in network.groups]
    replayed = program.held.while_running + max(program.held.of(path.reads) for path in paths)
    return max(replayed, least_bytes_for_slopes(program))
