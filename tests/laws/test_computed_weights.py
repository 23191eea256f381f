"""Weights that are computed of others (masks, norms, parametrizations): followed, cut, and handed back in their class."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import shrinknet as sn

IMAGES, CLASSES = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


class LowRank(nn.Module):
    """Adds a product of two small matrices to a weight."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.up, self.down = nn.Parameter(torch.randn(rows, 2) * 0.1), nn.Parameter(torch.randn(2, columns))

    def forward(self, weight):
        return weight + (self.up @ self.down).view_as(weight)


class Strength(nn.Module):
    """Multiplies each row of a weight by a number of its own."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(len(weight), *[1] * (weight.dim() - 1)) + 0.5)

    def forward(self, weight):
        return weight * self.factor


def masked_twice(layer: nn.Module) -> None:
    prune.random_unstructured(layer, "weight", 0.3)
    prune.l1_unstructured(layer, "weight", 0.2)
    prune.random_unstructured(layer, "bias", 0.3)


KINDS = {
    "masked rows": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
    "masks upon masks": masked_twice,
    "weight norm": parametrizations.weight_norm,
    "weight norm of the whole": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "weight norm of old": nn.utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm of old": nn.utils.spectral_norm,
    "low rank": lambda layer: parametrize.register_parametrization(layer, "weight", LowRank(layer.weight)),
    "strength": lambda layer: parametrize.register_parametrization(layer, "weight", Strength(layer.weight)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_computed_weights_come_back_in_their_own_class(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip
    for layer in (model[2], model[6]):
        KINDS[kind](layer)
    model.eval()(IMAGES).sum().backward()  # the hooks of old leave their last weight on the module, as autograd made it
    task = sn.Task(model, "cross-entropy", (IMAGES, CLASSES))
    goals = [sn.RemovedNeurons(8)]
    run = sn.prune(task, "taylor-1", "single-ranking", goals=goals, only=["2", "6"], out=tmp_path / "run")
    assert run.verification.holds
    assert {group.name.partition(".")[0] for group in run.network.groups} == {"2", "6"}
    with torch.no_grad():
        expected = run.exported.module()(IMAGES)
    model(IMAGES).sum().backward()
    rebuilt = sn.apply_plan(model, tmp_path / "run").eval()
    for small in (run.model.eval(), rebuilt):
        torch.testing.assert_close(small(IMAGES), expected)
        assert small[2].out_channels == len(small[2].bias) == small[2].weight.shape[0] < 8
        assert small[6].in_features == small[6].weight.shape[1] == small[2].out_channels


def test_a_parametrized_layer_keeps_its_name() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    task = sn.Task(model, "cross-entropy", (torch.randn(6, 4), torch.arange(6) % 3))
    assert [group.name for group in sn.trace(model, torch.randn(2, 4)).groups] == ["0"]
    with pytest.raises(sn.NothingToRemoveError):
        sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(1)], keep=["0"])
