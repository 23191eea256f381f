"""The walk: each of the commonest kinds of task comes through as benchmarks/results/walk.json has it."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("cpu_torchvision", reason="torchvision is not there", exc_type=ImportError)
pytest.importorskip("transformers")

from kinds import KINDS, Kind
from walking import walk

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = {row["name"]: row for row in json.loads((ROOT / "benchmarks/results/walk.json").read_text())["kinds"]}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_comes_through(kind: Kind) -> None:
    try:
        came = asdict(walk(kind, with_onnx=False))
    except ImportError as error:  # peft, ultralytics and lightning are nobody's dependencies
        pytest.skip(f"{kind.name}: {error}")
    expected = COMMITTED[kind.name]
    for fact in ("num_lines", "num_removed", "proven", "own_class", "reload"):
        assert came[fact] == expected[fact], fact


def test_the_walk_is_wide_enough() -> None:
    """At least 20 unmodified, at least 22 in their own class, all proven: what the document says is counted."""
    rows = COMMITTED.values()
    assert sum(row["num_lines"] == 0 for row in rows) >= 20
    assert sum(row["own_class"] == "yes" for row in rows) >= 22
    assert all(row["proven"] == "yes" for row in rows)
