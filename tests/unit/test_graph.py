"""What the graph follows, what it freezes, and the reasons it gives."""

import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.engine.program import Program
from shrinknet.graph.restrict import restrict


def reasons(model: nn.Module, *shape: int) -> set[str]:
    return {frozen.reason for frozen in sn.trace(model, torch.randn(2, *shape)).frozen}


class Wrapped(nn.Module):
    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.work = forward

    def forward(self, x):
        return self.work(self, x)


def test_groups_slices_and_owners() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2))
    (group,) = sn.trace(model, torch.randn(2, 1, 3, 3)).groups
    assert (group.name, group.width) == ("0", 3)
    assert [(s.parameter, s.axis, s.role) for s in group.slices] == [
        ("0.weight", 0, "writes"),
        ("0.bias", 0, "writes"),
        ("3.weight", 1, "reads"),
    ]
    assert group.slices[2].owners == (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2), "each channel owns its flattened places"


def test_an_operator_without_a_rule_freezes_its_neighbours_and_says_so() -> None:
    model = Wrapped(
        lambda m, x: m.three(m.two(torch.cummax(m.one(x), 1)[0])),
        one=nn.Linear(4, 6),
        two=nn.Linear(6, 5),
        three=nn.Linear(5, 2),
    )
    traced = sn.trace(model, torch.randn(2, 4))
    assert [group.name for group in traced.groups] == ["two"]
    assert "no rule for cummax" in reasons(model, 4)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda m, x: m.two(torch.softmax(m.one(x), 1)), "mixed or moved at softmax"),
        (lambda m, x: m.two(m.one(x)[:, (m.one(x)[0] > 0).long()]), "rows are looked up at index"),
        (lambda m, x: m.two(m.one(x) + torch.nn.functional.pad(x, (0, 2))), "meets values of fixed width at add"),
        (
            lambda m, x: m.two(torch.nn.functional.pad(m.one(x), (1, 1), mode="circular")[:, 1:7]),
            "mixed or moved at pad",
        ),
        (lambda m, x: m.two(m.one(x) - m.one(x).prod(1, keepdim=True)), "reduced over at prod"),
        (lambda m, x: m.two(torch.einsum("bii->bi", m.one(x)[:, :, None] * m.one(x)[:, None])), "no rule for einsum"),
    ],
)
def test_what_cannot_be_followed_is_frozen_with_the_reason(forward, reason: str) -> None:
    model = Wrapped(forward, one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    traced = sn.trace(model, torch.randn(2, 4))
    assert traced.groups == ()
    assert reason in {frozen.reason.split(" (in")[0] for frozen in traced.frozen}


def test_every_parameter_element_is_in_a_group_or_frozen() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 3)
    )
    traced = sn.trace(model, torch.randn(2, 2, 8, 8))
    accounted: dict[tuple[str, int], int] = {}
    for group in traced.groups:
        for part in group.slices:
            key = (part.parameter, part.axis)
            accounted[key] = accounted.get(key, 0) + sum(owner >= 0 for owner in part.owners)
    for frozen in traced.frozen:
        key = (frozen.parameter, frozen.axis)
        accounted[key] = accounted.get(key, 0) + frozen.num_elements
    for name, tensor in traced.tensors.items():
        for axis, size in enumerate(tensor.shape):
            if size > 1:
                assert accounted[name, axis] == size, (name, axis)


