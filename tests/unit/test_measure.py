"""Loss, accuracy and recalls against a count by hand."""

import math

import pytest
import torch

from shrinknet.measure.evaluation import evaluate
from shrinknet.task.data import as_data
from shrinknet.task.losses import find_loss

OUTPUTS = torch.eye(4)[[0, 0, 1, 1, 2, 0]]  # answers 0 0 1 1 2 0
TARGETS = torch.tensor([0, 1, 1, 1, 1, 0])


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_accuracy_and_recalls(batch_size: int) -> None:
    data = as_data("test", (OUTPUTS, TARGETS), batch_size, torch.device("cpu"), torch.float32)
    found = evaluate(lambda inputs: inputs, find_loss("cross-entropy"), data)
    assert found.num_samples == 6
    assert found.metrics["accuracy"] == pytest.approx(4 / 6)
    assert found.recalls[:2] == (1.0, 0.5), "of class 1's four samples two are answered 1"
    assert math.isnan(found.recalls[2])
    assert math.isnan(found.recalls[3])
    expected = torch.nn.functional.cross_entropy(OUTPUTS, TARGETS)
    assert found.loss == pytest.approx(float(expected), rel=1e-6)


def test_values_have_no_accuracy() -> None:
    data = as_data("test", (OUTPUTS, OUTPUTS + 1), 4, torch.device("cpu"), torch.float32)
    found = evaluate(lambda inputs: inputs, find_loss("squared-error"), data)
    assert (found.loss, found.metrics, found.recalls) == (2.0, {}, None)
