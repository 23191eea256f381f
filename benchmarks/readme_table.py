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
    return "\n".join([*rows, "", *speed(), "", *zoo()]) + "\n"


def speed() -> list[str]:
    """Return what exact ablation costs, ours beside the plain loop."""
    results = {
        name: json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        for name in ("last_layer", "algorithm_2", "resnet8", "racing", "workers")
    }
    last, runs = results["last_layer"]["rows"][0], results["algorithm_2"]["rows"]
    eight, races = results["resnet8"], results["racing"]["rows"]
    passes, ratios, again = last["over_a_forward_pass"], last["rival_over_ours"], "ours, again, compiled"
    best = min(value for way, value in eight["rival_over_ours"].items() if way.startswith("loop"))
    all_channels = eight["ablation_over_the_fastest_forward_pass"]
    rows = [
        ("784-100-10, 10,000 images: 100 neurons, compiled, forward pass at hand", passes[again],
         ratios[f"plain loop / {again}"]),
        ("the same, from nothing", passes["ours, first"], ratios["plain loop / ours, first"]),
        *((f"{run['network']}: rank and remove one, {run['removals']} times", run["over_a_forward_pass"]["rankings"],
           run["plain_loop_over_ours"]["rankings"]) for run in runs),
        ("ResNet8, 1,000 images: all 224 channels", all_channels, best),
    ]  # fmt: skip
    facts = results["last_layer"]["environment"]
    note = (
        f"The loop runs the masked network once for each neuron, ResNet8's at its best batch size. Races find its "
        f"next 8 channels for 1/{races[0]['times_less_work']:.1f} of the work on 1,000 images, 1/"
        f"{races[1]['times_less_work']:.1f} on 5,000: the exact 8 for {races[0]['same_set_as_exact']} and "
        f"{races[1]['same_set_as_exact']} of 100 seeds. Two processes take 1/"
        f"{results['workers']['one_over_two']:.2f} of one's time. Seed 0, torch "
        f"{facts['packages']['torch']}, {facts['num_threads']} threads, {facts['processor']}: "
        f"[results](benchmarks/results/)."
    )
    table = [f"| {what} | {cost:.3g} | {ratio:.0f} |" for what, cost, ratio in rows]
    return [
        "| exact ablation | forward passes | plain loop / ours |",
        "| --- | --- | --- |",
        *table,
        "",
        *wrapped(note),
    ]


SHOWN = ("LSTM tagger", "BERT")


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
