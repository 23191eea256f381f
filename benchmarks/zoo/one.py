"""One tool on one architecture, in a process of its own; the answer is the last line, as JSON."""

import json
import resource
import sys
import warnings
from typing import Any

import torch
from architectures import ALL
from prove import prove
from rival import rival


def main(task: str, source: str, name: str) -> dict[str, Any]:
    """Measure one tool on one architecture."""
    architecture = next(one for one in ALL if (one.source, one.name) == (source, name))
    if task == "ours":
        return prove(architecture).as_json()
    model, inputs = architecture.build()
    with torch.no_grad():
        num_outputs = model(*inputs).shape[1 if name == "U-Net" else -1]
    return rival(model, inputs, num_outputs)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    answer = main(*sys.argv[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print("\n" + json.dumps(answer | {"peak_mib": peak}))
