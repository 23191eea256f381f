"""Normalisation that treats every channel alone."""

from shrinknet.errors import BadInputError
from shrinknet.graph.labels import Slots
from shrinknet.graph.rules.base import Call, rule

TRAINING_ARGUMENT = 5


@rule("batch_norm")
def batch_norm(call: Call) -> Slots:
    """Scale, shift and running statistics belong to the neuron of their channel.

    Raises:
        BadInputError: it normalises with the batch's own statistics, so that samples are not independent.
    """
    if call.argument(TRAINING_ARGUMENT):
        raise BadInputError(
            "model",
            "a network in eval mode",
            f"{call.where} with the statistics of each batch",
            "Call model.eval() before exporting it.",
        )
    x = call.argument(0)
    channels = call.vector_along(x, 1)
    for parameter in (call.argument(position) for position in range(1, 5)):
        if parameter is None:
            continue
        labels = call.vector_along(parameter, 0)
        if labels is not None and channels is not None:
            call.unite(channels, labels)
        else:
            alone = tuple(vector for vector in (channels, labels) if vector is not None)
            call.freeze(alone, f"meets values of fixed width at {call.where}")
    return call.slots(x)
