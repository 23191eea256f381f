"""784-100-10 on 10,000 images: an exact ranking of all 100 neurons, and every honest way to the same figures.

    python benchmarks/ablation/last_layer.py

Rivals: the plain loop (mask one neuron, run the whole network on all images, for each of the 100), the same loop
compiled, and Captum's LayerFeatureAblation on the loss. Ours is timed in two states: `first` begins with nothing but
the network (a forward pass included), `again` with the forward pass of an earlier ranking, as every ranking of
Algorithm 2 but the first does; compiled and not. All scores must agree before anything is timed. Random weights,
random images.
"""

import torch
from captum.attr import LayerFeatureAblation
from rounds import SEED, in_turns, once, write
from torch import nn

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.task.losses import find_loss

NUM_IMAGES, NUM_HIDDEN, ROUNDS, FEW = 10_000, 100, 31, 5


def main() -> None:
    """Time both networks."""
    torch.manual_seed(SEED)
    paper = nn.Sequential(nn.Linear(784, NUM_HIDDEN), nn.Sigmoid(), nn.Linear(NUM_HIDDEN, 10), nn.Sigmoid())
    modern = nn.Sequential(nn.Linear(784, NUM_HIDDEN), nn.ReLU(), nn.Linear(NUM_HIDDEN, 10), nn.Identity())
    rows = [
        compare("784-100-10, logistic, squared error", paper, "squared-error"),
        compare("784-100-10, ReLU, cross-entropy", modern, "cross-entropy"),
    ]
    write("last_layer", {"num_images": NUM_IMAGES, "rows": rows})


def compare(name: str, model: nn.Sequential, loss_name: str) -> dict[str, object]:
    """Time every way on one network and loss."""
    model.eval().requires_grad_(False)
    inputs, targets = torch.rand(NUM_IMAGES, 784), torch.randint(0, 10, (NUM_IMAGES,))
    task = sn.Task(model, loss_name, (inputs, targets), batch_size=NUM_IMAGES)
    ablation, loss = find_criterion("ablation"), find_loss(loss_name).of
    networks = {
        kind: gated(task, scoring=sn.Scoring(compile=kind == "compiled", keeps_passes=True))
        for kind in ("eager", "compiled")
    }
    first = gated(task)

    def masked(mask: torch.Tensor) -> torch.Tensor:
        return loss(model[3](model[2](model[1](model[0](inputs)) * mask)), targets).mean()

    compiled_masked = torch.compile(masked)

    def loop(forward) -> torch.Tensor:
        with torch.no_grad():
            masks = 1 - torch.eye(NUM_HIDDEN)
            start = forward(torch.ones(NUM_HIDDEN))
            return torch.stack([forward(mask) - start for mask in masks])

    def captum() -> torch.Tensor:
        method = LayerFeatureAblation(lambda x: loss(model(x), targets), model[1])
        with torch.no_grad():
            return -method.attribute(inputs).mean(0)

    def ours(network) -> torch.Tensor:
        return torch.from_numpy(ablation.score(network, task.calibration.batches()).values["0"])

    compile_seconds = once(lambda: ours(networks["compiled"]))
    expected = loop(masked).double()
    for scores in (ours(first), *map(ours, networks.values()), loop(compiled_masked).double(), captum().double()):
        torch.testing.assert_close(scores, expected, rtol=1e-3, atol=3e-6)
    seconds = in_turns(
        {
            "forward pass": lambda: masked(torch.ones(NUM_HIDDEN)),
            "ours, first": lambda: ours(first),
            "ours, again": lambda: ours(networks["eager"]),
            "ours, again, compiled": lambda: ours(networks["compiled"]),
            "plain loop": lambda: loop(masked),
            "compiled loop": lambda: loop(compiled_masked),
            "Captum": captum,
        },
        ROUNDS,
        {"plain loop": FEW, "compiled loop": FEW, "Captum": FEW},
    )
    median = {way: times["median"] for way, times in seconds.items()}
    return {
        "network": name,
        "seconds": seconds,
        "seconds_to_compile": compile_seconds,
        "over_a_forward_pass": {way: median[way] / median["forward pass"] for way in median},
        "rival_over_ours": {
            f"{rival} / {way}": median[rival] / median[way]
            for rival in ("plain loop", "compiled loop", "Captum")
            for way in ("ours, first", "ours, again", "ours, again, compiled")
        },
        "neurons_per_second": {way: NUM_HIDDEN / median[way] for way in median if way != "forward pass"},
    }


if __name__ == "__main__":
    main()
