"""A cut network goes on living: it trains, is cut again, is saved, and is rebuilt from its class in a new process."""

import json
from pathlib import Path

import architectures
import pytest
import torch
from architectures import ALL
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from typed import run_python

import shrinknet as sn

NEW_PROCESS = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = {paths!r}
import torch
from architectures import ALL
from safetensors.torch import load_file, save_file
import shrinknet as sn
model = next(one for one in ALL if one.name == {name!r}).build(seed=9)[0]
small = sn.apply_plan(model, {run!r})
state = load_file({weights!r})
missing = small.load_state_dict(state, strict=False).missing_keys
shared = {{id(tensor) for key, tensor in small.state_dict(keep_vars=True).items() if key in state}}
assert all(id(small.state_dict(keep_vars=True)[key]) in shared for key in missing), missing
with torch.no_grad():
    outputs = small.eval()(load_file({inputs!r})["inputs"])
save_file({{"outputs": outputs}}, {out!r})
"""


def task_of(model: nn.Module, inputs: torch.Tensor) -> sn.Task:
    if not isinstance(model, torch.fx.GraphModule):  # an exported graph has its mode baked in
        model.eval()
    with torch.no_grad():
        outputs = model(inputs)
    if outputs.dim() == 2:
        return sn.Task(model, "cross-entropy", (inputs, torch.arange(len(inputs)) % outputs.shape[1]))
    targets = torch.randint(0, outputs.shape[-1], tuple(outputs.shape[:-1]))
    return sn.Task(model, by_word, (inputs, targets))


def by_word(outputs, targets):
    return functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)


def pruned(task: sn.Task, share: float, out: Path, tie: str = "class") -> sn.Run:
    goals = [sn.RemovedFraction(share)]
    return sn.prune(task, "taylor-1", "single-ranking", goals, step=10**6, out=out, tie=tie)


def trained(model: nn.Module, task: sn.Task) -> None:
    """A few steps; the loss falls."""
    (batch,) = task.calibration.batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for _ in range(5):
        loss = task.loss.of(model(batch.inputs), batch.targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0], losses


@pytest.mark.parametrize("name", ["resnet18", "BERT", "LSTM tagger"])
def test_a_cut_module_trains_is_cut_again_saved_and_rebuilt(name: str, tmp_path: Path) -> None:
    model, (inputs,) = next(one for one in ALL if one.name == name).build()
    inputs = torch.cat([inputs, inputs.flip(0)])
    first = pruned(task_of(model, inputs), 0.3, tmp_path / "first")
    small = first.model
    assert type(small) is type(model)
    assert list(dict(small.named_parameters())) == list(dict(model.named_parameters()))
    trained(small.train(), first.task)
    second = pruned(task_of(small, inputs), 0.2, tmp_path / "second")
    assert second.verification.holds
    assert second.measures.costs.num_parameters < first.measures.costs.num_parameters
    rebuilt = sn.apply_plan(small, tmp_path / "second")
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(inputs), second.network.outputs(inputs), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            _in_a_new_process(name, tmp_path, inputs), first.network.outputs(inputs), rtol=0, atol=1e-5
        )


def _in_a_new_process(name: str, folder: Path, inputs: torch.Tensor) -> torch.Tensor:
    from safetensors.torch import save_file

    save_file({"inputs": inputs}, folder / "inputs.safetensors")
    script = NEW_PROCESS.format(
        paths=[str(Path(architectures.__file__).parent)],
        name=name,
        run=str(folder / "first"),
        weights=str(folder / "first" / "model.safetensors"),
        inputs=str(folder / "inputs.safetensors"),
        out=str(folder / "outputs.safetensors"),
    )
    run_python(script, folder)
    return load_file(folder / "outputs.safetensors")["outputs"]


A_MODULE = """
import torch
from torch import nn
import shrinknet as sn

ROWS = (torch.linspace(-1, 1, 48).view(12, 4), torch.arange(12) % 3)

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)
    def forward(self, x):
        return self.last(torch.relu(self.first(x)))

class Wide(Net):
    def __init__(self, width):
        super().__init__(width)

def build():
    return Wide(8)

