"""Pruning neural networks: is it time to nip it in the bud? The four-way comparison."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Row, Table, Verdict, mean, spread, where
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import shifted, split
from shrinknet.recipes.training import Course, sgd
from shrinknet.report.pictures import COLOURS, legend, png, sheet
from shrinknet.sparsify.family import Architecture, Family
from shrinknet.sparsify.methods.fisher_pruning import FisherPruning
from shrinknet.sparsify.schedules import cosine
from shrinknet.sparsify.training import accuracy

SEEDS = 2
WIDTHS = (8, 16, 32)
NUM_ROWS = 6_000
EPOCHS = 8
BATCH = 64
RATE, DECAY = 0.1, 5e-4
TUNING_RATE = 0.004
EVERY = 12
"""Steps of tuning between removals; the paper takes 100."""
SHARE = 0.5
RULES = ("fisher", "l1", "random")
SCALES = (1.0, 0.6, 0.3)
"""Members of the family, as parts of the parameters of the pruned network."""


class Block(nn.Module):
    """Two convolutions beside a shortcut; the channels between them are the ones that may go."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        inner = self.norm1(self.conv1(x)).relu()
        out: Tensor = (self.norm2(self.conv2(inner)) + self.shortcut(x)).relu()
        return out


def residual() -> nn.Sequential:
    """Return a residual network of six blocks, 8, 16 and 32 wide."""
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
    before = WIDTHS[0]
    for width in WIDTHS:
        layers += [Block(before, width, 1 if width == WIDTHS[0] else 2), Block(width, width, 1)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return a batch moved by up to four pixels (edges reflected), half of the batches mirrored."""
    return shifted(nn.functional.pad(images, (4, 4, 4, 4), mode="reflect"), 32, generator)


DENSE = Course(optimizer=sgd(RATE, DECAY), batch=BATCH, rate=cosine, augment=flipped)
TUNING = Course(optimizer=sgd(TUNING_RATE, DECAY), batch=BATCH, augment=flipped)


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train, prune by three rules with tuning, and train pruned architectures and smaller networks from scratch."""
    tell("reading", 0.0)
    train, test = source.cifar10_rows()
    rows = split(train, NUM_ROWS)[0]
    found = []
    for number in range(SEEDS):
        found += _one(rows, test, seed * 100 + number, partial(_tell_share, tell, number))
    facts = {
        "epochs": EPOCHS,
        "batch": BATCH,
        "rows": NUM_ROWS,
        "optimizer": f"SGD {RATE}, momentum 0.9, weight decay {DECAY}, cosine",
        "tuning": f"{EVERY} steps of rate {TUNING_RATE} a channel",
        "seeds": SEEDS,
    }
    return {"rows": found, "training": facts}


def _tell_share(tell: Tell, done: int, text: str, share: float) -> None:
    tell(text, (done + share) / SEEDS)


def _one(rows: Rows, test: Rows, seed: int, tell: Tell) -> list[Row]:
    torch.manual_seed(seed)
    model = residual()
    example = rows[0][:2]
    tell("dense", 0.0)
    DENSE.train(model, rows, EPOCHS, seed)
    family = Family(model, example)
    per_epoch = -(-len(rows[0]) // BATCH)
    whole = Architecture.after({g.name: g.width for g in FisherPruning(model, example).groups}, ())
    base = _compute(family, [(whole, EPOCHS)])
    found = [_row("dense", "", whole, family, accuracy(model, test), base, seed)]
    pruned: dict[str, tuple[Architecture, float]] = {}
    for place, rule in enumerate(RULES):
        tell(f"pruned by {rule}", 0.1 + 0.08 * place)
        smaller = copy.deepcopy(model)
        count = round(SHARE * sum(whole.full.values()))
        pruning = FisherPruning(smaller, example, every=EVERY, count=count, rule=rule, seed=seed)
        epochs = -(-EVERY * (count + 1) // per_epoch)
        TUNING.train(smaller, rows, epochs, seed + 50, pruning)
        profile = Architecture.after(whole.full, pruning.removed)
        tuning = [(Architecture.after(whole.full, pruning.removed[:k]), EVERY / per_epoch) for k in range(count)]
        tuning.append((profile, epochs - count * EVERY / per_epoch))
        spent = base + _compute(family, tuning)
        pruned[rule] = profile, spent
        found.append(_row("pruned and tuned", rule, profile, family, accuracy(smaller, test), spent, seed))
    jobs = _from_scratch(family, pruned)
    for place, (kind, rule, profile, epochs) in enumerate(jobs):
        tell(f"{kind} {rule}", 0.35 + 0.65 * place / len(jobs))
        member = family.build(profile, seed + 7)
        DENSE.train(member, rows, epochs, seed)
        spent = _compute(family, [(profile, epochs)])
        found.append(_row(kind, rule, profile, family, accuracy(member, test), spent, seed) | {"epochs": epochs})
    return found


def _from_scratch(
    family: Family, pruned: dict[str, tuple[Architecture, float]]
) -> list[tuple[str, str, Architecture, int]]:
    """What is trained anew: pruned and uniform architectures, at equal epochs and at equal compute; two families."""
    profile, spent = pruned["fisher"]
    size = family.costs(profile).num_parameters
    jobs = []
    for scale in SCALES:
        scaled = family.at(profile, round(scale * size))
        even = family.at(Architecture(profile.full, profile.full), family.costs(scaled).num_parameters)
        kinds = (("pruned architecture, scratch", scaled), ("smaller network, scratch", even))
        jobs += [(kind, f"{scale:g}", member, EPOCHS) for kind, member in kinds]
        if scale == 1:
            for kind, member in kinds:
                epochs = max(1, round(spent / _compute(family, [(member, 1)])))
                jobs.append((f"{kind}, equal compute", f"{scale:g}", member, epochs))
    return jobs


def _compute(family: Family, parts: Sequence[tuple[Architecture, float]]) -> float:
    """Multiplications of training: three forward passes' worth for each sample seen, of the network as it then is."""
    return sum(3 * family.costs(profile).macs * epochs * NUM_ROWS for profile, epochs in parts)


def _row(kind: str, rule: str, profile: Architecture, family: Family, right: float, compute: float, seed: int) -> Row:
    cost = family.costs(profile)
    return {
        "kind": kind,
        "rule": rule,
        "accuracy": round(right, 5),
        "parameters": cost.num_parameters,
        "macs": cost.macs,
        "compute": compute,
        "kept": dict(profile.kept),
        "seed": seed,
    }


def _of(results: Results, kind: str, rule: str, what: str = "accuracy") -> list[float]:
    return [float(row[what]) for row in where(results["rows"], kind=kind, rule=rule)]


def verdicts(results: Results) -> list[Verdict]:
    """Return who wins at half of the channels, and what training from scratch says."""
    by_rule = {rule: mean(_of(results, "pruned and tuned", rule)) for rule in RULES}
    found = list[Verdict]()
    for rule in RULES[1:]:
        what = f"Fisher beats {rule} at 50 % of the channels, after tuning (mean of {SEEDS} seeds)"
        seen = f"{by_rule['fisher']:.4f} against {by_rule[rule]:.4f}"
        found.append((what, by_rule["fisher"] > by_rule[rule], seen))
    scratch = {
        (kind, fair): mean(_of(results, f"{kind}, scratch{fair}", "1"))
        for kind in ("pruned architecture", "smaller network")
        for fair in ("", ", equal compute")
    }
    tuned, anew = by_rule["fisher"], scratch["pruned architecture", ", equal compute"]
    what = "Trained from scratch with as much compute, the pruned architecture beats pruned and tuned"
    equal = scratch["pruned architecture", ""]
    seen = f"{anew:.4f} against {tuned:.4f} (with only the dense network's epochs {equal:.4f})"
    found.append((what, anew > tuned, seen))
    for fair, words in (("", "equal epochs"), (", equal compute", "equal compute")):
        profile, even = (scratch[kind, fair] for kind in ("pruned architecture", "smaller network"))
        what = f"From scratch, the pruned architecture is at most half a point below the evenly smaller one, at {words}"
        found.append((what, profile >= even - 0.005, f"{profile:.4f} against {even:.4f}"))
    return found


def more_tables(results: Results) -> list[Table]:
    """Return the profiles that pruning found."""
    profiles = [
        [f"{row['kind']} {row['rule']}, seed {row['seed']}", *map(str, row["kept"].values())]
        for row in results["rows"]
        if row["kind"] in ("dense", "pruned and tuned")
    ]
    return [Table("Channels kept of each block", ("", *results["rows"][0]["kept"]), profiles)]


def draw(results: Results) -> bytes:
    """Draw accuracy against parameters, and against the compute of training."""
    whole, axes = sheet(2)
    names = {"parameters": "parameters", "compute": "multiplications of the whole training"}
    kinds = dict.fromkeys(row["kind"] for row in results["rows"])
    for axis, (what, name) in zip(axes, names.items(), strict=True):
        for colour, kind in zip(COLOURS, kinds, strict=False):
            own = where(results["rows"], kind=kind)
            axis.plot([row[what] for row in own], [row["accuracy"] for row in own], "o", color=colour, label=kind)
        for row in where(results["rows"], kind="pruned and tuned"):
            axis.annotate(row["rule"], (row[what], row["accuracy"]), fontsize=7)
        axis.set(xlabel=name, xscale="log")
    axes[0].set_ylabel("test accuracy")
    legend(axes[0])
    return png(whole)


def figures(results: Results) -> dict[str, Any]:
    """Return the comparison, and what the notes say of it."""
    ways = list[Row]()
    for kind, rule in dict.fromkeys((row["kind"], row["rule"]) for row in results["rows"]):
        right, compute = _of(results, kind, rule), _of(results, kind, rule, "compute")
        epochs = [row["epochs"] for row in where(results["rows"], kind=kind, rule=rule) if "epochs" in row]
        ways.append(
            {
                "kind": kind,
                "which": rule if kind == "pruned and tuned" or not rule else f"{rule} of the parameters",
                "accuracy": mean(right),
                "spread": spread(right),
                "parameters": mean(_of(results, kind, rule, "parameters")),
                "macs": mean(_of(results, kind, rule, "macs")),
                "compute": mean(compute) / 1e12,
                "epochs": " ".join(map(str, epochs)),
            }
        )
    later = "scratch, equal compute"
    return {
        "ways": ways,
        "pruned": mean(_of(results, f"pruned architecture, {later}", "1")),
        "smaller": mean(_of(results, f"smaller network, {later}", "1")),
    }


PICTURES = {"comparison.png": ("accuracy against parameters, and against the compute of training", draw)}
RECIPES = (Recipe("nip-in-the-bud", measure, verdicts, figures, PICTURES, more_tables),)
