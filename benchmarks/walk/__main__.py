"""The walk: the commonest kinds of task from their training loops to their files: results/walk.json, docs/walk.md.

python benchmarks/walk                     # all of it, some minutes
python benchmarks/walk BERT GPT-2          # only these; prints, writes nothing
python benchmarks/walk --table             # docs/walk.md again, from the results
"""

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "zoo")]
import cpu_torchvision  # noqa: F401  (transformers looks for torchvision)
import torch
from kinds import KINDS
from walking import walk

from shrinknet.core.machine import environment

RESULTS = HERE.parent / "results" / "walk.json"
DOCUMENT = HERE.parents[1] / "docs" / "walk.md"
SAID = {"proven": "proven", "own_class": "own class", "onnx": "ONNX", "reload": "opened again"}


def main() -> None:
    """Walk what was asked for."""
    warnings.simplefilter("ignore")
    asked = [name for name in sys.argv[1:] if not name.startswith("--")]
    if "--table" not in sys.argv:
        rows = []
        for kind in KINDS:
            if not asked or any(name in kind.name for name in asked):
                rows.append(asdict(walk(kind)))
                print(json.dumps(rows[-1]), flush=True)
        if asked:
            return
        facts = {"seed": 0, "num_threads": torch.get_num_threads(), **environment()}
        RESULTS.write_text(json.dumps({"kinds": rows, "environment": facts}, indent=1) + "\n")
    DOCUMENT.write_text(document(json.loads(RESULTS.read_text())))


def document(results: dict[str, Any]) -> str:
    """Return docs/walk.md."""
    rows, made = results["kinds"], results["environment"]
    unmodified = sum(row["num_lines"] == 0 for row in rows)
    counts = ", ".join(f"{words} {sum(row[key] == 'yes' for row in rows)}" for key, words in SAID.items())
    lines = [
        "# The walk",
        "",
        f"Written by `python benchmarks/walk` (torch {made['packages']['torch']}, seed {made['seed']}, tiny sizes, "
        "random weights). Each kind of task is handed over as its training loop has it; 30 % of the neurons go by one "
        "ranking of `taylor-1`.",
        "",
        f"Of {len(rows)} kinds, {unmodified} are taken unmodified; {counts}.",
        "",
        "| task | wrapper | neurons removed | parameters removed | " + " | ".join(SAID.values()) + " |",
        "| --- | --- | ---: | ---: |" + " --- |" * len(SAID),
    ]
    for row in rows:
        wrapper = f"{row['num_lines']} lines" if row["num_lines"] else "unmodified"
        said = " | ".join(row[key].replace("|", "/") for key in SAID)
        lines.append(f"| {row['name']} | {wrapper} | {row['num_removed']:,} | {row['share']:.0%} | {said} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
