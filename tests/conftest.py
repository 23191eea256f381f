"""What every test may use: random small networks, tasks on them, and the real data where it is at hand."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("examples", "tests", "tests/unit", "benchmarks/zoo")]

settings.register_profile("shrinknet", deadline=None, max_examples=12, derandomize=True,
                          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip
settings.load_profile("shrinknet")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def real_data() -> Path:
    if "SHRINKNET_DATA" not in os.environ:
        pytest.skip("the environment variable SHRINKNET_DATA names no folder of real data")
    return Path(os.environ["SHRINKNET_DATA"])
