"""The whole idea on one page, with nothing of shrinknet in it but its images: rank neurons by the true rise of the
loss, remove the cheapest, rank again, until enough are gone.

Everything is done the slow, obvious way: to score a neuron the network is rebuilt without it, physically, and its loss
is measured. shrinknet must remove the same neurons in the same order (a test holds it to that), only faster, on any
architecture, and with a proof. Run it:

    python examples/whole_idea.py
"""

import copy

import torch
from torch import nn


def neuron_layers(model: nn.Sequential) -> list[int]:
    """Positions of the layers whose neurons can go: every dense layer and convolution but the last (the outputs)."""
    layers = [
        i for i, m in enumerate(model) if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)
    ]
    return layers[:-1]


def width(layer: nn.Module) -> int:
    """How many neurons a layer has: its output units or channels."""
    return len(layer.weight)


def without(model: nn.Sequential, position: int, neuron: int) -> nn.Sequential:
    """Rebuild the network without one neuron: its own row goes, and the column of everyone who reads it."""
    model = copy.deepcopy(model)
    keep = [k for k in range(width(model[position])) if k != neuron]
    num_places = 1  # how many columns of a dense layer one channel becomes when it is flattened
    keep_rows(model[position], keep)
    for module in model[position + 1 :]:
        if isinstance(module, nn.BatchNorm2d):
            keep_features(module, keep)
        elif isinstance(module, nn.Conv2d) and module.groups > 1:  # depthwise: every channel on its own
            keep_rows(module, keep)
            module.groups = module.in_channels = module.out_channels = len(keep)
        elif isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(module.weight[:, keep])
            module.in_channels = len(keep)
            return model
        elif isinstance(module, nn.Linear):
            num_places = module.in_features // (len(keep) + 1)
            columns = [k * num_places + place for k in keep for place in range(num_places)]
            module.weight = nn.Parameter(module.weight[:, columns])
            module.in_features = len(columns)
            return model
    raise ValueError("nobody reads that neuron: it is an output")


def keep_rows(layer: nn.Module, keep: list[int]) -> None:
    """Keep only some of a layer's neurons."""
    layer.weight = nn.Parameter(layer.weight[keep])
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[keep])
    if isinstance(layer, nn.Linear):
        layer.out_features = len(keep)
    else:
        layer.out_channels = len(keep)


def keep_features(norm: nn.BatchNorm2d, keep: list[int]) -> None:
    """Keep only some channels of a batch norm."""
    norm.weight, norm.bias = nn.Parameter(norm.weight[keep]), nn.Parameter(norm.bias[keep])
    norm.running_mean, norm.running_var = norm.running_mean[keep], norm.running_var[keep]
    norm.num_features = len(keep)


def mean_loss(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """The mean cross-entropy on the data."""
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(inputs), targets))


def ranking(model: nn.Sequential, inputs: torch.Tensor, targets: torch.Tensor) -> list[tuple[float, int, int]]:
    """Score every neuron that may go: (rise of the loss without it, layer, index), cheapest first."""
    start = mean_loss(model, inputs, targets)
    scores = []
    for position in neuron_layers(model):
        if width(model[position]) > 1:  # the last neuron of a layer stays
            for neuron in range(width(model[position])):
                smaller = without(model, position, neuron)
                scores.append((mean_loss(smaller, inputs, targets) - start, position, neuron))
    return sorted(scores)


def shrink(
    model: nn.Sequential, inputs: torch.Tensor, targets: torch.Tensor, how_many: int
) -> tuple[nn.Sequential, list[tuple[int, int]]]:
    """Remove that many neurons, ranking again after each; return the smaller network and (layer, first index)s."""
    names = {position: list(range(width(model[position]))) for position in neuron_layers(model)}
    removed = []
    for _ in range(how_many):
        _, position, neuron = ranking(model, inputs, targets)[0]
        removed.append((position, names[position].pop(neuron)))  # the index that it had in the first network
        model = without(model, position, neuron)
    return model, removed


def main() -> None:
    """Train a small network on handwritten digits and take it apart."""
    from shrinknet.recipes.digits import load_digits  # the data alone

    torch.manual_seed(0)
    images, labels = load_digits()
    inputs, targets = torch.tensor(images).flatten(1) / 16, torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    print("neurons  loss    accuracy")
    for left in range(24, 3, -4):
        model, _ = shrink(model, inputs, targets, width(model[0]) - left)
        accuracy = (model(inputs).argmax(1) == targets).double().mean()
        print(f"{left:7d}  {mean_loss(model, inputs, targets):.4f}  {accuracy:.4f}")


if __name__ == "__main__":
    main()
