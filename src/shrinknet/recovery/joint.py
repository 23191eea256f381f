"""Joint refit: all weights of a smaller network move together until it answers as the whole one did. No labels.

    minimise  D(whole, small) + 3 * mean over layers of |z - z'|^2 / var z

over the calibration rows and what augmentations make of them. D is the divergence of the answers, or their squared
difference (`answers.of_answers`); z is what a layer of the whole network gives, z' that of the smaller one. Weights of
what writes, not of what reads alone, move too, through nonlinearities and over all layers.

A fifth of the calibration rows is held out: what comes back are the weights of the epoch at whose end D was least
there, the start's included. So the refit is never worse than its start on these rows.

Steps are Adam's (Kingma and Ba 2015), each a share of its tensor's size, so that no rate depends on a network's scale.
What is judged and handed back is not where the last step led but an average over about the last tenth of all steps,
the start's weights at first: single steps lead astray, above all the first ones.

Sources: Hinton, Vinyals and Dean 2015 (answers of another network), Romero et al. 2015 (what its layers give), Polyak
and Juditsky 1992 (averages of steps).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule

from shrinknet.core.progress import Tell, num_batches, tell_nobody
from shrinknet.engine.gates import GatedNetwork
from shrinknet.recovery.answers import Teacher, of_answers, of_layers, said_by
from shrinknet.recovery.augment import Augment
from shrinknet.surgery.proof import cut_program
from shrinknet.surgery.remove import cut_graph, kept_indices
from shrinknet.task.data import Data
from shrinknet.task.task import Task
from shrinknet.task.trees import num_rows, split

EPOCHS = 60
"""How often the rows are gone through at most."""

HELD_OUT = 5
"""One of so many calibration rows is held out."""

LAYERS = 3.0
"""What the layers count beside the answers."""

RATE = 0.02
"""A step is this share of a tensor's root mean square."""

WARM = 0.05
"""The part of the steps in which the rate rises to that; it falls to 0 along half a cosine."""

MOMENTS = (0.9, 0.99)
"""Adam's."""

AVERAGED = 0.1
"""What is judged is an average over about that part of the steps."""

LEAST_SIZE = 1e-3
"""The root mean square of a tensor is taken for at least this: biases that are 0 move, too."""

ROWS_A_STEP = 50
"""A step is by the mean slope over so many rows."""

VALUES_HELD = 3
"""How often the values of a pass are held: by both networks, and on the way back."""

PASSES_AN_EPOCH = 4 * (1 - 1 / HELD_OUT) + 1 / HELD_OUT
"""What an epoch costs at most, in forward passes of the whole network: it answers, the other moves, and is judged."""


def epochs_within(passes: float) -> int:
    """Return how many epochs some forward passes pay for.

    >>> epochs_within(35.0), epochs_within(1e9)
    (10, 60)
    """
    return min(EPOCHS, int(passes / PASSES_AN_EPOCH))


def refit_jointly(
    task: Task, network: GatedNetwork, augment: Augment, epochs: int, seed: int = 0, tell: Tell = tell_nobody
) -> GatedNetwork:
    """Return a masked network with all of the smaller network's weights refit to what the whole one gives.

    Args:
        task: its calibration rows; targets are not looked at.
        network: the masked network to start from.
        augment: what makes other rows of them.
        epochs: how often the rows are gone through.
        seed: draws their order and the augmentations.
        tell: told how far it is.

    Cost: for each epoch, of four fifths of the rows, a forward pass of the whole network, a forward and a backward pass
    of the smaller one. Memory for three passes of a step's 50 rows; where the task's memory holds fewer, slopes of as
    many rows as it holds are added up.
    """
    held, rows = held_out(task.calibration, seed)
    if not epochs or not len(rows) or bool(network.present.all()):
        return network
    teacher = Teacher.of(network, next(held.batches()).inputs)
    distance_of = _judge(teacher, held)
    average = smaller(network)
    least, best = distance_of(average), weights_of(average)
    for done in _epochs(teacher, average, rows, augment, epochs, seed):
        distance = distance_of(average)
        if distance < least:
            least, best = distance, weights_of(average)
        tell("all weights are refit together", done / epochs)
    return network.refit(spread(network, best))


