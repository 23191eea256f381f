"""Large networks of ids: what a ranking by taylor-1 costs beside a forward pass, and what memory it takes.

    python benchmarks/walk/large.py bert
    python benchmarks/walk/large.py llama

BERT-base's shape (12 layers, random weights) on 128 sequences of 64 tokens: every head and feed-forward neuron, timed
in turns with a forward pass over the same rows. A network of Llama's shape with 100 million parameters on 16 sequences
of 128 tokens: by how much the process's peak of memory grows in the trace, and in the ranking. Results go to
benchmarks/results/large_bert.json and large_llama.json.
"""

import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parent.parent / "zoo")]
import cpu_torchvision  # noqa: F401  (transformers looks for torchvision)

import shrinknet as sn
from shrinknet.core.machine import environment
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import in_memory

SEED, ROUNDS = 0, 3
MEMORY = 2 * 2**30


def main() -> None:
    """Measure one of the two."""
    result = {"bert": bert, "llama": llama}[sys.argv[1]]()
    result["environment"] = {**environment(), "num_threads": torch.get_num_threads()}
    path = Path(__file__).parent.parent / "results" / f"large_{sys.argv[1]}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.read_text())


def bert() -> dict[str, object]:
    """Time a ranking by taylor-1 in turns with a forward pass over the same rows."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(SEED)
    model = BertForSequenceClassification(BertConfig()).eval()
    ids = torch.randint(1000, 20000, (128, 64))
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(128) % 2}
    task = sn.Task(model, "cross-entropy", rows)
    only = ["*.attention.self.query", "*.intermediate.dense"]
    network = gated(task, only=only, scoring=sn.Scoring(memory="4GiB"))
    small = in_memory(task, network)
    times: dict[str, list[float]] = {"forward": [], "taylor-1": []}
    for _ in range(ROUNDS + 1):
        times["forward"].append(seconds(lambda: forward(model, ids, small.calibration.batch_size)))
        times["taylor-1"].append(
            seconds(lambda: find_criterion("taylor-1").score(network, small.calibration.batches()))
        )
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    return {
        "neurons": network.trace.num_neurons, "parameters": sum(one.numel() for one in model.parameters()),
        "median_seconds": medians, "taylor_1_over_forward": medians["taylor-1"] / medians["forward"],
        "batch_size": small.calibration.batch_size, "rounds": ROUNDS, "seed": SEED,
    }  # fmt: skip


def forward(model: nn.Module, ids: Tensor, batch_size: int) -> None:
    """One pass over all rows."""
    with torch.no_grad():
        for some in ids.split(batch_size):
            model(input_ids=some, attention_mask=torch.ones_like(some))


def llama() -> dict[str, object]:
    """Measure the peak of memory of a trace, and of a ranking by taylor-1 within 2 GiB."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=640, num_hidden_layers=12, num_attention_heads=10, num_key_value_heads=5,
        intermediate_size=1728, max_position_embeddings=256, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    ids = torch.randint(3, 32000, (16, 128))
    task = sn.Task(model, "next-token", {"input_ids": ids, "labels": ids})
    peaks = [peak()]
    network = gated(task, scoring=sn.Scoring(memory=MEMORY))
    small = in_memory(task, network)
    peaks.append(peak())
    taken = seconds(lambda: find_criterion("taylor-1").score(network, small.calibration.batches()))
    peaks.append(peak())
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    return {
        "neurons": network.trace.num_neurons, "parameters": sum(one.numel() for one in model.parameters()),
        "batch_size": small.calibration.batch_size, "seconds": taken, "memory_bytes": MEMORY,
        "weight_bytes": weights, "grown_in_the_trace_bytes": peaks[1] - peaks[0],
        "grown_in_the_ranking_bytes": peaks[2] - peaks[1], "seed": SEED,
    }  # fmt: skip


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seconds(run) -> float:
    """How long it takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
