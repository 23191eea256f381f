"""The built-in losses equal torch's own, with and without candidates."""

import pytest
import torch
from torch.nn import functional

from shrinknet.losses import cross_entropy, find_loss, squared_error


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
