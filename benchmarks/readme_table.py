"""Write the README's table of measured results from the results files, so that no figure is typed in.

python benchmarks/readme_table.py            # rewrite the table
python benchmarks/readme_table.py --check    # exit status 1 where the README's table is another one
"""

import json
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
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
    return "\n".join([*fitting(), "", *speed(), "", *wrapped(f"{recipes()} {zoo()}")]) + "\n"


def recipes() -> str:
    """Return what is left of the source paper's networks."""
    parts = []
    for name, what in (("isnn-mnist-1x100", "1 x 100"), ("isnn-mnist-2x50", "2 x 50")):
        curves = json.loads((ROOT / "recipes" / name / "results.json").read_text())["curves"]
        whole, forty, sixty = (curves["reranking/ablation"]["accuracy"][removed] for removed in (0, 40, 60))
        parts.append(f"[{what}](recipes/{name}/index.html) {whole:.3f}, {forty:.3f}, {sixty:.3f}")
    return f"The source paper's networks with 0, 40 and 60 of 100 neurons removed: {'; '.join(parts)}."


def fitting() -> list[str]:
    """Return what networks are worth once they fit, measured on their files."""
    results = {
        name: json.loads((ROOT / "benchmarks" / "results" / f"fitting_{name}.json").read_text())
        for name in ("budgets", "resnet8")
    }
    budgets, accuracy = results["budgets"]["rows"], results["resnet8"]["accuracy"]
    rows = ["| fitted without retraining | flash | RAM | test accuracy |", "| --- | --- | --- | --- |"]
    for name, found in (
        ("MLPerf Tiny ResNet8", budgets["resnet8"]),
        ("the same in int8", budgets["resnet8-int8"]),
        ("ST activity network", budgets["activity"]["both"]),
    ):
        file, whole, test = found["file"], found["whole"], found["test"]
        after = file["accuracy"] if file["num_samples"] == test["num_samples"] else test["accuracy_after"]
        full = found["corners"]["full, float32"] if "corners" in found else None
        flash = (
            f"{(full['num_bytes'] if full else whole['flash_bytes']) / 1024:.0f} -> {file['num_bytes'] / 1024:.0f} KiB"
        )
        ram = (
            f"{whole['arena_bytes'] / 1024:.0f} -> {file['arena_bytes'] / 1024:.1f} KiB"
            if full is None
            else "not planned"
        )
        rows.append(f"| {name} | {flash} | {ram} | {test['accuracy_before']:.3f} -> {after:.3f} |")
    ours = [accuracy["ablation, least-squares"][share] for share in ("0.75", "0.5", "0.35")]
    none = [accuracy["ablation, none"][share] for share in ("0.75", "0.5", "0.35")]
    rivals = [max(found[share] for name, found in accuracy.items() if name.startswith("Torch-Pruning"))
              for share in ("0.75", "0.5", "0.35")]  # fmt: skip
    note = (
        f"ResNet8 ({accuracy['whole']['1.0']:.3f}) at 75, 50 and 35 % of its parameters: {figures(ours)}; without "
        f"compensation {figures(none)}; Torch-Pruning 1.6.1, the best of its criteria at each: {figures(rivals)}."
    )
    return [*rows, "", *wrapped(note)]


def figures(values: list[float]) -> str:
    """Return accuracies in words."""
    return ", ".join(f"{value:.3f}" for value in values)


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
        *((f"{run['network']}: rank and remove one, {run['removals']} times", run["over_a_forward_pass"]["rankings"],
           run["plain_loop_over_ours"]["rankings"]) for run in runs[:1]),
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


def zoo() -> str:
    """Return what the zoo says of all architectures."""
    facts = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text())["summary"]
    return (
        f"[The zoo](docs/zoo.md): {facts['proven']} of {facts['architectures']} architectures are proven, "
        f"{facts['wrong']} are wrong."
    )


def wrapped(text: str) -> list[str]:
    """Return a paragraph in lines."""
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    main()
