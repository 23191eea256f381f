"""The laws of training-time methods: what masks may do, what they must not touch, and that nothing is lost."""

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import networks
from torch import nn

import shrinknet as sn
from shrinknet.core.recall import intensification, normalised_balance, recalls
from shrinknet.engine.gates import gated
from shrinknet.sparsify import Sparsifier
from shrinknet.sparsify.blocks import Blocks
from shrinknet.sparsify.methods.acdc import AlternatingCompression
from shrinknet.sparsify.methods.fisher_pruning import FisherPruning
from shrinknet.sparsify.methods.gradual_threshold import GradualThreshold
from shrinknet.sparsify.methods.network_surgery import DynamicNetworkSurgery
from shrinknet.sparsify.methods.power_of_sparsity import RandomConnections
from shrinknet.sparsify.methods.sequential_attention import SequentialAttention
from shrinknet.sparsify.methods.skeletonization import Skeletonization
from shrinknet.sparsify.methods.undecayed_pruning import OneShot, mean_slopes
from shrinknet.sparsify.schedules import Phases, Ramp, exponential
from shrinknet.sparsify.to_plan import to_plan
from shrinknet.sparsify.training import Training
from shrinknet.task.per_sample import cross_entropy

STEPS = 24
ROWS = torch.rand(48, 1, 8, 8), torch.arange(48) % 3


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip


def task_of(model: nn.Module) -> sn.Task:
    return sn.Task(model, "cross-entropy", ROWS)


Maker = Callable[[nn.Module], Sparsifier]

METHODS: dict[str, Maker] = {
    "gradual-threshold": lambda m: GradualThreshold(m, start=4, ramp=8, end=16, freq=2),
    "gradual-threshold, calibrated": lambda m: GradualThreshold(m, start=4, ramp=8, end=16, freq=2, sparsity=0.8),
    "gradual-threshold, blocks": lambda m: GradualThreshold(
        m, start=4, ramp=8, end=16, freq=2, block=2, pad=True, group_lasso=1e-3
    ),
    "network-surgery": lambda m: DynamicNetworkSurgery(m, 0.5, gamma=0.05, window=(0, 18)),
    "network-surgery, apart": lambda m: DynamicNetworkSurgery(
        m, 0.5, window={"0": (0, 9), "3": (0, 9), "*": (9, 18)}, fix_others=True, freeze_pruned=True
    ),
    "network-surgery, no splicing": lambda m: DynamicNetworkSurgery(m, 0.5, window=(0, 18), splice=False),
    "one-shot, magnitude": lambda m: OneShot(m, sparsity=0.7, at=5),
    "one-shot, up": lambda m: OneShot(m, "up", sparsity=0.7, at=5, over=3),
    "one-shot, gp": lambda m: OneShot(m, "gp", ratio=1.5, at=5, over=2, decay=0.01),
    "one-shot, random": lambda m: OneShot(m, "random", sparsity=0.7, at=5),
    "acdc": lambda m: AlternatingCompression(m, num_steps=STEPS, block=2, pad=True, sparsity=0.7),
    "sequential-attention": lambda m: SequentialAttention(
        m, num_steps=STEPS, block=2, pad=True, sparsity=0.7, fewest_blocks=5
    ),
    "sequential-attention, candidates": lambda m: SequentialAttention(
        m, num_steps=STEPS, block=2, pad=True, sparsity=0.7, fewest_blocks=5, softmax="candidates"
    ),
    "random-connections": lambda m: RandomConnections(m, 0.5),
    "random-connections, growing": lambda m: RandomConnections(m, 0.25, every=6),
    "fisher-pruning": lambda m: FisherPruning(m, ROWS[0][:2], every=3, count=6),
    "fisher-pruning, l1": lambda m: FisherPruning(m, ROWS[0][:2], every=3, count=6, rule="l1"),
    "skeletonization": lambda m: Skeletonization(task_of(m), every=5, count=4),
}

WITHOUT_STRENGTH: dict[str, Maker] = {
    "gradual-threshold": lambda m: GradualThreshold(m, start=4, ramp=8, end=16, freq=2, q=0.0),
    "network-surgery": lambda m: DynamicNetworkSurgery(m, -math.inf, window=(0, 18)),
    "one-shot": lambda m: OneShot(m, "up", sparsity=0.0, at=5),
    "acdc": lambda m: AlternatingCompression(m, num_steps=STEPS, sparsity=0.0),
    "sequential-attention": lambda m: SequentialAttention(
        m, num_steps=STEPS, block=2, pad=True, sparsity=0.0, logit_lr=0.0, fewest_blocks=5
    ),
    "random-connections": lambda m: RandomConnections(m, 1.0),
    "fisher-pruning": lambda m: FisherPruning(m, ROWS[0][:2], every=3, count=0),
    "skeletonization": lambda m: Skeletonization(task_of(m), every=3, count=0),
}


