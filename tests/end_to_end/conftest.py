"""A stranger's folder: a factory, weights, data and an exported model; and a way to type commands in it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shrinknet.cli.main import main
from shrinknet.recipes.digits import load_digits

FACTORY = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10))

def wider():
    return nn.Sequential(nn.Linear(64, 25), nn.ReLU(), nn.Linear(25, 16), nn.ReLU(), nn.Linear(16, 10))

def single():
    return nn.Sequential(nn.Linear(64, 10))

def dropping():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(64, 9), nn.Linear(9, 10)
        def forward(self, x):
            return self.two(nn.functional.dropout(self.one(x)))
    return Dropping()

def images():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

def regression():
    return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))

def not_a_network():
    return 7

def nan_loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none") * float("nan")

def mean_loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)

def datasets():
    x = torch.rand(60, 64)
    y = torch.arange(60) % 10
    return {"calibration": (x[:40], y[:40]), "validation": torch.utils.data.TensorDataset(x[40:], y[40:])}

def only_calibration():
    return {"calibration": datasets()["calibration"]}

def misnamed():
    return {"calibration": datasets()["calibration"], "validtion": datasets()["validation"]}
"""


@dataclass
class Answer:
    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Trained weights, data and an exported network, made once."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("stranger")
    (path / "nets_of_a_stranger.py").write_text(FACTORY)
    sys.path.insert(0, str(path))
    import nets_of_a_stranger as nets

    images, targets = load_digits()
    inputs = (images.reshape(len(images), -1) / 16).astype(np.float32)
    split = np.arange(len(inputs)) % 5 // 3 + (np.arange(len(inputs)) % 5 == 4)
    rows = torch.from_numpy(inputs[split == 0]), torch.from_numpy(targets[split == 0])
    model = nets.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(rows[0]), rows[1]).backward()
        optimizer.step()
    save_file(model.state_dict(), path / "weights.safetensors")
    np.savez(path / "data.npz", inputs=inputs, targets=targets, split=split)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (rows[0][:2],), dynamic_shapes=({0: batch},))
    torch.export.save(exported, path / "net.pt2")
    return path


def _status_of(words: tuple[object, ...]) -> int:
    """The status with which a command ends that is typed here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["shrinknet", *map(str, words)])
        try:
            main()
        except SystemExit as leaving:
            return int(leaving.code or 0)
    return 0


@pytest.fixture(scope="session")
def type_once(folder) -> Callable[..., None]:
    """Type a command in the stranger's folder for what many tests read; it must succeed."""

    def run(*words: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert _status_of(words) == 0

    return run


@pytest.fixture
def type_command(folder, monkeypatch, capfd) -> Callable[..., Answer]:
    """Type a command of the command line in the stranger's folder."""
    monkeypatch.chdir(folder)

    def run(*words: object) -> Answer:
        capfd.readouterr()
        status = _status_of(words)
        out, err = capfd.readouterr()
        return Answer(status, out, err)

    return run
