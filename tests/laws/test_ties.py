"""Laws of ties: widths that a class says but once keep one share, at every step and budget, and the class comes back."""

import logging
from collections.abc import Callable
from math import gcd
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import shrinknet as sn


class Net(nn.Module):
    """A dense layer, a part, and a dense layer on the last position."""

    def __init__(self, part: nn.Module, inside: int, given: int, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.part, self.last, self.call = nn.Linear(4, inside), part, nn.Linear(given, 3), call

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.call(self.part, torch.relu(self.first(x)))[:, -1])


class Pieces(nn.Module):
    """Pieces of one layer's outputs that go ways of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.one, self.other = nn.Linear(6, 24), nn.Linear(12, 5), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.both(x).chunk(2, -1)
        return torch.relu(self.one(torch.relu(one))) - torch.relu(self.other(torch.tanh(other)))


class Crossing(nn.Module):
    """Queries from one stream, keys and values of another width from another."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.memory = nn.Linear(6, 8), nn.Linear(6, 10)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True, kdim=10, vdim=10)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory(x)
        return self.attention(self.queries(x), memory, memory, need_weights=False)[0]


def outputs(part: nn.Module, x: Tensor) -> Tensor:
    return part(x)[0]


def itself(part: nn.Module, x: Tensor) -> Tensor:
    return part(x)


def attended(part: nn.Module, x: Tensor) -> Tensor:
    return part(x, x, x, need_weights=False)[0]


def attended_with_weights(part: nn.Module, x: Tensor) -> Tensor:
    return part(x, x, x)[0]


def translated(part: nn.Module, x: Tensor) -> Tensor:
    return part(x, x.flip(1))


PARTS: dict[str, Callable[[], Net]] = {
    "LSTM, two layers": lambda: Net(nn.LSTM(6, 8, 2, batch_first=True), 6, 8, outputs),
    "GRU, both ways": lambda: Net(nn.GRU(6, 8, bidirectional=True, batch_first=True), 6, 16, outputs),
    "RNN, three layers both ways": lambda: Net(nn.RNN(6, 6, 3, bidirectional=True, batch_first=True), 6, 12, outputs),
    "LSTM that projects": lambda: Net(nn.LSTM(6, 8, 2, batch_first=True, proj_size=4), 6, 4, outputs),
    "attention": lambda: Net(nn.MultiheadAttention(8, 4, batch_first=True), 8, 8, attended),
    "attention, weights asked for": lambda: Net(
        nn.MultiheadAttention(12, 3, batch_first=True), 12, 12, attended_with_weights
    ),
    "encoder and decoder": lambda: Net(nn.Transformer(12, 3, 1, 1, 16, batch_first=True), 12, 12, translated),
    "attention across": lambda: Net(Crossing(), 6, 8, itself),
    "encoder": lambda: Net(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2), 8, 8, itself
    ),
    "encoder, norms first": lambda: Net(
        nn.TransformerEncoderLayer(12, 3, 10, batch_first=True, norm_first=True), 12, 12, itself
    ),
    "pieces": lambda: Net(Pieces(), 6, 5, itself),
}


def task_of(net: nn.Module) -> sn.Task:
    return sn.Task(net, "cross-entropy", (torch.randn(12, 5, 4), torch.arange(12) % 3))


def shares(run: sn.Run) -> list[set[float]]:
    """The shares that are left of the groups of each tie."""
    network = run.network
    left = {group.name: len(network.alive(group)) / group.width for group in network.groups}
    return [{left[name] for name in tie.groups} for tie in run.config.ties]


@pytest.mark.parametrize("name", PARTS)
def test_tied_groups_keep_one_share_and_the_class_comes_back_at_every_budget(name: str) -> None:
    torch.manual_seed(0)
    net = PARTS[name]().eval()
    run = sn.prune(task_of(net), "taylor-1", whole_curve=True, goals=[sn.RemovedFraction(0.4)])
    assert run.config.ties
    for tie in run.config.ties:
        assert not tie.is_fixed
        assert len(tie.groups) > 1
    for member in (run, *(run.at(sn.RemovedNeurons(count)) for count in (1, 3, 8, 1000))):
        assert all(len(found) == 1 for found in shares(member)), shares(member)
        assert type(member.model) is Net
        assert member.verification.holds
    assert all(found == {least} for found, least in zip(shares(member), smallest(run), strict=True)), "all of it went"