def training_of(model: nn.Module, sparsifier: Sparsifier | None, optimizer: str = "adam") -> Training:
    made = {"adam": torch.optim.Adam, "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=1e-3)}
    trained = made[optimizer](model.parameters(), lr=0.01)
    return Training(model, cross_entropy, ROWS, trained, 8, 0, num_epochs=4, sparsifier=sparsifier)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("name", METHODS)
def test_masks_only_lose_ones_unless_the_method_declares_regrowth(name: str) -> None:
    model = network()
    sparsifier = METHODS[name](model)
    seen = [{n: m.clone() for n, m in sparsifier.masks.items()}]
    went = {n: sparsifier.num_masked[n] for n in sparsifier.masks}
    training = training_of(model, sparsifier)
    after_step = sparsifier.after_step

    def watched() -> None:
        after_step()
        seen.append(copy.deepcopy(sparsifier.masks))

    sparsifier.after_step = watched
    list(training.epochs())
    assert sparsifier.step == STEPS
    came = dict.fromkeys(went, 0)
    for before, after in itertools.pairwise(seen):
        for n in before:
            came[n] += int((after[n] & ~before[n]).sum())
            went[n] += int((before[n] & ~after[n]).sum())
    assert came == sparsifier.num_regrown
    assert went == sparsifier.num_masked
    assert sparsifier.regrows or not any(came.values())
    assert sparsifier.density < 1 or name.endswith("growing"), "the method did nothing"


@pytest.mark.parametrize("name", METHODS)
def test_a_masked_weight_contributes_nothing_and_finishing_changes_no_output(name: str) -> None:
    model = network()
    sparsifier = METHODS[name](model)
    training = training_of(model, sparsifier)
    list(training.epochs())
    with sparsifier.attached(training.optimizer), torch.no_grad():
        masked = model.eval()(ROWS[0])
        if type(sparsifier).effective is not Sparsifier.effective:  # what lies behind a mask may be anything
            for n, weight in sparsifier.weights.items():
                weight.data = torch.where(sparsifier.masks[n], weight.data, 7.0)
            torch.testing.assert_close(model(ROWS[0]), masked, rtol=0, atol=0)
    sparsifier.finish()
    with torch.no_grad():
        torch.testing.assert_close(model(ROWS[0]), masked, rtol=0, atol=0)
    for n, weight in sparsifier.weights.items():
        assert int(weight[~sparsifier.masks[n]].count_nonzero()) == 0


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", METHODS)
def test_saved_killed_and_resumed_is_never_killed(name: str, optimizer: str, tmp_path) -> None:
    whole_model, first_model, second_model = network(), network(), network()
    whole = METHODS[name](whole_model)
    training = training_of(whole_model, whole, optimizer)
    torch.manual_seed(5)
    list(training.epochs())

    first = METHODS[name](first_model)
    training = training_of(first_model, first, optimizer)
    torch.manual_seed(5)
    for epoch in training.epochs():
        if epoch == 2:
            break
    (tmp_path / "state.safetensors").write_bytes(training.state())

    second = METHODS[name](second_model)
    training = training_of(second_model, second, optimizer)
    torch.manual_seed(99)
    training.load_state(tmp_path / "state.safetensors")
    list(training.epochs())
    assert same(second_model, whole_model)
    assert second.num_masked == whole.num_masked
    assert second.num_regrown == whole.num_regrown
    assert all(torch.equal(second.masks[n], whole.masks[n]) for n in whole.masks)
    assert all(torch.equal(second.tensors[n], whole.tensors[n]) for n in whole.tensors)


@pytest.mark.parametrize("name", WITHOUT_STRENGTH)
def test_a_method_without_strength_leaves_training_as_it_is_to_the_bit(name: str) -> None:
    plain, held = network(), network()
    list(training_of(plain, None).epochs())
    sparsifier = WITHOUT_STRENGTH[name](held)
    training = training_of(held, sparsifier)
    list(training.epochs())
    sparsifier.finish()
    assert same(plain, held)
    assert sparsifier.density == 1


@pytest.mark.parametrize("name", ["network-surgery", "sequential-attention", "fisher-pruning"])
def test_no_exception_leaves_a_patched_model(name: str) -> None:
    model = network()
    before = copy.deepcopy(model)
    sparsifier = METHODS[name](model)
    own = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="expected input"), sparsifier.attached(optimizer):  # noqa: PT012
        model(ROWS[0])
        assert dict(model.named_parameters()).keys() == own.keys()
        assert all(p is own[n] for n, p in model.named_parameters()), "patched outside of a forward pass"
        model(torch.rand(2, 3, 8, 8))
    assert list(model.state_dict()) == list(before.state_dict())
    assert all(p is own[n] for n, p in model.named_parameters())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_a_loop_that_never_calls_the_model_is_told() -> None:
    inner = network()
    outer = nn.Sequential(inner)
    sparsifier = OneShot(outer, sparsity=0.5, at=1)
    optimizer = torch.optim.SGD(outer.parameters(), lr=0.1)
    with sparsifier.attached(optimizer):
        outer(ROWS[0]).sum().backward()
        optimizer.step()
        inner(ROWS[0]).sum().backward()
        with pytest.raises(sn.ShrinknetError, match="must be the one that the loop calls"):
            optimizer.step()