def test_in_place_operators_are_followed() -> None:
    def forward(m, x):
        hidden = m.one(x)
        torch.relu_(hidden)
        hidden.mul_(2)
        return m.two(hidden)

    model = Wrapped(forward, one=nn.Linear(4, 6), two=nn.Linear(6, 2)).double()
    inputs = torch.randn(5, 4).double()
    task = sn.Task(model, "cross-entropy", (inputs, torch.arange(5) % 2))
    run = sn.prune(task, goals=[sn.RemovedNeurons(3)])
    torch.testing.assert_close(run.model(inputs), run.exported.module()(inputs), rtol=0, atol=1e-12)
    assert run.model.one.out_features == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda hidden: hidden.view(-1, 2, 3).relu_(),
        lambda hidden: hidden[:, 1:4].mul_(3),
        lambda hidden: hidden[:, 2].fill_(0.5),
        lambda hidden: hidden.view(-1, 2, 3)[:, :1].sigmoid_(),
    ],
)
def test_a_change_through_a_view_is_written_back(change) -> None:
    def forward(m, x):
        hidden = m.one(x)
        change(hidden)
        return m.two(hidden)

    model = Wrapped(forward, one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    traced, inputs = sn.trace(model, torch.randn(2, 4)), torch.randn(5, 4)
    torch.testing.assert_close(Program(traced).outputs(inputs), model(inputs), rtol=0, atol=1e-6)


def test_a_change_through_a_transposed_view_is_refused() -> None:
    def forward(m, x):
        hidden = m.one(x)
        hidden.t().relu_()
        return m.two(hidden)

    model = Wrapped(forward, one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    with pytest.raises(
        sn.UnfollowedOperatorError, match=r"^Cannot follow values through relu.*: it changes a tensor in place\."
    ):
        sn.trace(model, torch.randn(2, 4))


@pytest.mark.parametrize(
    "alias",
    [
        lambda hidden: hidden.view(-1, 6),
        lambda hidden: hidden.unsqueeze(0)[0],
        lambda hidden: torch.nn.functional.dropout(hidden, training=False),
        lambda hidden: hidden.detach(),
    ],
)
def test_a_change_that_an_older_name_sees_is_refused(alias) -> None:
    def forward(m, x):
        hidden = m.one(x)
        older = alias(hidden)
        torch.relu_(hidden)
        return m.two(older)

    model = Wrapped(forward, one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    with pytest.raises(sn.UnfollowedOperatorError, match=r"^Cannot follow values through "):
        sn.rank(sn.Task(model, "cross-entropy", (torch.randn(5, 4), torch.arange(5) % 2)))


def test_a_graph_that_computes_something_else_than_the_model_is_refused(monkeypatch) -> None:
    from shrinknet.graph import trace as tracing

    honest = tracing._own_copy

    def other(module):
        copy = honest(module)
        with torch.no_grad():
            copy.get_parameter("one.weight")[0] += 1
        return copy

    monkeypatch.setattr(tracing, "_own_copy", other)
    model = Wrapped(lambda m, x: m.two(m.one(x)), one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    with pytest.raises(
        sn.UnfollowedOperatorError, match="its exported graph computes something else than the model itself"
    ):
        sn.rank(sn.Task(model, "cross-entropy", (torch.randn(5, 4), torch.arange(5) % 2)))


@pytest.mark.parametrize(
    ("forward", "frozen"),
    [
        (lambda m, x: m.two(torch.cat(m.one(x).chunk(2, 1), 1)), False),
        (lambda m, x: m.two(nn.functional.max_pool1d(m.one(x)[:, None], 1, return_indices=True)[0][:, 0]), True),
        (lambda m, x: m.two(nn.functional.avg_pool1d(m.one(x), 1)), True),
        (lambda m, x: m.two(m.one(x).float()), False),
        (lambda m, x: m.two(m.one(x.float())), False),
        (lambda m, x: m.two(m.one(x).unflatten(-1, (6, 1)).flatten(1)), False),
        (lambda m, x: m.two(m.one(x).t().t()), False),
        (lambda m, x: m.two(m.one(x)) + m.one(x)[:, :1].sum(1, keepdim=True), False),
        (lambda m, x: m.two(m.one(x)) + torch.linspace(0, 1, 2)[:, None].type_as(m.one(x)).mT, False),
        (lambda m, x: m.two(m.one(x[:, None]).sum(1)), False),
        (lambda m, x: m.two(m.one(x[:, None]).amax((1,), keepdim=True)[:, 0]), False),
    ],
)
def test_odd_but_legal_networks_are_cut_or_frozen_never_wrong(forward, frozen: bool) -> None:
    model = Wrapped(forward, one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    inputs = torch.randn(5, 4)
    task = sn.Task(model, "cross-entropy", (inputs, torch.arange(5) % 2))
    if frozen:
        with pytest.raises(sn.NothingToRemoveError, match=r"where every neuron is frozen \(.*no (rule|samples axis)"):
            sn.prune(task)
        return
    run = sn.prune(task, goals=[sn.RemovedNeurons(2)])
    torch.testing.assert_close(run.exported.module()(inputs), run.network.outputs(inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        (lambda y: nn.functional.max_pool1d(y, 3, 1, 1), "mixed or moved at max_pool1d"),
        (
            lambda y: nn.functional.avg_pool1d(y, 3, 1, 1, count_include_pad=False),
            "a window over neighbours at avg_pool1d",
        ),
        pytest.param(
            lambda y: nn.functional.conv1d(y, torch.ones(1, 1, 4), padding="same"),
            "a window over neighbours at conv1d",
            marks=pytest.mark.filterwarnings("ignore:Using padding"),
        ),
        (lambda y: nn.functional.conv_transpose1d(y, torch.ones(1, 1, 1)), "positions of conv_transpose1d"),
    ],
    ids=["largest", "fewer at the ends", "uneven", "transposed"],
)
def test_neighbours_that_a_window_reads_otherwise_stay_and_all_others_are_found(window, reason: str) -> None:
    model = Wrapped(
        lambda m, x: m.four(m.three((y := m.two(m.one(x).relu())) * window(y.mean((2, 3))[:, None])[:, 0, :, None, None])),
        one=nn.Conv2d(3, 4, 1), two=nn.Conv2d(4, 6, 1), three=nn.Conv2d(6, 5, 1), four=nn.Conv2d(5, 2, 1),
    )  # fmt: skip
    traced = sn.trace(model, torch.randn(2, 3, 5, 5))
    assert {group.name: group.width for group in traced.groups} == {"one": 4, "three": 5}
    assert any(frozen.reason.startswith(reason) for frozen in traced.frozen if frozen.parameter == "two.weight")


def inner_region(m, y):
    with torch.autocast("cpu", enabled=False):
        plain = m.two(y.float()).sum((2, 3))
    return plain + m.two(y).mean((2, 3))


def without_gradients(m, y):
    with torch.no_grad():
        return m.two(y * torch.tensor(2.0)).mean((2, 3))


@pytest.mark.parametrize(
    "work",
    [
        lambda m, y: m.two(y).mean((2, 3)),
        lambda m, y: (m.two(y).flatten(2).softmax(-1) * y[:, :2].flatten(2)).sum(-1),
        lambda m, y: torch.einsum("bchw,oc->bo", y, m.two.weight[:, :, 0, 0]),
        lambda m, y: torch.cat([m.two(y).mean((2, 3)), y.float().mean((2, 3))], 1)[:, :2],
        lambda m, y: nn.functional.layer_norm(m.two(y).mean((2, 3)), (2,)),
        inner_region,
        without_gradients,
    ],
    ids=["conv2d", "softmax", "einsum", "cat of two types", "layer_norm", "a region inside", "without gradients"],
)
def test_an_autocast_region_is_followed_and_computes_the_same_bits(work) -> None:
    def forward(m, x):
        with torch.autocast("cpu", torch.bfloat16):
            return work(m, torch.relu(m.norm(m.one(x)))).float()

    model = Wrapped(forward, one=nn.Conv2d(3, 6, 3, padding=1), norm=nn.BatchNorm2d(6), two=nn.Conv2d(6, 2, 1)).eval()
    inputs = torch.randn(6, 3, 4, 4)
    assert torch.equal(Program(sn.trace(model, inputs)).outputs(inputs), model(inputs))
    run = sn.prune(sn.Task(model, "cross-entropy", (inputs, torch.arange(6) % 2)), goals=[sn.RemovedNeurons(2)])
    assert run.verification.broke_at is None
    assert run.cut.get_parameter("one.weight").shape[0] == 4


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("start", ["zeros of a size", "none given"])
def test_a_loop_over_a_cell_is_one_group_and_the_own_class_follows(cell: type[nn.Module], start: str) -> None:
    def forward(m, x):
        zeros = x.new_zeros(x.shape[0], m.cell.hidden_size)
        state = None if start == "none given" else (zeros, zeros) if cell is nn.LSTMCell else zeros
        for step in x.unbind(1):
            state = m.cell(step, state)
        return m.two(state[0] if cell is nn.LSTMCell else state)

    model = Wrapped(forward, cell=cell(4, 6), two=nn.Linear(6, 2))
    inputs = torch.randn(6, 3, 4)
    run = sn.prune(sn.Task(model, "cross-entropy", (inputs, torch.arange(6) % 2)), goals=[sn.RemovedNeurons(2)])
    assert {group.name: group.width for group in sn.trace(model, inputs).groups} == {"cell": 6}
    assert run.model.cell.hidden_size == run.model.two.in_features == 4
    torch.testing.assert_close(run.model(inputs), run.exported.module()(inputs), rtol=0, atol=1e-5)


def test_a_model_that_export_cannot_follow_is_refused_in_one_sentence() -> None:
    model = Wrapped(lambda m, x: m.two(m.one(x)) if x.sum() > 0 else x[:, :2], one=nn.Linear(4, 6), two=nn.Linear(6, 2))
    with pytest.raises(
        sn.BadInputError,
        match=r"^model must be a network that computes the same operators on the same sizes, whatever the values\. Got ",
    ):
        sn.trace(model, torch.randn(2, 4))


def test_a_network_in_training_mode_of_batch_norm_is_refused() -> None:
    model = Wrapped(
        lambda m, x: m.two(nn.functional.batch_norm(m.one(x), None, None, training=True)),
        one=nn.Linear(4, 6),
        two=nn.Linear(6, 2),
    )
    with pytest.raises(
        sn.BadInputError,
        match=r"^model must be a network in eval mode\. Got batch_norm with the statistics of each batch\.",
    ):
        sn.trace(model, torch.randn(3, 4))


def test_keep_matches_every_layer_that_writes_into_a_group() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2)
    )
    traced = sn.trace(model, torch.randn(2, 1, 3, 3))
    for pattern in ("0", "0.weight", "1", "1.*"):
        assert [group.name for group in restrict(traced, keep=[pattern]).groups] == ["3"]
    only = restrict(traced, only=["3"])
    assert [group.name for group in only.groups] == ["3"]
    assert "left whole on request" in {frozen.reason for frozen in only.frozen}
    assert restrict(traced, keep="0.weight").groups == only.groups, "one string is one glob, not its letters"
    assert restrict(traced) is traced
    with pytest.raises(sn.BadInputError, match=r"keep must be a glob of group names\. Got '4'\."):
        restrict(traced, keep=["4"])


@pytest.mark.parametrize(
    "network", [nn.RNN(6, 8, 3, batch_first=True), nn.LSTM(6, 8, bidirectional=True, batch_first=True)]
)
def test_every_group_is_found_by_its_own_name(network: nn.Module) -> None:
    """Names of groups may hold brackets, which a glob would take for a choice of letters."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = network, nn.LazyLinear(3)
            self.head(self.rnn(torch.randn(2, 5, 6))[0])

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    traced = sn.trace(Last(), torch.randn(2, 5, 6))
    assert any("[" in group.name for group in traced.groups)
    for group in traced.groups:
        assert [one.name for one in restrict(traced, only=group.name).groups] == [group.name]
        assert group.name not in [one.name for one in restrict(traced, keep=group.name).groups]
