"""The label engine's nets: what meets nothing, what a rule forgets, what would be ragged, what is alone."""

import torch
from test_graph import Wrapped
from torch import nn

import shrinknet as sn
from shrinknet.engine.gates import gated
from shrinknet.graph import call as base
from shrinknet.graph.groups import solve
from shrinknet.graph.labels import LabelStore, along


def test_whoever_meets_nothing_is_frozen() -> None:
    store = LabelStore()
    one, other = store.fresh("a", 0, 3), store.fresh("b", 0, 3)
    one = torch.where(torch.tensor([True, False, True]), one, 0)
    store.unite(one, other, "meets a fixed width")
    components = store.components()
    assert components[1] == components[4]
    assert components[3] == components[6]
    assert store.reasons(components) == {5: "meets a fixed width"}


def test_what_a_rule_forgets_is_frozen(monkeypatch) -> None:
    base.load_rules()
    monkeypatch.setitem(base.RULES, "relu", lambda call: ())
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    traced = sn.trace(model, torch.randn(2, 4))
    assert traced.groups == ()
    assert "not followed through relu (in '1')" in {frozen.reason for frozen in traced.frozen}


def test_what_would_be_ragged_is_united() -> None:
    """Twelve units seen as 3 x 4: only whole columns can go, so there are four neurons of three units each."""
    model = Wrapped(
        lambda m, x: m.two(torch.relu(m.one(x).view(-1, 3, 4)).flatten(1)), one=nn.Linear(5, 12), two=nn.Linear(12, 2)
    ).double()
    rows = (torch.randn(7, 5).double(), torch.arange(7) % 2)
    task = sn.Task(model, "cross-entropy", rows)
    network = gated(task)
    (group,) = network.groups
    assert (group.name, group.width) == ("one", 4)
    assert group.slices[0].owners == (0, 1, 2, 3) * 3
    run = sn.prune(task, goals=[sn.RemovedNeurons(2)])
    kept = [index for index in range(4) if sn.Neuron("one", index) not in run.plan.removed]
    hidden = torch.relu(model.one(rows[0]).view(-1, 3, 4))
    mask = torch.zeros(4).double()
    mask[kept] = 1
    expected = model.two((hidden * mask).flatten(1))
    torch.testing.assert_close(run.exported.module()(rows[0]), expected, rtol=0, atol=1e-12)


def test_a_class_that_spans_an_axis_alone_is_frozen() -> None:
    store = LabelStore()
    labels = store.fresh("a.weight", 0, 4)
    store.unite(labels[:1], labels[1:2], "")
    store.mark_mixed(labels)
    numbering = solve(store, {"half": (along(1, labels[:2], (3, 2)),), "whole": (along(1, labels, (3, 4)),)})
    (group,) = numbering.groups
    assert group.width == 2
    assert [(frozen.num_elements, frozen.reason) for frozen in numbering.frozen] == [
        (2, "one neuron alone spans an axis")
    ]