def test_a_step_with_a_closure_has_its_second_hook_after_the_backward_pass() -> None:
    plain, closed = network(), network()
    for model, with_closure in ((plain, False), (closed, True)):
        sparsifier = OneShot(model, "up", sparsity=0.5, at=2, over=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def passes(model=model, optimizer=optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model(ROWS[0]), ROWS[1]).mean()
            loss.backward()
            return loss

        with sparsifier.attached(optimizer):
            for _ in range(3):
                if with_closure:
                    optimizer.step(passes)
                else:
                    passes()
                    optimizer.step()
        assert sparsifier.density == pytest.approx(0.5, abs=0.01)
    assert same(plain, closed)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_see_their_masked_weights(cell: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    layer = cell(5, 6, batch_first=True)
    sparsifier = DynamicNetworkSurgery(layer, 0.3, window=(0, 5))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    x = torch.rand(3, 4, 5)
    with sparsifier.attached(optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            layer(x)[0].square().sum().backward()
            optimizer.step()
        seen = layer(x)[0]
    twin = copy.deepcopy(layer)
    for n, parameter in twin.named_parameters():
        parameter.data = parameter.data * sparsifier.masks[n]
    assert sparsifier.density < 1
    torch.testing.assert_close(seen, twin(x)[0], rtol=0, atol=0)


# ---- scores and schedules against slow twins in float64


def test_the_fisher_score_is_the_square_of_each_sample_s_slope() -> None:
    model = network().double()
    x, y = ROWS[0][:6].double(), ROWS[1][:6]
    sparsifier = FisherPruning(model, x[:2], every=1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    statistics = copy.deepcopy(model[1].state_dict())
    with sparsifier.attached(optimizer):
        cross_entropy(model(x), y).mean().backward()
        optimizer.step()
    found = sparsifier.scores()
    model[1].load_state_dict(statistics)
    twice = FisherPruning(model, x[:2], every=1000)
    with twice.attached(optimizer):  # gradients added up over two passes: every pass is heard
        for rows in (x, x):
            cross_entropy(model(rows), y).mean().backward()
        optimizer.step()
    model[1].load_state_dict(statistics)
    torch.testing.assert_close(twice.scores()["0"], found["0"])
    total = torch.zeros(4, dtype=torch.float64)
    gates = torch.ones(6, 4, dtype=torch.float64, requires_grad=True)
    inner = model[2](model[1](model[0](x))) * gates[:, :, None, None]
    losses = cross_entropy(model[3:](inner), y)
    for n in range(6):  # in training mode samples share statistics: the slope of the sum in sample n's own gate
        total += torch.autograd.grad(losses.sum(), gates, retain_graph=True)[0][n] ** 2 / 2
    torch.testing.assert_close(found["0"], total / 6)


def test_the_size_of_a_channel_is_the_sum_of_its_absolute_weights() -> None:
    model = network().double()
    scores = FisherPruning(model, ROWS[0][:2].double(), rule="l1").scores()
    for group, module in (("0", model[0]), ("3", model[3]), ("7", model[7])):
        by_hand = [sum(abs(float(w)) for w in row.flatten()) for row in module.weight.detach()]
        torch.testing.assert_close(scores[group], torch.tensor(by_hand, dtype=torch.float64))


def test_compression_keeps_the_blocks_of_largest_norm_at_each_switch() -> None:
    model = nn.Sequential(nn.Linear(6, 4)).double()
    sparsifier = AlternatingCompression(model, num_steps=100, block=2, sparsity=0.5)
    sparsifier.step = next(k for k in range(1, 100) if sparsifier.phases.at(k)[0] == "sparse")
    weight = model[0].weight.detach()
    norms = {(i, j): float(weight[i : i + 2, j : j + 2].square().sum()) for i in (0, 2) for j in (0, 2, 4)}
    largest = sorted(norms, key=norms.__getitem__)[3:]
    (mask,) = sparsifier.updated().values()
    assert {(i, j) for i, j in norms if bool(mask[i : i + 2, j : j + 2].all())} == set(largest)
    assert int(mask.sum()) == 12
    assert sparsifier.updated() == {}, "the phase goes on"


def test_a_block_stands_where_its_largest_weight_is_above_the_threshold_for_its_size() -> None:
    model = nn.Sequential(nn.Linear(6, 4)).double()
    sparsifier = GradualThreshold(model, start=1, ramp=2, end=9, freq=1, q=0.2, block=(2, 3))
    for step in (1, 5, 9):
        sparsifier.step = step
        eps = sparsifier.ramp.threshold(step, 0.2) * 6**0.25
        weight = model[0].weight.detach()
        (mask,) = sparsifier.updated().values()
        for i in (0, 2):
            for j in (0, 3):
                stands = float(weight[i : i + 2, j : j + 3].abs().max()) >= eps
                assert bool(mask[i : i + 2, j : j + 3].all()) == bool(mask[i : i + 2, j : j + 3].any()) == stands


def test_the_calibrated_share_is_what_the_dense_network_has_below_the_threshold() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 50)).double()
    dense = {"0.weight": torch.randn(50, 40, dtype=torch.float64)}
    sparsifier = GradualThreshold(model, start=1, ramp=20, end=60, freq=1, sparsity=0.9, dense=dense)
    q = float(dense["0.weight"].abs().quantile(0.9))
    for step in (5, 30, 59):
        sparsifier.step = step
        share = float((dense["0.weight"].abs() < sparsifier.ramp.threshold(step, q)).double().mean())
        (mask,) = sparsifier.updated().values()
        assert 1 - float(mask.double().mean()) == pytest.approx(min(share, 0.9), abs=0.002)
        weight = model[0].weight.detach().abs()
        assert float(weight[mask].min()) >= float(weight[~mask].max()), "the smallest went"


def test_undecayed_scores_as_derived() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x, y, eps = torch.rand(9, 4).double(), torch.arange(9) % 3, 0.01
    slopes = mean_slopes(model, cross_entropy, [(x[:5], y[:5]), (x[5:], y[5:])])
    w = model.weight.detach().clone().requires_grad_()
    without_decay = cross_entropy(x @ w.T + model.bias.detach(), y).mean()
    (d_t,) = torch.autograd.grad(without_decay, w, retain_graph=True)
    (d_l,) = torch.autograd.grad(without_decay + eps / 2 * w.square().sum(), w)
    torch.testing.assert_close(slopes["weight"], d_t)
    worth = {
        "up": (-w * d_l + eps * w**2).abs(),  # the printed formula, its L with decay: equal to |w dT|
        "gp": (w * d_l).abs(),
        "up-literal": (-w * d_t + eps * w**2).abs(),
        "magnitude": w.abs(),
    }
    torch.testing.assert_close(worth["up"], (w * d_t).abs())
    for rule, values in worth.items():
        smaller = copy.deepcopy(model)
        sparsifier = OneShot(smaller, rule, sparsity=0.5, decay=eps)
        sparsifier.prune(slopes)
        kept = set(torch.topk(values.flatten(), 6).indices.tolist())
        assert set(sparsifier.masks["weight"].flatten().nonzero()[:, 0].tolist()) == kept


def test_a_ratio_counts_all_parameters() -> None:
    model = network()
    total = sum(p.numel() for p in model.parameters())
    sparsifier = OneShot(model, ratio=2.0, layers=("3.weight", "7.weight"))
    sparsifier.prune()
    gone = sum(int((~mask).sum()) for mask in sparsifier.masks.values())
    assert (total - gone) / total == pytest.approx(0.5, abs=0.002)


def test_surgery_takes_its_thresholds_from_weights_and_biases_once() -> None:
    model = network()
    w = torch.cat([model[7].weight.detach().flatten(), model[7].bias.detach()]).abs().double()
    n = len(w)
    mu = w.sum() / n
    sd = ((w.square().sum() - n * mu**2) / n).sqrt()
    sparsifier = DynamicNetworkSurgery(model, 0.7, layers="7.weight")
    base = float(mu + 0.7 * sd)
    assert sparsifier.numbers["base/7"] == pytest.approx(base)
    assert torch.equal(sparsifier.masks["7.weight"], model[7].weight.detach().abs() > 0.9 * base)
    assert torch.equal(sparsifier.masks["7.bias"], model[7].bias.detach().abs() > 0.9 * base)
    with torch.no_grad():  # between the thresholds nothing changes; above the upper one a weight comes back
        model[7].weight[0, :3] = torch.tensor([1.0, 1.2, 0.8]) * base
        sparsifier.masks["7.weight"][0, :3] = torch.tensor([False, False, True])
    masks = sparsifier._refreshed(0)
    assert masks["7.weight"][0, :3].tolist() == [False, True, False]


def test_the_slope_of_the_masked_weights_moves_pruned_ones_too() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 1, bias=False).double()
    sparsifier = DynamicNetworkSurgery(layer, 0.0, window=(0, 1))
    mask = sparsifier.masks["weight"].clone()
    assert 0 < int(mask.sum()) < 3
    x, before = torch.rand(5, 3).double(), layer.weight.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with sparsifier.attached(optimizer):
        layer(x).square().mean().backward()
        optimizer.step()
    masked = (before * mask).requires_grad_()
    (slope,) = torch.autograd.grad((x @ masked.T).square().mean(), masked)
    torch.testing.assert_close(layer.weight.detach(), before - 0.1 * slope)


def test_attention_is_n_times_the_softmax_and_logits_get_its_slope() -> None:
    model = network().double()
    sparsifier = SequentialAttention(model, num_steps=100, block=2, pad=True, sparsity=0.5, fewest_blocks=5)
    name = "7.weight"
    logits = sparsifier.tensors[f"logits/{name}"]
    assert torch.equal(sparsifier.attention(name).detach(), torch.ones_like(logits))
    with torch.no_grad():
        logits.normal_()
    attention = sparsifier.attention(name)
    torch.testing.assert_close(attention, logits.numel() * logits.flatten().softmax(0).view(logits.shape))
    shown = sparsifier.effective(name, model[7].weight)
    blocks = sparsifier.blocks[name]
    (found,) = torch.autograd.grad(shown.sum(), logits)
    sums = blocks.tiles(model[7].weight.detach()).sum(2)
    a = attention.detach()
    torch.testing.assert_close(found, a * (sums - (sums * a).mean()))  # the softmax's slope, by hand


def test_attention_keeps_exactly_k_blocks_and_lets_them_back_in_dense_phases() -> None:
    model = network()
    sparsifier = SequentialAttention(model, num_steps=400, block=2, pad=True, sparsity=0.73, fewest_blocks=20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    name = "7.weight"
    total, seen = sparsifier.tensors[f"used/{name}"].numel(), []
    with sparsifier.attached(optimizer):
        for _ in range(400):
            optimizer.zero_grad()
            cross_entropy(model(ROWS[0][:8]), ROWS[1][:8]).mean().backward()
            optimizer.step()
            seen.append((sparsifier.phases.at(sparsifier.step)[0], int(sparsifier.tensors[f"used/{name}"].sum())))
    k = round(total * 0.27)
    assert seen[-1] == ("sparse", k)
    assert all(count == total for kind, count in seen if kind == "dense")
    assert all(count == k for kind, count in seen if kind == "sparse")
    falling = [count for kind, count in seen if kind == "sparsification"]
    assert min(falling) >= k
    assert len(set(falling)) > 5, "blocks fall one after another"


def test_phases_share_the_training_as_published() -> None:
    phases = Phases(1000, sparsifying=True)
    kinds = [phases.at(step)[0] for step in range(1000)]
    assert kinds[:100] == ["dense"] * 100
    assert kinds[850:] == ["sparse"] * 150
    assert kinds[700:850] == ["sparsification"] * 150
    assert [kinds[100:700].count(kind) for kind in ("sparsification", "sparse", "dense")] == [204, 198, 198]
    alternating = Phases(1000, sparsifying=False)
    kinds = [alternating.at(step)[0] for step in range(1000)]
    switches = sum(a != b for a, b in itertools.pairwise(kinds))
    assert switches == 15, "seven cycles of two phases, and the last sparse one"
    assert kinds[-150:] == ["sparse"] * 150


def test_the_sparsification_schedule() -> None:
    for t in (0.0, 0.3, 1.0):
        assert exponential(t) == pytest.approx((1 - math.e ** (-4 * t)) / (1 - math.e**-4))


@given(st.integers(0, 300), st.integers(1, 300), st.integers(1, 300), st.integers(1, 40))
def test_the_ramp_ends_at_q_and_never_falls(start: int, rise: int, more: int, freq: int) -> None:
    ramp = Ramp(start, start + rise, start + rise + more, freq)
    values = [ramp.threshold(step, 0.3) for step in range(start, ramp.end + 1)]
    assert values == sorted(values)
    theta = 2 * 0.3 * freq / (2 * rise + 3 * more)
    assert values[-1] == pytest.approx((theta * (rise + 1) + 1.5 * theta * (more + 1)) / freq)
    assert values[-1] == pytest.approx(0.3, rel=5 / (2 * rise + 3 * more) + 1e-9)
    assert ramp.is_due(ramp.end)


def test_the_calibrated_threshold_hits_its_sparsity_and_blocks_live_or_die_whole() -> None:
    model = network()
    sparsifier = METHODS["gradual-threshold, calibrated"](model)
    training = training_of(model, sparsifier)
    list(training.epochs())
    assert 1 - sparsifier.density == pytest.approx(0.8, abs=0.005)
    model = network()
    sparsifier = METHODS["gradual-threshold, blocks"](model)
    training = training_of(model, sparsifier)
    list(training.epochs())
    for name, mask in sparsifier.masks.items():
        sums = sparsifier.blocks[name].tiles(mask.double()).sum(2)
        sizes = sparsifier.blocks[name].tiles(torch.ones_like(mask).double()).sum(2)
        assert bool(((sums == 0) | (sums == sizes)).all())


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4))
def test_tiles_cover_a_matrix_once(rows: int, columns: int, height: int, width: int) -> None:
    weight = torch.randn(rows, columns, dtype=torch.float64)
    blocks = Blocks.of("w", weight, (height, width), pad=True)
    assert float(blocks.tiles(weight).sum()) == pytest.approx(float(weight.sum()))
    norms = blocks.norms(weight)
    by_hand = [
        [float(weight[i : i + height, j : j + width].square().sum().sqrt()) for j in range(0, columns, width)]
        for i in range(0, rows, height)
    ]
    torch.testing.assert_close(norms, torch.tensor(by_hand, dtype=torch.float64))
    large = blocks.up(norms)
    assert large.shape == weight.shape
    assert bool((large[0, 0] == norms[0, 0]).all())


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 1.0), st.integers(0, 99))
def test_random_connections_leave_no_dead_filter(outputs: int, inputs: int, density: float, seed: int) -> None:
    model = nn.Sequential(nn.Conv2d(max(inputs, 2), outputs, 1))
    sparsifier = RandomConnections(model, density, seed=seed)
    mask = sparsifier.masks["0.weight"][:, :, 0, 0]
    assert bool(mask.any(0).all())
    assert bool(mask.any(1).all())
    assert len(set(mask.sum(1).tolist())) == 1, "every filter reads as many"


