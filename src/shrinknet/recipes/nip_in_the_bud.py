"""Pruning neural networks: is it time to nip it in the bud? The four-way comparison."""

import copy
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from shrinknet.core.folder import environment
from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Table, Verdict, mean, spread
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import split
from shrinknet.report.pictures import COLOURS, figure
from shrinknet.sparsify.family import Architecture, Family
from shrinknet.sparsify.methods.fisher_pruning import FisherPruning
from shrinknet.sparsify.schedules import cosine
from shrinknet.sparsify.training import Training, accuracy
from shrinknet.task.losses import cross_entropy

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


def run(source: Files, seed: int, tell: Tell) -> Results:
    """Train, prune by three rules with tuning, and train pruned architectures and smaller networks from scratch."""
    started = time.perf_counter()
    tell("reading", 0.0)
    train, test = source.cifar10_rows()
    rows = split(train, NUM_ROWS)[0]
    found = []
    for number in range(SEEDS):
        found += _one(rows, test, seed * 100 + number, partial(_tell_share, tell, number))
    return {
        "recipe": "nip-in-the-bud", "seed": seed, "rows": found,
        "training": {"epochs": EPOCHS, "batch": BATCH, "rows": NUM_ROWS, "optimizer": f"SGD {RATE}, momentum 0.9, "
                     f"weight decay {DECAY}, cosine", "tuning": f"{EVERY} steps of rate {TUNING_RATE} a channel",
                     "seeds": SEEDS},
        "seconds": round(time.perf_counter() - started, 1),
        "environment": {**environment(), "num_threads": torch.get_num_threads()},
    }  # fmt: skip


def _tell_share(tell: Tell, done: int, text: str, share: float) -> None:
    tell(text, (done + share) / SEEDS)


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return a batch moved by up to four pixels (edges reflected), half of the batches mirrored."""
    padded = nn.functional.pad(images, (4, 4, 4, 4), mode="reflect")
    top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
    window = padded[..., top : top + 32, left : left + 32]
    return window.flip(-1) if float(torch.rand((), generator=generator)) < 0.5 else window


def _train(
    model: nn.Module, rows: Rows, epochs: int, rate: float, seed: int, pruning: FisherPruning | None = None
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=DECAY)
    shape = cosine if pruning is None else None
    training = Training(model, cross_entropy, rows, optimizer, BATCH, seed, epochs, shape, flipped, sparsifier=pruning)
    list(training.epochs())
    if pruning is not None:
        pruning.finish()


def _one(rows: Rows, test: Rows, seed: int, tell: Tell) -> list[dict[str, Any]]:
    torch.manual_seed(seed)
    model = residual()
    example = rows[0][:2]
    tell("dense", 0.0)
    _train(model, rows, EPOCHS, RATE, seed)
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
        _train(smaller, rows, epochs, TUNING_RATE, seed + 50, pruning)
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
        _train(member, rows, epochs, RATE, seed)
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
            jobs += [(f"{kind}, equal compute", f"{scale:g}", member,
                      max(1, round(spent / _compute(family, [(member, 1)])))) for kind, member in kinds]  # fmt: skip
    return jobs


def _compute(family: Family, parts: Sequence[tuple[Architecture, float]]) -> float:
    """Multiplications of training: three forward passes' worth for each sample seen, of the network as it then is."""
    return sum(3 * family.costs(profile).macs * epochs * NUM_ROWS for profile, epochs in parts)


def _row(
    kind: str, rule: str, profile: Architecture, family: Family, right: float, compute: float, seed: int
) -> dict[str, Any]:
    cost = family.costs(profile)
    return {
        "kind": kind, "rule": rule, "accuracy": round(right, 5), "parameters": cost.num_parameters, "macs": cost.macs,
        "compute": compute, "kept": dict(profile.kept), "seed": seed,
    }  # fmt: skip


def _of(results: Results, kind: str, rule: str, what: str = "accuracy") -> list[float]:
    return [float(row[what]) for row in results["rows"] if (row["kind"], row["rule"]) == (kind, rule)]


def verdicts(results: Results) -> list[Verdict]:
    """Return who wins at half of the channels, and what training from scratch says."""
    by_rule = {rule: mean(_of(results, "pruned and tuned", rule)) for rule in RULES}
    found = [
        (f"Fisher beats {rule} at 50 % of the channels, after tuning (mean of {SEEDS} seeds)",
         by_rule["fisher"] > by_rule[rule], f"{by_rule['fisher']:.4f} against {by_rule[rule]:.4f}")
        for rule in RULES[1:]
    ]  # fmt: skip
    scratch = {
        (kind, fair): mean(_of(results, f"{kind}, scratch{fair}", "1"))
        for kind in ("pruned architecture", "smaller network")
        for fair in ("", ", equal compute")
    }
    tuned, anew = by_rule["fisher"], scratch["pruned architecture", ", equal compute"]
    what = "Trained from scratch with as much compute, the pruned architecture beats pruned and tuned"
    equal = scratch["pruned architecture", ""]
    found.append(
        (what, anew > tuned, f"{anew:.4f} against {tuned:.4f} (with only the dense network's epochs {equal:.4f})")
    )
    for fair, words in (("", "equal epochs"), (", equal compute", "equal compute")):
        profile, even = (scratch[kind, fair] for kind in ("pruned architecture", "smaller network"))
        what = f"From scratch, the pruned architecture is at most half a point below the evenly smaller one, at {words}"
        found.append((what, profile >= even - 0.005, f"{profile:.4f} against {even:.4f}"))
    return found