def smallest(run: sn.Run) -> list[float]:
    """The least share of each tie: one part of as many as their widths have in common."""
    widths = {group.name: group.width for group in run.network.groups}
    return [1 / gcd(*(widths[name] for name in tie.groups)) for tie in run.config.ties]


@pytest.mark.parametrize("method", ["reranking", "single-ranking"])
def test_the_lowest_of_each_tied_group_go_together_where_their_scores_add_up_to_the_least(method: str) -> None:
    torch.manual_seed(0)
    task = task_of(PARTS["LSTM, two layers"]())
    run = sn.prune(task, "ablation", method, [sn.RemovedNeurons(1)], only="part")
    scores = dict(sn.rank(task, "ablation", only="part"))
    groups = {neuron.group for neuron in scores}
    lowest = {group: min((score, n.index) for n, score in scores.items() if n.group == group) for group in groups}
    assert {(neuron.group, neuron.index) for neuron in run.plan.removed} == {(g, i) for g, (_, i) in lowest.items()}


def test_widths_that_stay_multiples_are_tied_too() -> None:
    torch.manual_seed(0)
    net = Net(nn.LSTM(6, 16, 2, batch_first=True), 6, 16, outputs)
    run = sn.prune(task_of(net), "magnitude", goals=[sn.RemovedNeurons(10)], multiple_of=4, only="part")
    assert run.model.part.hidden_size == 8
    assert [len(found) for found in shares(run)] == [1]


def test_ties_are_read_back_where_the_class_is_not_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sn.prune(task_of(PARTS["encoder"]()), "taylor-1", goals=[sn.RemovedFraction(0.2)], out=tmp_path / "run")
    again = sn.load(tmp_path / "run", data=[(torch.randn(12, 5, 4), torch.arange(12) % 3)])
    smaller = again.at(sn.RemovedNeurons(18))
    assert again.config.ties
    assert all(len(found) == 1 for found in shares(smaller))


def test_a_run_that_was_killed_ties_what_it_tied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = task_of(PARTS["GRU, both ways"]())
    whole = sn.prune(task, "taylor-1", goals=[sn.RemovedFraction(0.5)], out=tmp_path / "run")
    history = tmp_path / "run" / "history.csv"
    lines = history.read_text().splitlines(keepends=True)
    for name in ("plan.json", "summary.json", "seal.json", "verification.json", "model.pt2", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    history.write_text("".join(lines[:4]))  # within a step
    again = sn.prune(task, "taylor-1", goals=[sn.RemovedFraction(0.5)], out=tmp_path / "run", resume=True)
    assert again.plan == whole.plan


def test_free_widths_go_by_themselves_and_what_would_help_is_said_before_and_after(caplog) -> None:
    torch.manual_seed(0)
    task = task_of(PARTS["encoder, norms first"]())
    with caplog.at_level(logging.WARNING):
        run = sn.prune(task, "magnitude", "single-ranking", [sn.RemovedNeurons(2)], tie="none", only="part.self_attn")
    helps = r"With `tie='class'` the widths of 'part\.self_attn' \(nn\.MultiheadAttention\) go together\."
    assert len(run.plan.removed) == 2
    assert "The model's own class will not come back." in caplog.text
    with pytest.raises(sn.FixedWidthError, match=helps):
        _ = run.model


def test_what_is_tied_to_what_stays_is_said_or_nothing_can_go(caplog) -> None:
    torch.manual_seed(0)
    task = task_of(PARTS["encoder, norms first"]())
    with pytest.raises(
        sn.NothingToRemoveError, match=r"'part\.self_attn' \(nn\.MultiheadAttention\).* Say `tie='none'`"
    ):
        sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(1)], only="part.self_attn")
    with caplog.at_level(logging.WARNING):
        run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(4)], keep="first")
    assert {neuron.group for neuron in run.plan.removed} == {"part.linear1"}
    assert "part.self_attn stay whole" in caplog.text
    assert type(run.model) is Net


def test_a_graph_from_a_file_ties_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = PARTS["LSTM, two layers"]().eval(), torch.randn(12, 5, 4)
    graph = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    run = sn.prune(
        sn.Task(graph, "cross-entropy", (x, torch.arange(12) % 3)), "magnitude", goals=[sn.RemovedNeurons(1)]
    )
    assert run.config.ties == ()
    assert len(run.plan.removed) == 1