def test_growing_connections_keep_what_is_there_and_scale_to_the_fan_in() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 64, 3))
    first = model[0].weight.detach().clone()
    sparsifier = RandomConnections(model, 1 / 16, every=2)
    mask = sparsifier.masks["0.weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    counts = []
    for _ in range(2):  # attached twice, scaled once
        with sparsifier.attached(optimizer):
            torch.testing.assert_close(model[0].weight.detach(), torch.where(mask, first * 4, 0.0))
    assert float(model[0].weight.detach()[mask].std()) == pytest.approx(4 * float(first.std()), rel=0.05)
    with sparsifier.attached(optimizer):
        for _ in range(9):
            model(torch.rand(1, 16, 4, 4)).sum().backward()
            optimizer.step()
            counts.append(int(sparsifier.masks["0.weight"][0, :, 0, 0].sum()))
    assert counts == [1, 2, 2, 4, 4, 8, 8, 16, 16]
    assert sparsifier.density == 1


def test_relevance_with_retraining_is_the_criterion_on_the_weights_as_they_are() -> None:
    model = network().double()
    task = sn.Task(model, "cross-entropy", (ROWS[0].double(), ROWS[1]))
    pruning = Skeletonization(task, criterion="ablation", every=1, count=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        with pruning.attached(optimizer):
            optimizer.zero_grad()
            cross_entropy(model.eval()(ROWS[0].double()), ROWS[1]).mean().backward()
            optimizer.step()
        fresh = sn.Task(copy.deepcopy(model), "cross-entropy", (ROWS[0].double(), ROWS[1]))
        theirs = dict(sn.rank(fresh))
        for group, scores in pruning.scores().items():
            for index, score in enumerate(scores.tolist()):
                if bool(pruning.tensors[f"alive/{group}"][index]):
                    assert score == pytest.approx(theirs[sn.Neuron(group, index)], abs=1e-9)
    assert len(pruning.removed) == 3


@pytest.mark.parametrize("name", METHODS)
def test_a_kept_state_stands_still_and_resumes_in_any_order(name: str) -> None:
    """The state of one moment, loaded into a method made before or after the weights were."""
    model = network()
    sparsifier = METHODS[name](model)
    training = training_of(model, sparsifier)
    for epoch in training.epochs():
        if epoch == 2:
            break
    tensors, numbers = sparsifier.state()
    kept, weights = copy.deepcopy((tensors, numbers)), copy.deepcopy(model.state_dict())
    list(training.epochs())
    assert numbers == kept[1]
    assert all(torch.equal(tensors[n], kept[0][n]) for n in tensors)
    found = []
    for weights_first in (True, False):
        other = network(seed=1)
        if weights_first:
            other.load_state_dict(weights)
        resumed = METHODS[name](other)
        other.load_state_dict(weights)
        resumed.load_state(tensors, numbers)
        with resumed.attached(torch.optim.SGD(other.parameters(), lr=0.0)), torch.no_grad():
            found.append(other.eval()(ROWS[0]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_copy_of_an_attached_model_is_a_plain_one() -> None:
    model = network()
    sparsifier = METHODS["network-surgery"](model)
    with sparsifier.attached(torch.optim.SGD(model.parameters(), lr=0.1)):
        twin = copy.deepcopy(model)
    plain = network()
    with torch.no_grad():
        torch.testing.assert_close(twin.eval()(ROWS[0]), plain.eval()(ROWS[0]), rtol=0, atol=0)


def test_frozen_pruned_weights_do_not_move_after_their_window() -> None:
    model = network()
    sparsifier = DynamicNetworkSurgery(model, 0.5, window=(0, 6), freeze_pruned=True)
    training = training_of(model, sparsifier, "sgd")
    seen: list = [None]
    for epoch in training.epochs():
        seen.append({n: w.detach().clone() for n, w in sparsifier.weights.items()})
        if epoch == 4:
            break
    for n, mask in sparsifier.masks.items():
        assert torch.equal(seen[2][n][~mask], seen[4][n][~mask])
        assert not torch.equal(seen[2][n][mask], seen[4][n][mask]) or not bool(mask.any())


def test_other_layers_stand_still_only_while_a_window_is_open() -> None:
    model = network()
    sparsifier = DynamicNetworkSurgery(model, 0.5, window={"0": (0, 6), "*": (0, 12)}, fix_others=True)
    seen = [model[0].weight.detach().clone()]
    for epoch in training_of(model, sparsifier, "sgd").epochs():  # six steps an epoch
        seen.append(model[0].weight.detach().clone())
        if epoch == 3:
            break
    moved = [not torch.equal(*pair) for pair in itertools.pairwise(seen)]
    assert moved == [True, False, True], "open; closed while others are open; all closed"


def test_the_slope_of_the_group_lasso_is_that_of_its_penalty() -> None:
    """lambda times the sum of the tiles' norms, by autograd, on the tiles themselves."""
    model = nn.Linear(6, 4, bias=False).double()
    sparsifier = GradualThreshold(model, start=4, ramp=8, end=16, freq=2, block=2, group_lasso=0.3)
    model.weight.grad = torch.zeros_like(model.weight)
    sparsifier.after_backward()
    weight = model.weight.detach().clone().requires_grad_()
    tiles = weight.view(2, 2, 3, 2).movedim(2, 1).flatten(2)
    (0.3 * tiles.norm(dim=2).sum()).backward()
    torch.testing.assert_close(model.weight.grad, weight.grad)


def test_the_lowest_score_of_all_groups_goes_first_and_each_group_keeps_a_neuron() -> None:
    class Given(Skeletonization):
        def scores(self) -> dict:
            return {
                name: torch.arange(width) + 100.0 * place for place, (name, width) in enumerate(self.widths.items())
            }

    model = network()
    pruning = Given(task_of(model), every=1)
    for _ in training_of(model, pruning).epochs():
        pass
    first, *others = pruning.widths
    order = [(neuron.group, neuron.index) for neuron in pruning.removed]
    width = pruning.widths[first]
    assert order[: width - 1] == [(first, k) for k in range(width - 1)], "the cheapest group empties first, but for one"
    assert {group for group, _ in order[width - 1 :]} <= set(others)
    assert len(order) == min(STEPS, sum(w - 1 for w in pruning.widths.values()))


def test_a_block_that_fell_while_sparsifying_does_not_come_back() -> None:
    model = network()
    sparsifier = SequentialAttention(model, num_steps=10 * STEPS, block=2, pad=True, sparsity=0.7, fewest_blocks=5)
    fallen: dict = {}
    with torch.no_grad():
        for step in range(1, 10 * STEPS + 1):
            sparsifier.step = step
            sparsifier.updated()
            if sparsifier.phases.at(step)[0] == "dense":
                fallen.clear()  # all come back there
                continue
            for name in sparsifier.blocks:
                used = sparsifier.tensors[f"used/{name}"]
                assert not bool((used & fallen.get(name, torch.zeros_like(used))).any())
                fallen[name] = ~used
                sparsifier.tensors[f"logits/{name}"][~used] = 5.0  # momentum may carry what is gone to the top
    assert any(bool(gone.any()) for gone in fallen.values())


def test_slopes_are_the_mean_of_the_last_steps_before_the_cut() -> None:
    model = nn.Linear(3, 2)
    sparsifier = OneShot(model, "up", sparsity=0.5, at=6, over=2)
    for step in range(6):
        sparsifier.step = step
        model.weight.grad = torch.full_like(model.weight, float(step))
        sparsifier.after_backward()
    assert sparsifier.tensors["slope/weight"].unique().tolist() == [4.5]


def test_the_sparsification_phase_falls_along_its_schedule() -> None:
    model = nn.Linear(40, 20)
    sparsifier = SequentialAttention(model, num_steps=400, block=2, sparsity=0.8, fewest_blocks=5)
    seen = 0
    with torch.no_grad():
        for step in range(1, 400):
            sparsifier.step = step
            sparsifier.updated()
            kind, progress = sparsifier.phases.at(step)
            if kind == "sparsification":
                seen += 1
                used = int(sparsifier.tensors["used/weight"].sum())
                assert used == pytest.approx(
                    200 * (1 - 0.8 * (1 - math.exp(-4 * progress)) / (1 - math.exp(-4))), abs=1
                )
    assert seen > 10


def test_logits_survive_a_step_that_mixed_precision_skips() -> None:
    model = network()
    sparsifier = METHODS["sequential-attention"](model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with sparsifier.attached(optimizer):
        (cross_entropy(model(ROWS[0]), ROWS[1]).mean() * 1e38 * 1e38).backward()  # the scaler sees infinity, and skips
        optimizer.zero_grad()
        for _ in range(2):
            optimizer.zero_grad()
            cross_entropy(model(ROWS[0]), ROWS[1]).mean().backward()
            optimizer.step()
    assert all(bool(logits.isfinite().all()) for logits in sparsifier.logits)
    assert any(bool((logits != 0).any()) for logits in sparsifier.logits)
    sparsifier.finish()
    once = copy.deepcopy(model.state_dict())
    sparsifier.finish()
    assert all(torch.equal(value, once[n]) for n, value in model.state_dict().items()), (
        "finishing twice is finishing once"
    )


def test_fisher_hears_frozen_norms_and_two_passes_before_one_backward() -> None:
    model = network().eval()
    sparsifier = FisherPruning(model, ROWS[0][:2], every=1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with sparsifier.attached(optimizer):
        first, second = model(ROWS[0][:5]), model(ROWS[0][5:8])
        (cross_entropy(first, ROWS[1][:5]).mean() + cross_entropy(second, ROWS[1][5:8]).mean()).backward()
        optimizer.step()
    apart = FisherPruning(model, ROWS[0][:2], every=1000)
    with apart.attached(optimizer):
        for rows in (slice(0, 5), slice(5, 8)):
            cross_entropy(model(ROWS[0][rows]), ROWS[1][rows]).mean().backward()
        optimizer.step()
    for group, scores in sparsifier.scores().items():
        assert bool((scores > 0).any())
        torch.testing.assert_close(scores, apart.scores()[group])
    deaf = FisherPruning(model, ROWS[0][:2], every=1)
    with deaf.attached(optimizer):
        with torch.no_grad():
            model(ROWS[0])
        with pytest.raises(sn.ShrinknetError, match="must have scores to choose by"):
            optimizer.step()


def test_neurons_under_a_norm_over_neurons_or_read_by_shared_weights_stay() -> None:
    normed = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    assert FisherPruning(normed, torch.rand(2, 4)).widths == {"3": 5}
    shared = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
    shared[4].weight = shared[2].weight
    with pytest.raises(sn.BadInputError, match="a network with neurons that one layer writes"):
        FisherPruning(shared, torch.rand(2, 4))
    tied = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(sn.BadInputError, match="a network with weights to mask"):
        OneShot(tied)
    assert list(OneShot(tied, layers="1.weight").weights) == ["1.weight"]


# ---- plans


@given(networks, st.data())
def test_removing_what_the_plan_says_changes_no_output(drawn, data) -> None:
    model = copy.deepcopy(drawn.model)
    matrices = [(n, p) for n, p in model.named_parameters() if p.dim() > 1]
    with torch.no_grad():
        for _, parameter in matrices:
            for axis in (0, 1):
                gone = data.draw(st.lists(st.integers(0, parameter.shape[axis] - 1), max_size=parameter.shape[axis]))
                if data.draw(st.booleans()):
                    parameter.index_fill_(axis, torch.tensor(gone, dtype=torch.long), 0)
    task = sn.Task(model, "cross-entropy", (drawn.inputs, drawn.targets))
    plan = to_plan(gated(task))
    run = sn.remove(task, plan)
    assert run.verification.holds
    with torch.no_grad():
        torch.testing.assert_close(run.model(drawn.inputs), model(drawn.inputs), rtol=1e-9, atol=1e-9)


def test_the_plan_follows_zeros_upstream_and_spares_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    with torch.no_grad():
        model[4].weight[:, 2] = 0  # neuron 2 of the second layer is not read
        model[2].weight[[0, 1, 3, 4], 3] = 0  # neuron 3 of the first is read by it alone
        model[0].weight[5] = 0  # neuron 5 of the first is constantly 0
        model[0].bias[5] = 0
        model[0].weight[1] = 0  # neuron 1 is constant, not 0
        model[0].bias[1] = 1
    task = sn.Task(model, "cross-entropy", (torch.rand(9, 4), torch.arange(9) % 2))
    assert {str(n) for n in to_plan(gated(task)).removed} == {"2[2]", "0[3]", "0[5]"}

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(self.norm(self.a(x)))

    normed = Normed()
    with torch.no_grad():
        normed.b.weight[:, 0] = 0
    task = sn.Task(normed, "cross-entropy", (torch.rand(9, 4), torch.arange(9) % 2))
    assert to_plan(gated(task)).removed == (), "the norm's statistics read it"


@pytest.mark.parametrize("name", ["fisher-pruning", "skeletonization"])
def test_removed_neurons_are_cut_out(name: str) -> None:
    model = network()
    sparsifier = METHODS[name](model)
    training = training_of(model, sparsifier)
    list(training.epochs())
    sparsifier.finish()
    task = task_of(model)
    plan = to_plan(gated(task))
    assert set(sparsifier.removed) <= set(plan.removed)
    assert len(sparsifier.removed) == sparsifier.count
    run = sn.remove(task, plan)
    assert sum(p.numel() for p in run.model.parameters()) < sum(p.numel() for p in model.parameters())


# ---- recall


def test_the_slope_of_intensification_is_the_regression_without_intercept() -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    before, after = generator.normal(size=10), generator.normal(size=10)
    (by_hand,), *_ = np.linalg.lstsq(before[:, None], after, rcond=None)
    assert intensification(before, after) == pytest.approx(by_hand)
    recall = recalls(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]), 3)
    assert recall.tolist() == [1.0, 1.0, 0.5]
    assert normalised_balance(recall, 0.75) == pytest.approx([1 / 3, 1 / 3, -1 / 3])


class Tagging(nn.Module):
    """Ids and a mask, two outputs; the second is the loss's."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(11, 6), nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, input_ids, attention_mask):
        hidden = torch.sigmoid(self.hidden(self.words(input_ids))) * attention_mask[..., None]
        return {"kept": attention_mask.float(), "logits": self.head(hidden.sum(1))}


def tagging(**rows: torch.Tensor) -> sn.Task:
    torch.manual_seed(0)
    ids = {"input_ids": torch.randint(11, (40, 7)), "attention_mask": torch.ones(40, 7).long()}
    ids["attention_mask"][::2, 4:] = 0
    return sn.Task(Tagging(), "cross-entropy", {**ids, "labels": torch.arange(40) % 3, **rows})


def test_training_on_trees_is_the_loop_by_hand() -> None:
    task = tagging()
    by_hand, rows = copy.deepcopy(task.model).train(), task.calibration.whole()
    ids, mask = rows.inputs.tensors
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-2)
    for epoch in range(2):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(3 * 1_000_003 + epoch))
        for place, chosen in enumerate(order.split(16)):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 + math.cos(math.pi * (epoch + place / 3) / 2)) / 2
            optimizer.zero_grad()
            outputs = by_hand(ids[chosen], mask[chosen])["logits"]
            nn.functional.cross_entropy(outputs, rows.targets[chosen], reduction="none").mean().backward()
            optimizer.step()
    found = sn.sparsify(
        task, "one-shot", options={"sparsity": 0.0}, epochs=2, batch_size=16, learning_rate=1e-2, seed=3
    )
    for name, value in found.model.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options"),
    [("one-shot", {"sparsity": 0.9}), ("gradual-threshold", {}), ("fisher-pruning", {"every": 2, "count": 1}),
     ("skeletonization", {"every": 2, "count": 1})],
)  # fmt: skip
def test_networks_of_several_inputs_and_outputs_get_smaller_while_they_train(method: str, options: dict) -> None:
    found = sn.sparsify(tagging(), method, options=options, epochs=3, batch_size=8)
    assert found.plan.removed
    assert found.smaller.verification.holds


def test_what_a_mask_hides_in_an_example_is_not_taken_for_nothing() -> None:
    """Its weights and bias are zero, and sigmoid(0) = 0.5 is read: it stays."""
    task = tagging()
    with torch.no_grad():
        task.model.hidden.weight[3], task.model.hidden.bias[3] = 0, 0
        task.model.head.weight[:, 5] = 0
    plan = to_plan(gated(task), task.example_inputs)
    assert [str(neuron) for neuron in plan.removed] == ["hidden[5]"]
    with pytest.raises(
        sn.BadInputError, match=r"^example_inputs must be two rows of what the network takes\. Got nothing"
    ):
        to_plan(gated(task))