def prune(model, out, **options):
    sn.prune(sn.Task(model, "cross-entropy", ROWS), "magnitude", goals=[sn.RemovedNeurons(3)], out=out, **options)
"""


def test_a_new_process_opens_a_run_in_its_own_class(tmp_path: Path) -> None:
    """By the class where it takes no arguments, by the factory where not; nothing is imported unless it is trusted."""
    (tmp_path / "of_a_stranger.py").write_text(A_MODULE)

    def new_process(script: str) -> str:
        return "".join(run_python(f"import warnings; warnings.simplefilter('ignore'); {script}", tmp_path))

    new_process("import of_a_stranger as s; s.prune(s.Net(), 'net'); s.prune(s.Wide(8), 'wide')")
    opened = "import shrinknet as sn, torch, sys; rows = torch.linspace(-1, 1, 48).view(12, 4), torch.arange(12) % 3; "
    say = "; print(type(run.model).__qualname__, run.model.state_dict()['first.weight'].shape[0])"
    assert new_process(f"{opened}run = sn.load('net', data=[rows], trust=True){say}") == "Net 5\n"
    assert new_process(f"{opened}run = sn.load('wide', data=[rows], model='of_a_stranger:build'){say}") == "Wide 5\n"
    without = new_process(f"{opened}run = sn.load('wide', data=[rows], trust=True); print(type(run.model).__name__)")
    assert "GraphModule" in without
    assert "stands in for the model's own class" in without
    asked = f"{opened}run = sn.load('net', data=[rows]); print('of_a_stranger' in sys.modules)"
    assert new_process(asked) == "False\n"


def test_a_cut_vit_goes_on_as_an_exported_graph(tmp_path: Path) -> None:
    """nn.MultiheadAttention insists on its width: cut freely, the exported form is the one to go on with."""
    from cpu_torchvision import models

    torch.manual_seed(0)
    model = models.VisionTransformer(16, 4, 2, 4, 32, 64, num_classes=5)
    nn.init.normal_(model.heads.head.weight, 0, 0.1)
    inputs = torch.randn(6, 3, 16, 16)
    run = pruned(task_of(model, inputs), 0.3, tmp_path / "run", tie="none")
    with pytest.raises(
        sn.FixedWidthError, match=r"fixes a width \(in 'encoder\.layers\.encoder_layer_0\.self_attention'"
    ):
        _ = run.model
    small = run.exported.module()
    trained(small, run.task)
    again = pruned(task_of(small, inputs), 0.2, tmp_path / "again")
    assert again.verification.holds
    assert again.measures.costs.num_parameters < run.measures.costs.num_parameters
    loaded = f"torch.export.load({str(tmp_path / 'again' / 'model.pt2')!r}).module()"
    answer, _ = run_python(f"import torch; print(sum(p.numel() for p in {loaded}.parameters()))", tmp_path)
    assert int(answer) == again.measures.costs.num_parameters


def test_a_plan_of_another_network_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    run = pruned(task_of(model, torch.randn(6, 4)), 0.3, tmp_path / "run")
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    small = sn.apply_plan(model, plan)
    assert (small[0].out_features, small[2].in_features) == (run.model[0].out_features,) * 2
    assert (model[0].out_features, model[0].weight.shape[0]) == (8, 8), "the original is not touched"
    narrow = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(sn.BadInputError, match=r"^plan must be one of this network\. Got places .* of axis 0 of '0\."):
        sn.apply_plan(narrow, plan)
    with pytest.raises(sn.BadInputError, match=r"^plan must be a run folder or a plan\.json .*cannot be read"):
        sn.apply_plan(model, tmp_path / "nothing")
    with pytest.raises(sn.BadInputError, match=r"^plan must be a run folder or a plan\.json .*KeyError"):
        sn.apply_plan(model, {"removed": []})
    for attributes in ({"0": {"forward": 1}}, {"0": {"out_features": "wide"}}, {"nine": {"out_features": 2}}):
        with pytest.raises(sn.BadInputError, match=r"^plan must be one of this network\. Got attribute "):
            sn.apply_plan(model, plan | {"attributes": attributes})
