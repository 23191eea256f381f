"""Loading what strangers export, and refusing what only looks like data."""

import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.loading.expression import plain_expression
from shrinknet.loading.models import load_model


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Symbol('s0').__class__",
        "[x for x in ()]",
        "lambda: 0",
        "eval('1')",
        "Symbol('__import__(1)')",
        "open",
        "(",
    ],
)
def test_only_arithmetic_on_symbols_is_a_size(text: str) -> None:
    assert plain_expression(text) is None


@pytest.mark.parametrize(
    "text", ["4", "s77", "Symbol('s77', positive=True, integer=True)", "2*Mod(s0, 4) + Max(1, u0)"]
)
def test_real_sizes_are(text: str) -> None:
    assert plain_expression(text) is not None


def export(model: nn.Module, inputs: torch.Tensor, path, dynamic) -> str:
    torch.export.save(torch.export.export(model, (inputs,), dynamic_shapes=dynamic), path)
    return str(path)


def test_real_exports_open(tmp_path) -> None:
    """Symbolic arithmetic, views, buffers and residual sums as torch writes them."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(64, 3)
            self.register_buffer("offset", torch.ones(4, 1, 1))

        def forward(self, x):
            y = torch.relu(self.norm(self.conv(x))) + self.offset
            y = (y + x).reshape(x.shape[0] * 4, 16).reshape(x.shape[0], 64)
            return self.out(y)

    inputs = torch.randn(3, 1, 4, 4)
    path = export(Net().eval(), inputs, tmp_path / "net.pt2", ({0: torch.export.Dim("batch")},))
    loaded = load_model(path)
    assert loaded.example_inputs.shape == (3, 1, 4, 4)
    assert loaded.model(torch.randn(7, 1, 4, 4)).shape == (7, 3)


def test_an_export_with_one_fixed_number_of_samples_is_freed_where_its_graph_allows(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    loaded = load_model(export(model, torch.randn(3, 4), tmp_path / "net.pt2", None))
    task = sn.Task(loaded.model, "cross-entropy", (torch.randn(10, 4), torch.arange(10) % 2))
    assert sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(2)]).verification.holds


def test_an_export_whose_graph_holds_the_number_of_samples_is_refused(tmp_path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.two(torch.relu(self.one(x)).view(x.shape[0], 2, 3).reshape(x.shape[0], 6))

    path = export(Fixed().eval(), torch.randn(3, 4), tmp_path / "net.pt2", None)
    sentence = (
        r"^spec must be an export with a free number of samples\. Got one whose graph fixes it at 3\. Export it again"
    )
    with pytest.raises(sn.BadInputError, match=sentence):
        load_model(path)


def test_a_loader_and_a_dataset_are_data_in_their_order() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    x, y = torch.randn(20, 4), torch.arange(20) % 2
    dataset = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(dataset, batch_size=7, shuffle=True)
    pairs = [(row, label) for row, label in zip(x, y.tolist(), strict=True)]

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, k):
            return pairs[k]

    ranked = [
        sn.rank(sn.Task(model, "cross-entropy", source), "taylor-1") for source in ((x, y), dataset, loader, Rows())
    ]
    for other in ranked[1:]:
        assert [neuron for neuron, _ in other] == [neuron for neuron, _ in ranked[0]]
        torch.testing.assert_close(
            torch.tensor([s for _, s in other]), torch.tensor([s for _, s in ranked[0]]), rtol=1e-5, atol=1e-7
        )