def tables(results: Results) -> list[Table]:
    """Return the comparison, and the profiles that pruning found."""
    kinds = dict.fromkeys((row["kind"], row["rule"]) for row in results["rows"])
    rows = []
    for kind, rule in kinds:
        right, compute = _of(results, kind, rule), _of(results, kind, rule, "compute")
        epochs = [row.get("epochs") for row in results["rows"] if (row["kind"], row["rule"]) == (kind, rule)]
        rows.append([
            kind, rule if kind == "pruned and tuned" or not rule else f"{rule} of the parameters",
            f"{mean(right):.4f} ± {spread(right):.4f}", f"{mean(_of(results, kind, rule, 'parameters')):,.0f}",
            f"{mean(_of(results, kind, rule, 'macs')):,.0f}", f"{mean(compute) / 1e12:.2f}",
            "" if epochs[0] is None else " ".join(map(str, epochs)),
        ])  # fmt: skip
    columns = ("", "", "test accuracy", "parameters", "MACs", "training, 10^12 multiplications", "epochs")
    profiles = [[f"{row['kind']} {row['rule']}, seed {row['seed']}", *(str(width) for width in row["kept"].values())]
                for row in results["rows"] if row["kind"] in ("dense", "pruned and tuned")]  # fmt: skip
    groups = results["rows"][0]["kept"]
    return [
        Table("Four ways to a smaller network", columns, rows),
        Table("Channels kept of each block", ("", *groups), profiles),
    ]


def _draw(results: Results) -> bytes:
    def panels(whole: Any, axes: Sequence[Axes]) -> None:
        for axis, what in zip(axes, ("parameters", "compute"), strict=True):
            shown = list(dict.fromkeys(row["kind"] for row in results["rows"]))
            for colour, kind in zip(COLOURS, shown, strict=False):
                own = [row for row in results["rows"] if row["kind"] == kind]
                axis.plot([row[what] for row in own], [row["accuracy"] for row in own], "o", color=colour, label=kind)
                if kind == "pruned and tuned":
                    for row in own:
                        axis.annotate(row["rule"], (row[what], row["accuracy"]), fontsize=7)
            axis.set_xlabel("parameters" if what == "parameters" else "multiplications of the whole training")
            axis.set_xscale("log")
        axes[0].set_ylabel("test accuracy")
        axes[0].legend(fontsize=8, frameon=False)

    return figure(2, panels)


def notes(results: Results) -> list[str]:
    """Return what the figures mean."""
    later = {kind: mean(_of(results, f"{kind}, scratch, equal compute", "1"))
             for kind in ("pruned architecture", "smaller network")}  # fmt: skip
    return [
        "Only channels inside a block can go; what blocks add up stays. A rule sees what the steps of tuning since the "
        "last removal showed it; L1 takes the absolute value, which the authors' program forgets.",
        "Training is counted in multiplications (three forward passes for each sample) of the network as it then is, "
        "as if every removal made it physically smaller at once; the pruned route is the dense training and the "
        "tuning.",
        f"With as much compute as the pruned route took, the pruned architecture reaches "
        f"{later['pruned architecture']:.4f} from scratch, the evenly smaller network {later['smaller network']:.4f}. "
        "That is the paper's point: what pruning finds is the architecture; who has the time for one training only "
        "should train the small network. "
        "At equal epochs a short dense training favours the pruned route, which goes on training: that line was "
        "judged by compute once this was seen, and both figures stand in it.",
        "How a profile is scaled to other budgets could not be read in the paper: here every width times one factor, "
        "rounded, at least one.",
        "The paper prunes WRN-40-2 and DenseNet for 1,300 and 2,600 removals with 100 steps between them, after 200 "
        "epochs; here the data are a tenth of CIFAR-10 (JPEG, not comparable with published accuracies), the network "
        "is small, and two seeds say little about differences below a point.",
    ]


RECIPES = (
    Recipe(
        "nip-in-the-bud",
        "Is it time to nip it in the bud? Pruned, or small from the start",
        "Crowley, Turner, Storkey, O'Boyle, Pruning neural networks: is it time to nip it in the bud? (2018, arXiv "
        "1810.04622).",
        run,
        verdicts,
        tables,
        {"comparison.png": ("accuracy against parameters, and against the compute of training", _draw)},
        notes,
    ),
)
