"""The built-in losses equal torch's own, with and without candidates."""

import pytest
import torch
from torch.nn import functional

from shrinknet.task.losses import find_loss
from shrinknet.task.per_sample import (
    ACROSS,
    OF_CANDIDATES,
    binary_cross_entropy,
    cross_entropy,
    cross_entropy_of_counted,
    each_token,
    next_token,
    squared_error,
    targets_across,
)


@pytest.mark.parametrize("positions", [(), (5,), (3, 4)])
def test_cross_entropy_is_torchs_own(positions: tuple[int, ...]) -> None:
    outputs = torch.randn(6, 7, *positions, dtype=torch.float64) * 30
    classes = torch.randint(0, 7, (6, *positions))
    probabilities = torch.randn_like(outputs).softmax(1)
    for targets in (classes, probabilities):
        expected = functional.cross_entropy(outputs, targets, reduction="none")
        expected = expected.flatten(1).mean(1) if positions else expected
        torch.testing.assert_close(cross_entropy(outputs, targets), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [cross_entropy, squared_error])
def test_candidates_are_so_many_networks(loss) -> None:
    outputs = torch.randn(4, 6, 7, dtype=torch.float64)
    for targets in (torch.randint(0, 7, (6,)), torch.rand(6, 7, dtype=torch.float64)):
        expected = torch.stack([loss(candidate, targets) for candidate in outputs])
        torch.testing.assert_close(loss(outputs, targets), expected, rtol=1e-13, atol=1e-13)
        folded = find_loss(lambda o, t: loss(o, t)).of_candidates(outputs, targets)
        torch.testing.assert_close(folded, expected, rtol=1e-13, atol=1e-13)


def test_large_outputs_lose_nothing() -> None:
    outputs = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert cross_entropy(outputs, torch.tensor([0, 0])).tolist() == [0.0, 1000.0]


def test_squared_error_is_half_the_sum_of_squares_and_takes_classes_one_hot() -> None:
    outputs = torch.tensor([[0.5, 0.0, 1.0]])
    assert squared_error(outputs, torch.tensor([2])).tolist() == [0.125]
    assert squared_error(outputs, torch.tensor([[0.0, 1.0, 1.0]])).tolist() == [0.625]
    images = torch.ones(2, 3, 4)
    assert squared_error(images, torch.zeros(2, 3, 4)).tolist() == [6.0, 6.0]


SHAPES = [((), ()), ((1,), ()), ((), (1,)), ((1,), (1,)), ((4,), (4,)), ((1, 3, 2), (3, 2)), ((5, 3, 2), (5, 3, 2))]


@pytest.mark.parametrize(("rest", "wanted"), SHAPES)
@pytest.mark.parametrize("rows", [6, 1])
def test_binary_cross_entropy_is_torchs_own(rest: tuple[int, ...], wanted: tuple[int, ...], rows: int) -> None:
    outputs = torch.randn(rows, *rest, dtype=torch.float64) * 30
    for targets in (torch.randint(0, 2, (rows, *wanted)), torch.rand(rows, *wanted, dtype=torch.float64)):
        each = functional.binary_cross_entropy_with_logits(outputs, targets.double().view_as(outputs), reduction="none")
        expected = each.flatten(1).mean(1) if rest else each
        torch.testing.assert_close(binary_cross_entropy(outputs, targets), expected, rtol=1e-12, atol=1e-12)
        for count in (1, 3):
            many = torch.randn(count, *outputs.shape, dtype=torch.float64)
            expected = torch.stack([binary_cross_entropy(one, targets) for one in many])
            found = find_loss("binary-cross-entropy").of_candidates(many, targets)
            torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


OF_CLASSES = ("cross-entropy", "squared-error")
OF_NUMBERS = ("binary-cross-entropy", "absolute-error", "huber", "mean-squared-error", "own-answers-kl")


@pytest.mark.parametrize("name", [*OF_CLASSES, *OF_NUMBERS])
def test_every_built_in_loss_is_the_same_with_samples_last(name: str) -> None:
    loss, outputs = find_loss(name), torch.randn(3, 6, 4, dtype=torch.float64) * 30
    for targets in (torch.randint(0, 4, (6,)), torch.rand(6, 4, dtype=torch.float64).softmax(1)):
        if name in OF_NUMBERS and targets.dim() == 1:
            targets = torch.randint(0, 2, (6, 4)).double()
        across = ACROSS[loss.of](outputs.transpose(1, 2), targets_across(targets, outputs[0]))
        torch.testing.assert_close(across, loss.of_candidates(outputs, targets), rtol=1e-12, atol=1e-12)
        apart = torch.stack([loss.of(one, targets) for one in outputs])
        torch.testing.assert_close(across, apart, rtol=1e-12, atol=1e-12)
    assert OF_CANDIDATES.keys() - ACROSS.keys() == {next_token, each_token}  # their outputs have three axes


def test_a_class_that_is_ignored_costs_nothing_with_samples_last_either() -> None:
    outputs, targets = torch.randn(3, 6, 4, dtype=torch.float64), torch.tensor([0, -100, 2, 3, -100, 1])
    across = ACROSS[cross_entropy_of_counted](outputs.transpose(1, 2), targets_across(targets, outputs[0]))
    torch.testing.assert_close(across, cross_entropy_of_counted(outputs, targets), rtol=1e-12, atol=1e-12)
    assert across[:, [1, 4]].abs().max() == 0


@pytest.mark.parametrize("positions", [(4,), (3, 3)])
def test_squared_error_takes_the_class_of_each_position_one_hot_along_the_class_axis(
    positions: tuple[int, ...],
) -> None:
    classes = torch.randint(0, 3, (5, *positions))
    perfect = functional.one_hot(classes, 3).movedim(-1, 1).double()
    assert squared_error(perfect, classes).tolist() == [0.0] * 5
    both = torch.stack([perfect, perfect + 1])
    assert squared_error(both, classes)[1].tolist() == [3 * classes[0].numel() / 2] * 5
