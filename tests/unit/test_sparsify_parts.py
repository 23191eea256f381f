"""Parts around training-time methods: what is refused and in which words, files without zeros, families, callbacks."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

import shrinknet as sn
from shrinknet.core.recall import intensification, recalls
from shrinknet.recipes.files import Files
from shrinknet.sparsify import find_sparsifier, sparsifier_names
from shrinknet.sparsify.callbacks import lightning_callback, transformers_callback
from shrinknet.sparsify.family import Architecture, Family
from shrinknet.sparsify.methods.acdc import AlternatingCompression
from shrinknet.sparsify.methods.fisher_pruning import FisherPruning
from shrinknet.sparsify.methods.gradual_threshold import GradualThreshold
from shrinknet.sparsify.methods.network_surgery import DynamicNetworkSurgery
from shrinknet.sparsify.methods.power_of_sparsity import RandomConnections
from shrinknet.sparsify.methods.sequential_attention import SequentialAttention
from shrinknet.sparsify.methods.skeletonization import Skeletonization
from shrinknet.sparsify.methods.undecayed_pruning import OneShot
from shrinknet.sparsify.schedules import Phases
from shrinknet.sparsify.stored import load_sparse, product_times, sparse_bytes
from shrinknet.task.per_sample import cross_entropy


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))


ROWS = torch.rand(32, 6), torch.arange(32) % 3


def test_every_method_is_found_by_its_name() -> None:
    assert sparsifier_names() == (
        "acdc", "fisher-pruning", "gradual-threshold", "network-surgery", "one-shot", "random-connections",
        "sequential-attention", "skeletonization",
    )  # fmt: skip
    assert all(find_sparsifier(name).name == name for name in sparsifier_names())


BAD = {
    "a schedule that ends before it starts": (
        lambda m: GradualThreshold(m, start=5, ramp=9, end=7),
        "start, ramp, end must be whole steps of at least 0, each at least the one before. Got 5, 9, 7. A schedule "
        "cannot end before it starts.",
    ),
    "a schedule of nothing": (
        lambda m: GradualThreshold(m, start=5, ramp=5, end=5),
        "freq and end must be a whole number of at least 1, and a step after start. Got freq 100, start 5, end 5.",
    ),
    "a window that ends before it starts": (
        lambda m: DynamicNetworkSurgery(m, window=(9, 3)),
        "window must be whole steps of at least 0, each at least the one before. Got 9, 3.",
    ),
    "phases without time": (
        lambda m: Phases(100, sparsifying=True, first_dense=0.9),
        "num_steps, cycles and the shares of the phases must be at least one step",
    ),
    "a sparsity of 1": (
        lambda m: OneShot(m, sparsity=1.0),
        "sparsity must be a fraction from 0 to less than 1. Got 1.0. At 1 nothing would be left.",
    ),
    "a sparsity above 1": (
        lambda m: SequentialAttention(m, num_steps=10, block=2, sparsity=1.5, fewest_blocks=1),
        "sparsity must be a fraction from 0 to less than 1. Got 1.5.",
    ),
    "a sparsity below 0": (
        lambda m: AlternatingCompression(m, num_steps=10, sparsity=-0.1),
        "sparsity must be a fraction from 0 to less than 1. Got -0.1.",
    ),
    "a calibrated sparsity of 1": (
        lambda m: GradualThreshold(m, start=1, ramp=2, end=3, sparsity=1),
        "sparsity must be a fraction from 0 to less than 1. Got 1.",
    ),
    "a share of a layer of 1": (
        lambda m: DynamicNetworkSurgery(m, sparsity={"*": 1.0}),
        "sparsity must be a fraction from 0 to less than 1. Got 1.0.",
    ),
    "a block that does not divide the layer": (
        lambda m: AlternatingCompression(m, num_steps=10, block=3),
        "block must be a size that divides '0.weight', 8 x 6, or pad=True. Got 3 x 3. Say pad=True to let the last "
        "blocks stand over the edge.",
    ),
    "blocks too large for every layer": (
        lambda m: SequentialAttention(m, num_steps=10, block=4),
        "block must be so small that a layer has 100 blocks or more. Got 4 x 4. Make blocks smaller, or say "
        "fewest_blocks.",
    ),
    "group lasso without groups": (
        lambda m: GradualThreshold(m, start=1, ramp=2, end=3, group_lasso=0.1),
        "group_lasso must be 0 without blocks. Got 0.1. Say block as well.",
    ),
    "layers that are not there": (
        lambda m: OneShot(m, layers="0.weigth"),
        "layers must be globs of weights' names. Got '0.weigth'. Did you mean '0.weight'?",
    ),
    "a glob that names no layer": (
        lambda m: DynamicNetworkSurgery(m, {"conv*": 1.0}),
        "c_rate must be given by globs of layers' names. Got 'conv*'.",
    ),
    "a layer without a rate": (
        lambda m: DynamicNetworkSurgery(m, {"0": 1.0}),
        "c_rate must be given for every layer. Got nothing for '2'. Add a glob '*'.",
    ),
    "a threshold below 0": (
        lambda m: GradualThreshold(m, start=1, ramp=2, end=3, q={"dense": -0.1}),
        "q must be a number of at least 0. Got -0.1. Leave it out for the paper's.",
    ),
    "a slope that turns round": (
        lambda m: GradualThreshold(m, start=1, ramp=2, end=3, steepness=0.5),
        "steepness must be a number of at least 1. Got 0.5.",
    ),
    "masks that thaw": (
        lambda m: DynamicNetworkSurgery(m, gamma=-0.1),
        "gamma must be a number of at least 0. Got -0.1.",
    ),
    "an unknown rule": (
        lambda m: OneShot(m, "magnitud"),
        "rule must be one of magnitude, up, gp, up-literal, random. Got 'magnitud'. Did you mean 'magnitude'?",
    ),
    "a ratio that leaves nothing": (
        lambda m: OneShot(m, ratio=50, layers="0.weight"),
        "ratio must be from 1 to less than 1.814: 59 parameters are not pruned. Got 50.",
    ),
    "ratio and sparsity": (
        lambda m: OneShot(m, ratio=2.0, sparsity=0.5),
        "ratio and sparsity must be not both given. Got 2.0, 0.5. Leave one out.",
    ),
    "an unknown Fisher rule": (
        lambda m: FisherPruning(m, ROWS[0][:2], rule="fischer"),
        "rule must be one of fisher, l1, random. Got 'fischer'. Did you mean 'fisher'?",
    ),
    "more neurons than there are": (
        lambda m: FisherPruning(m, ROWS[0][:2], count=11),
        "count must be at most 10, one less than each group has. Got 11. Ask for fewer.",
    ),
    "groups that are not there": (
        lambda m: FisherPruning(m, ROWS[0][:2], only="1"),
        "only must be globs of groups of inner neurons. Got '1'.",
    ),
    "an unknown criterion": (
        lambda m: Skeletonization(sn.Task(m, "cross-entropy", ROWS), criterion="ablatoin"),
        "criterion must be the name of a criterion. Got 'ablatoin'. Did you mean 'ablation'?",
    ),
    "no convolutions": (
        lambda m: RandomConnections(m),
        "model must be a network with convolutions of more than one input filter. Got Sequential. Name the layers.",
    ),
    "a density of 0": (
        lambda m: RandomConnections(nn.Conv2d(2, 3, 1), 0.0),
        "density must be above 0, at most 1; one for all or one for each of 1 layers. Got 0.0.",
    ),
    "a class absent from the data": (
        lambda m: recalls([0, 1], [0, 1], 3),
        "data must be rows of every class. Got no row of class 2. Add some, or number the classes from 0.",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_told_in_one_sentence(what: str) -> None:
    make, words = BAD[what]
    with pytest.raises(sn.BadInputError) as error:
        make(dense())
    assert str(error.value).startswith(words)


def test_optimizers_whose_steps_cannot_be_followed_are_refused() -> None:
    model = dense()
    sparsifier = OneShot(model, sparsity=0.5)
    with pytest.raises(sn.BadInputError, match=r"steps once for each backward pass\. Got LBFGS"):
        sparsifier.attach(torch.optim.LBFGS(model.parameters()))
    with pytest.raises(sn.BadInputError, match=r"must be the one that trains the model\. Got one without '0\.weight'"):
        sparsifier.attach(torch.optim.SGD(dense().parameters(), lr=0.1))
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    handle = model[0].weight.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    with pytest.raises(sn.BadInputError, match=r"Got updates fused into it, at '0\.weight'\. Take the hooks off"):
        sparsifier.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    handle.remove()
    sparsifier.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    sparsifier.detach()


def test_a_scaled_step_that_is_fused_is_refused() -> None:
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with OneShot(model, sparsity=0.5, at=1).attached(optimizer):
        model(ROWS[0]).sum().backward()
        optimizer.grad_scale = torch.tensor(2.0)  # as GradScaler sets it on a fused optimizer
        with pytest.raises(sn.BadInputError, match=r"Got a fused one under a GradScaler\. Make it with fused=False"):
            optimizer.step()


def test_a_state_of_another_method_or_network_is_refused() -> None:
    state = OneShot(dense(), sparsity=0.5).state()
    with pytest.raises(sn.BadInputError, match=r"state must be one of method 'acdc' on this network\. Got 'one-shot'"):
        AlternatingCompression(dense(), num_steps=10).load_state(*state)
    with pytest.raises(sn.BadInputError, match="state must be one of method 'one-shot' on this network"):
        OneShot(nn.Linear(3, 3), sparsity=0.5).load_state(*state)


def test_there_is_no_gap_to_widen_where_all_classes_are_found_equally_often() -> None:
    import numpy as np

    with pytest.raises(sn.BadInputError, match=r"Got 0 for all\. There is no gap to widen"):
        intensification(np.zeros(3), np.ones(3))


# ---- files without zeros


@pytest.mark.parametrize("block", [None, 2, (4, 2)])
def test_files_without_zeros_hold_the_same_numbers(block, tmp_path) -> None:
    torch.manual_seed(0)
    tensors = {
        "matrix": torch.randn(16, 24).where(torch.rand(16, 24) < 0.1, 0),
        "kernel": torch.randn(8, 4, 3, 3).where(torch.rand(8, 4, 1, 1) < 0.2, 0),
        "odd": torch.randn(7, 5).where(torch.rand(7, 5) < 0.1, 0),
        "full": torch.randn(6, 6),
        "half": torch.randn(16, 24).where(torch.rand(16, 24) < 0.1, 0).bfloat16(),
        "double": torch.randn(16, 24).where(torch.rand(16, 24) < 0.1, 0).double(),
        "bias": torch.randn(9),
        "count": torch.tensor(3),
    }
    content = sparse_bytes(tensors, block)
    assert len(content) < len(save(tensors))
    (tmp_path / "sparse.safetensors").write_bytes(content)
    found = load_sparse(tmp_path / "sparse.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype
    (tmp_path / "other.safetensors").write_bytes(save(tensors))
    with pytest.raises(sn.BadInputError, match="path must be a file that sparse_bytes made"):
        load_sparse(tmp_path / "other.safetensors")


def test_times_of_products_are_those_of_every_layout() -> None:
    times = product_times(torch.zeros(16, 16), 2, block=4, repeats=3)
    assert times.keys() == {"dense", "csr", "bsr"}
    assert min(times.values()) > 0


# ---- families


def test_a_family_is_built_from_what_pruning_found(tmp_path) -> None:
    model = dense()
    found = Architecture.after({"0": 8, "2": 4}, (sn.Neuron("0", 1), sn.Neuron("0", 5), sn.Neuron("2", 0)))
    assert found.kept == {"0": 6, "2": 3}
    found.write(tmp_path / "architecture.json")
    assert Architecture.read(tmp_path / "architecture.json") == found
    before = copy.deepcopy(model.state_dict())
    family = Family(model, ROWS[0][:2])
    member = family.build(found, seed=1)
    assert (member[0].out_features, member[2].in_features, member[2].out_features) == (6, 6, 3)
    assert not torch.equal(member[0].weight[0], model[0].weight[0]), "weights are fresh"
    again, other = family.build(found, seed=1), family.build(found, seed=2)
    assert torch.equal(again[0].weight, member[0].weight)
    assert not torch.equal(other[0].weight, member[0].weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert family.costs(found).num_parameters == sum(p.numel() for p in member.parameters())
    for budget in (30, 60, 90):
        fitted = family.at(found, budget)
        assert family.costs(fitted).num_parameters <= budget
    largest = family.at(found, 10_000)
    assert largest.kept == {"0": 8, "2": 4}
    with pytest.raises(sn.BadInputError, match="num_parameters must be at least 15, those of the smallest member"):
        family.at(found, 3)
    with pytest.raises(sn.BadInputError, match="Got group '0' of 9, where it has 8"):
        family.costs(Architecture({"0": 9}, {"0": 3}))
    (tmp_path / "architecture.json").write_text(json.dumps({"full": {"0": 8}, "kept": {"0": 9}}))
    with pytest.raises(sn.BadInputError, match="widths outside 1 to those of the whole network"):
        Architecture.read(tmp_path / "architecture.json")


# ---- other people's loops


def test_lightning_trains_under_a_method(tmp_path) -> None:
    pytest.importorskip("cpu_torchvision", reason="lightning looks for torchvision", exc_type=ImportError)
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense()

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    def trained(module, sparsifier):
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*ROWS), batch_size=8)
        trainer = lightning.Trainer(
            max_epochs=3, callbacks=[lightning_callback(sparsifier)], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, loader)
        return sparsifier

    module = Module()
    keys = list(module.state_dict())
    sparsifier = trained(module, DynamicNetworkSurgery(module.net, 0.5, gamma=0.1, window=(0, 9)))
    assert sparsifier.step == 12
    assert 0 < sparsifier.density < 1
    assert list(module.state_dict()) == keys
    assert not module.net._forward_pre_hooks
    by_hand = Module()
    twin = DynamicNetworkSurgery(by_hand.net, 0.5, gamma=0.1, window=(0, 9))
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    with twin.attached(optimizer):
        for _ in range(3):
            for rows in zip(ROWS[0].split(8), ROWS[1].split(8), strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(by_hand.net(rows[0]), rows[1]).backward()
                optimizer.step()
    twin.finish()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), by_hand.parameters(), strict=True))

    class Failing(Module):
        def training_step(self, batch, index):
            raise RuntimeError("on purpose")

    failing = Failing()
    with pytest.raises(RuntimeError, match="on purpose"):
        trained(failing, DynamicNetworkSurgery(failing.net, 0.5))
    assert not failing.net._forward_pre_hooks


def test_the_trainer_of_transformers_trains_under_a_method(tmp_path) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("cpu_torchvision", reason="transformers looks for torchvision", exc_type=ImportError)
    transformers = pytest.importorskip("transformers")

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense()

        def forward(self, x, labels):
            outputs = self.net(x)
            return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}

    torch.manual_seed(0)
    model = Classifier()
    sparsifier = SequentialAttention(model, num_steps=12, block=2, sparsity=0.5, fewest_blocks=1, layers="net.0.weight")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=8, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = [{"x": x, "labels": y} for x, y in zip(*ROWS, strict=True)]
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[transformers_callback(sparsifier)])
    trainer.train()
    assert sparsifier.step == 12
    assert sparsifier.density == pytest.approx(0.5)
    assert int(next(iter(sparsifier.optimizer.state.values()))["step"]) == 12, "logits were trained"
    assert int(model.net[0].weight.count_nonzero()) == 24, "and folded in at the end"
    assert not model._forward_pre_hooks


# ---- the recipes' data


def test_cifar_is_read_from_the_original_binary_files(tmp_path) -> None:
    import numpy as np

    folder = tmp_path / "cifar10"
    folder.mkdir()
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        rows = np.zeros((2, 3073), np.uint8)
        rows[:, 0] = [3, 7]
        rows[0, 1:1025] = 255  # the first image is red
        (folder / name).write_bytes(rows.tobytes())
    (inputs, targets), (_, test_targets) = Files(tmp_path).cifar10_rows()
    assert inputs.shape == (10, 3, 32, 32)
    assert sorted(test_targets.tolist()) == [3, 7]
    for image, label in zip(inputs, targets.tolist(), strict=True):
        assert image.mean((1, 2)).tolist() == ([1.0, 0.0, 0.0] if label == 3 else [0.0, 0.0, 0.0])


def test_a_method_of_blocks_is_stored_in_blocks(tmp_path) -> None:
    task = sn.Task(dense(), "cross-entropy", ROWS)
    options = {"block": 2, "fewest_blocks": 4, "sparsity": 0.7, "layers": "0.weight"}
    found = sn.sparsify(task, "sequential-attention", options=options, epochs=3, batch_size=8, out=tmp_path / "run")
    content = load_file(tmp_path / "run" / "sparse.safetensors")
    assert content["0.weight.values"].shape == (4, 2, 2), "0.3 of 12 blocks"
    assert found.sparse_bytes == (tmp_path / "run" / "sparse.safetensors").stat().st_size
    back = load_sparse(tmp_path / "run" / "sparse.safetensors")
    assert torch.equal(back["0.weight"], found.model[0].weight.detach())


def test_the_loss_of_a_loop_is_that_of_the_task() -> None:
    task = sn.Task(dense(), "cross-entropy", ROWS, ROWS)
    found = sn.sparsify(task, "one-shot", options={"sparsity": 0.5, "at": 2}, epochs=2, batch_size=8)
    assert [row["epoch"] for row in found.history] == [1, 2]
    expected = float(cross_entropy(found.model(ROWS[0]), ROWS[1]).mean())
    assert found.history[-1]["validation_loss"] == pytest.approx(expected, rel=1e-5)
    assert found.history[-1]["density"] == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(found.model[0].weight, task.model[0].weight), "the given network is untouched"
