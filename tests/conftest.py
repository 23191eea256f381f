"""What every test may use: random small networks, tasks on them, and the real data where it is at hand.

The quick check draws the same few networks each time; `make laws` draws 200 for each law, others each time.
"""

import gc
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [
    str(ROOT / folder) for folder in ("examples", "tests", "tests/unit", "benchmarks/zoo", "benchmarks/walk")
]
import annotations  # noqa: E402, F401
from made_once import keep_onnx_operators  # noqa: E402

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("quick", deadline=None, max_examples=12, derandomize=True, suppress_health_check=SLOW)
settings.register_profile("laws", deadline=None, max_examples=200, print_blob=True, suppress_health_check=SLOW)
settings.load_profile(os.environ.get("SHRINKNET_LAWS", "quick"))


@pytest.fixture(scope="module", autouse=True)
def what_is_there_already_stays() -> None:
    """Libraries that were imported are looked through for what nobody holds no more: that took a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def onnx_operators_are_listed_once() -> None:
    keep_onnx_operators()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that none is under way alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def real_data() -> Path:
    if "SHRINKNET_DATA" not in os.environ:
        pytest.skip("the environment variable SHRINKNET_DATA names no folder of real data")
    return Path(os.environ["SHRINKNET_DATA"])
