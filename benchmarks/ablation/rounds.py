"""Ways of doing the same work, timed in turns in one process, several times; medians, ratios, versions and machine."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from shrinknet.core.machine import environment

RESULTS = Path(__file__).resolve().parents[1] / "results"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "zoo"))
SEED = 0


def in_turns(ways: dict[str, Callable[[], object]], rounds: int, rare: dict[str, int] | None = None) -> dict[str, dict]:
    """Time every way once in each round (a rare one in the first few only); the first round warms up."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(-1, rounds):
        for way, work in ways.items():
            if turn >= (rare or {}).get(way, rounds) or (turn < 0 and way in (rare or {})):
                continue
            started = time.perf_counter()
            work()
            if turn >= 0:
                seconds[way].append(time.perf_counter() - started)
    return {
        way: {"median": statistics.median(times), "best": min(times), "rounds": len(times)}
        for way, times in seconds.items()
    }


def once(work: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def write(name: str, content: dict) -> None:
    """Write a result with what it was made on, and print it."""
    facts = {"seed": SEED, "num_threads": torch.get_num_threads(), **environment()}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**content, "environment": facts}, indent=1) + "\n")
    print(json.dumps(content, indent=1))
    print(f"Written: {path}")
