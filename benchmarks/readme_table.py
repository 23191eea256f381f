"""Write the README's table of measured results from the results files, so that no figure is typed in.

python benchmarks/readme_table.py            # rewrite the table
python benchmarks/readme_table.py --check    # exit status 1 where the README's table is another one
"""

import json
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CURVES = {
    "reranking/ablation": "`ablation`, re-ranked",
    "reranking/taylor-2": "`taylor-2`, re-ranked",
    "single-ranking/ablation": "`ablation`, ranked once",
}
sys.path[:0] = [str(ROOT / "benchmarks" / "zoo")]
START, END = "<!-- table -->\n", "<!-- /table -->"


def main() -> None:
    """Rewrite the table, or check it."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    new = before + START + table() + END + after
    if "--check" in sys.argv:
        sys.exit(new != text)
    readme.write_text(new)


def table() -> str:
    """Return the table, and below it what it was made with."""
    rows = ["| accuracy with so many of 100 neurons removed | 0 | 40 | 60 |", "| --- | --- | --- | --- |"]
    for name, what in (("isnn-mnist-1x100", "1 x 100"), ("isnn-mnist-2x50", "2 x 50")):
        curves = json.loads((ROOT / "recipes" / name / "results.json").read_text())["curves"]
        for curve, how in CURVES.items():
            accuracy = curves[curve]["accuracy"]
            cells = " | ".join(f"{accuracy[removed]:.3f}" for removed in (0, 40, 60))
            rows.append(f"| MNIST, [{what}](recipes/{name}/index.html): {how} | {cells} |")
    timing = json.loads((ROOT / "benchmarks" / "results" / "ablation_784_100_10.json").read_text())
    environment, first = timing["environment"], timing["results"][0]
    note = (
        f"An exact ranking of 784-100-10 on 10,000 images takes {first['ours_over_three_passes']:.2f} of the time of "
        f"three forward passes; the plain masked loop takes {first['plain_loop_over_ours']:.0f} times as long as ours "
        f"([results](benchmarks/results/ablation_784_100_10.json): ratios of medians, timed in turns in one process). "
        f"Seed 0, torch {environment['packages']['torch']}, {environment['num_threads']} threads, "
        f"{environment['processor']}; the result files say the rest."
    )
    return "\n".join([*rows, "", *wrapped(note), "", *zoo()]) + "\n"


SHOWN = ("LSTM tagger", "GRU tagger, 2 layers", "channel shuffle", "LeNet (view(-1, 400))", "BERT")


def zoo() -> list[str]:
    """Return what the zoo says of some architectures, ours beside Torch-Pruning's, and of all."""
    from rival import verdict

    content = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text())
    by_name = {row["name"]: row for row in content["results"]}
    rows = ["| 30 % of every group | in reach | worst difference | Torch-Pruning 1.6.1 |", "| --- | --- | --- | --- |"]
    for name in SHOWN:
        ours, theirs = by_name[name]["ours"], by_name[name]["torch_pruning"]
        rows.append(f"| {name} | {ours['reachable_parameters']:.1%} | {ours['worst']:.0e} | {verdict(theirs)} |")
    facts = content["summary"]
    note = (
        f"[The zoo](docs/zoo.md): {facts['proven']} of {facts['architectures']} architectures are proven, "
        f"{facts['wrong']} are wrong. In reach: the share of parameters from which neurons can go, a median of "
        f"{facts['median_reachable_convolutional']:.1%} in convolutional networks and of "
        f"{facts['median_reachable_transformer']:.1%} in transformers. Differences are in float64."
    )
    return [*rows, "", *wrapped(note)]


def wrapped(text: str) -> list[str]:
    """Return a paragraph in lines."""
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    main()
