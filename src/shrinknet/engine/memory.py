"""How many samples go through the network at once: as many as the memory that scoring may use allows."""

import logging

from shrinknet.core.errors import BadInputError
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.replay import chunks_text, samples_at_once
from shrinknet.task.scoring import SHARE_OF_ONE_PASS
from shrinknet.task.task import Task

log = logging.getLogger(__name__)


def in_memory(task: Task, network: GatedNetwork) -> Task:
    """Return the same task in batches small enough that one batch's values stay within bounds.

    Raises:
        BadInputError: one sample alone takes more.
    """
    needed, allowed = network.program.bytes_per_sample, network.program.scoring.pass_bytes
    if needed > allowed:
        least = needed * SHARE_OF_ONE_PASS
        got = f"{network.program.scoring.memory:,} bytes"
        do = "Allow more, or look at fewer positions of each sample."
        raise BadInputError("memory", f"enough for one sample's pass through this network, {least:,} bytes", got, do)
    most = allowed // needed
    smaller = task.in_batches_of(most if task.loss.couples_samples else min(most, samples_at_once(network)))
    log.info("%s", chunks_text(network, smaller.calibration.batch_size))
    return smaller