def held_out(data: Data, seed: int) -> tuple[Data, Data]:
    """Return a fifth of the rows, and the others, drawn by a seed."""
    drawn, count = data.permuted(seed), -(-len(data) // HELD_OUT)
    return drawn.rows(0, count), drawn.rows(count, len(data))


def smaller(network: GatedNetwork) -> GraphModule:
    """Return the cut network in memory of its own, all of whose parameters may move."""
    cut = cut_graph(network.trace, network.present, network.program.tensors)
    for tensor in (*cut.parameters(), *cut.buffers()):
        tensor.data = tensor.data.clone()  # what is not cut lies in the masked network's own memory
    for parameter in cut.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return cut


def weights_of(cut: GraphModule) -> dict[str, Tensor]:
    """Return copies of its parameters as they are now, by name."""
    return {name: one.detach().clone() for name, one in cut.named_parameters(remove_duplicate=False)}


def spread(network: GatedNetwork, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masked network's tensors with a cut network's weights in the places that it kept."""
    kept, own = kept_indices(network.trace, network.present), network.trace.tensors | network.program.tensors
    found = {}
    for name, weight in weights.items():
        whole, axes = own[name].detach().clone(), kept.get(name, {})
        places = [torch.tensor(axes.get(axis, range(size))) for axis, size in enumerate(whole.shape)]
        whole[torch.meshgrid(*places, indexing="ij") if places else ...] = weight.to(whole.dtype)
        found[name] = whole
    return found


def _judge(teacher: Teacher, held: Data) -> Callable[[GraphModule], float]:
    """Return what measures D on the rows held out; the whole network answers them once."""
    answered = [(batch.inputs, teacher.says(batch.inputs)[0]) for batch in held.batches()]
    loss, variance = teacher.network.loss, teacher.variances[""]

    @torch.no_grad()
    def distance(cut: GraphModule) -> float:
        """The mean over rows."""
        program = cut_program(teacher.network.trace, cut, teacher.program.asked_dtype, teacher.program.reads)
        found = 0.0
        for inputs, answers in answered:
            outputs, _ = said_by(program, {}, inputs)
            found += float(of_answers(loss, outputs, answers, variance)) * num_rows(inputs)
        return found / len(held) if math.isfinite(found) else math.inf

    return distance


def _epochs(
    teacher: Teacher, average: GraphModule, rows: Data, augment: Augment, epochs: int, seed: int
) -> Iterator[int]:
    """Go through the rows again and again, and say after each time how often; what comes of it is in the average."""
    generator, loss, cut = torch.Generator().manual_seed(seed), teacher.network.loss, smaller(teacher.network)
    program = cut_program(teacher.network.trace, cut, teacher.program.asked_dtype, teacher.program.reads)
    by_name = {node.name: node for node in program.nodes}
    layers = {name: by_name[name] for name in teacher.layers}
    groups = [{"params": [one], "lr": RATE * _size(one)} for one in cut.parameters() if one.requires_grad]
    optimizer = torch.optim.Adam(groups, betas=MOMENTS)
    at_once = max(1, int(teacher.program.scoring.memory) // (VALUES_HELD * teacher.program.bytes_per_sample))
    num_steps = epochs * num_batches(rows, ROWS_A_STEP)
    pace = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace((step + 1) / num_steps))
    for epoch in range(1, epochs + 1):
        drawn = replace(rows.chosen(torch.randperm(len(rows), generator=generator)), batch_size=ROWS_A_STEP)
        for batch in drawn.batches():
            optimizer.zero_grad()
            for inputs in split(augment(batch.inputs, generator), at_once):
                answers, wanted = teacher.says(inputs)
                with torch.enable_grad():
                    outputs, given = said_by(program, layers, inputs)
                    far = of_answers(loss, outputs, answers, teacher.variances[""])
                    far = far + LAYERS * of_layers(given, wanted, teacher.variances)
                    (far * (num_rows(inputs) / len(batch))).backward()
            optimizer.step()
            pace.step()
            _move(average, cut, 1 / max(1.0, AVERAGED * num_steps))
        yield epoch


@torch.no_grad()
def _move(average: GraphModule, cut: GraphModule, share: float) -> None:
    """Move the average by that share towards where the last step led."""
    for one, other in zip(average.parameters(), cut.parameters(), strict=True):
        if one.is_floating_point():
            one.lerp_(other, share)


def _size(tensor: Tensor) -> float:
    """The root mean square of a tensor."""
    return max(LEAST_SIZE, float(tensor.detach().square().mean().sqrt()))


def _pace(done: float) -> float:
    """The share of the rate after that part of the steps: a rise, then half a cosine.

    >>> [round(_pace(done), 2) for done in (0.025, 0.05, 0.5, 1.0)]
    [0.5, 0.99, 0.5, 0.0]
    """
    return min(1.0, done / WARM) * (0.5 + 0.5 * math.cos(math.pi * done))
