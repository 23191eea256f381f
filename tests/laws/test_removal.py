"""Laws of removing: gated off = cut = rebuilt by hand; nothing else changes."""

import copy

import pytest
import torch
import whole_idea
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, Residual, networks

import shrinknet as sn
from shrinknet.engine.gates import gated
from shrinknet.graph.trace import export_program, named_tensors
from shrinknet.measure.costs import costs
from shrinknet.surgery.own_module import cut_module, new_attributes
from shrinknet.surgery.proof import cut_program, verify
from shrinknet.surgery.remove import cut_graph, kept_indices


def some_removed(drawn: Drawn, network, data) -> tuple[sn.Neuron, ...]:
    """Draw neurons to remove; one of each group stays."""
    removed = []
    for group in network.groups:
        count = data.draw(st.integers(0, group.width - 1))
        removed += data.draw(st.permutations(group.neurons))[:count]
    return tuple(removed)


def own_module(model, trace, present, graph):
    kept = kept_indices(trace, present)
    return cut_module(model, kept, new_attributes(model, trace, graph, kept))


@given(networks, st.data())
def test_gated_off_is_physically_removed(drawn: Drawn, data) -> None:
    network = drawn.network
    masked = network.without(some_removed(drawn, network, data))
    expected = masked.outputs(drawn.inputs)
    graph = cut_graph(network.trace, masked.present)
    own = own_module(drawn.model, network.trace, masked.present, graph)
    torch.testing.assert_close(
        cut_program(network.trace, graph, None).outputs(drawn.inputs), expected, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(own(drawn.inputs), expected, rtol=0, atol=1e-12)
    assert verify(masked, graph, drawn.task().calibration).holds
    assert sum(p.numel() for p in own.parameters()) == costs(network.trace, masked.present).num_parameters


@given(networks, st.data())
def test_one_neuron_less_is_the_network_rebuilt_by_hand(drawn: Drawn, data) -> None:
    network = drawn.network
    assert [int(group.name) for group in network.groups] == [
        position for position in whole_idea.neuron_layers(drawn.model) if whole_idea.width(drawn.model[position]) > 1
    ]
    neuron = data.draw(st.sampled_from([n for group in network.groups for n in group.neurons]))
    rebuilt = whole_idea.without(drawn.model, int(neuron.group), neuron.index)
    torch.testing.assert_close(
        network.without([neuron]).outputs(drawn.inputs), rebuilt(drawn.inputs), rtol=0, atol=1e-12
    )


@given(networks)
def test_removing_nothing_returns_the_same_bits(drawn: Drawn) -> None:
    network = drawn.network
    graph = cut_graph(network.trace, network.present)
    assert torch.equal(network.outputs(drawn.inputs), drawn.model(drawn.inputs))
    assert torch.equal(cut_program(network.trace, graph, None).outputs(drawn.inputs), drawn.model(drawn.inputs))
    for name, tensor in drawn.model.state_dict().items():
        assert torch.equal(named_tensors(graph)[name], tensor)


@given(networks, st.data())
def test_exported_gives_what_torch_gives(drawn: Drawn, data) -> None:
    network = drawn.network
    masked = network.without(some_removed(drawn, network, data))
    graph = cut_graph(network.trace, masked.present)
    exported = export_program(graph, drawn.inputs).module()
    for rows in (drawn.inputs, drawn.inputs[:1], drawn.inputs[:2]):
        torch.testing.assert_close(exported(rows), masked.outputs(rows), rtol=0, atol=1e-12)


@given(networks)
def test_the_model_is_as_it_was(drawn: Drawn) -> None:
    before = copy.deepcopy(drawn.model.state_dict())
    drawn.model.train()
    drawn.model[0].eval()
    calls = []
    handle = drawn.model[0].register_forward_hook(lambda *_: calls.append(1))
    modes = [module.training for module in drawn.model.modules()]
    gradients = [torch.full_like(p, 7) for p in drawn.model.parameters()]
    for parameter, gradient in zip(drawn.model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    sn.prune(drawn.task(), "taylor-2", goals=[sn.RemovedNeurons(1)])
    assert [module.training for module in drawn.model.modules()] == modes
    assert list(drawn.model[0]._forward_hooks) == [handle.id]
    for name, tensor in drawn.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for parameter, gradient in zip(drawn.model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
        assert parameter.requires_grad


def test_the_model_is_as_it_was_after_an_exception() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(), torch.nn.Linear(4, 2)).train()

    def broken(outputs, targets):
        raise ArithmeticError("the loss broke")

    with pytest.raises(sn.BadInputError, match="which said: ArithmeticError: the loss broke"):
        sn.rank(sn.Task(model, broken, (torch.randn(5, 3), torch.zeros(5, dtype=torch.long))))
    assert all(module.training for module in model.modules())


def test_a_shared_group_of_a_residual_sum_is_cut_in_every_layer() -> None:
    model = Residual().double().eval()
    inputs = torch.randn(5, 1, 6, 6, dtype=torch.float64)
    network = gated(sn.Task(model, "cross-entropy", (inputs, torch.arange(5) % 3)))
    assert [(group.name, group.width) for group in network.groups] == [("stem", 6), ("inner", 4)]
    masked = network.without([sn.Neuron("stem", 2), sn.Neuron("stem", 5), sn.Neuron("inner", 0)])
    own = own_module(model, network.trace, masked.present, cut_graph(network.trace, masked.present))
    assert (own.stem.out_channels, own.back.out_channels, own.head.in_features, own.inner.out_channels) == (4, 4, 4, 3)
    torch.testing.assert_close(own(inputs), masked.outputs(inputs), rtol=0, atol=1e-12)
    torch.testing.assert_close(masked.outputs(inputs), _by_hooks(model, inputs), rtol=0, atol=1e-12)


def _by_hooks(model, inputs):
    """The same removal, the obvious way: readers see zeros."""
    gone = {"inner": [2, 5], "back": [0], "head": [2, 5]}
    stream = model.act(model.norm(model.stem(inputs)))
    read = stream.clone()
    read[:, gone["inner"]] = 0
    hidden = model.act(model.inner(read))
    hidden[:, gone["back"]] = 0
    stream = model.act(stream + model.back(hidden))
    pooled = stream.mean((2, 3))
    pooled[:, gone["head"]] = 0
    return model.head(pooled)
