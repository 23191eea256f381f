"""MLPerf Tiny's ResNet8 on 1,000 CIFAR-10 images: exact ablation of all 224 channels, and taylor-2 of them.

    SHRINKNET_DATA=... python benchmarks/ablation/resnet8.py

Rivals: the plain loop (mask one channel where it is read, run the whole network on all images, for each of the 224),
at three batch sizes, since it is fastest at a small one; the same loop compiled; Captum's LayerFeatureAblation on the
loss. A pass of theirs costs the same for every channel: each is timed on 8 channels, in turns with ours, and
multiplied. For taylor-2 the rival is what it needs at least: a forward and a backward pass for each of the 10 outputs.
For taylor-1, Torch-Pruning's importance class: one forward and backward pass, and its own group importances.
"""

import torch
from captum.attr import LayerFeatureAblation
from cifar import images
from rounds import SEED, in_turns, once, write
from torch.nn import functional

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import in_memory

NUM_IMAGES, ROUNDS, CHANNELS_TIMED = 1000, 5, 8


def main() -> None:
    """Time everything."""
    import torch_pruning
    from trained_networks import resnet8

    torch.manual_seed(SEED)
    model, (inputs, targets) = resnet8().eval(), images(NUM_IMAGES, SEED)
    task = sn.Task(model, "cross-entropy", (inputs, targets))
    network = gated(task)
    task = in_memory(task, network)
    num_channels = network.trace.num_neurons
    scored = {}

    def score(name: str) -> None:
        scored[name] = find_criterion(name).score(network, task.calibration.batches())

    mask = torch.ones(1, 64, 1, 1)

    def masked(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = torch.relu(model.norm(model.stem(rows)))
        x = model.blocks[:2](x)
        block = model.blocks[2]
        y = torch.relu(block.norm1(block.conv1(functional.pad(x, (0, 1, 0, 1))))) * mask
        x = torch.relu(block.shortcut(x) + block.norm2(block.conv2(y)))
        return model.head(functional.avg_pool2d(x, 8).flatten(1))

    compiled = torch.compile(masked)

    def loop(batch_size: int, forward=masked) -> list[float]:
        rises = []
        with torch.no_grad():
            for channel in range(CHANNELS_TIMED):
                mask[:, channel] = 0
                total = 0.0
                for rows, classes in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
                    total += float(functional.cross_entropy(forward(rows, mask), classes, reduction="sum"))
                rises.append(total / NUM_IMAGES)
                mask[:, channel] = 1
        return rises

    def captum() -> None:
        features = torch.arange(64).clamp(max=CHANNELS_TIMED - 1).view(1, 64, 1, 1)  # 8 features: 8 passes
        for rows, classes in zip(inputs.split(100), targets.split(100), strict=True):
            method = LayerFeatureAblation(
                lambda x, classes=classes: functional.cross_entropy(model(x), classes, reduction="none"),
                model.blocks[2].norm1,
            )
            with torch.no_grad():
                method.attribute(rows, layer_mask=features)

    def ten_passes() -> None:
        for rows in inputs.split(100):
            for output in range(10):
                model(rows)[:, output].sum().backward()
        model.zero_grad(set_to_none=True)

    def torch_prunings_taylor() -> None:
        graph = torch_pruning.DependencyGraph().build_dependency(model, inputs[:1])
        for rows, classes in zip(inputs.split(100), targets.split(100), strict=True):
            functional.cross_entropy(model(rows), classes).backward()
        importance = torch_pruning.importance.GroupTaylorImportance()
        for group in graph.get_all_groups(ignored_layers=[model.head]):
            importance(group)
        model.zero_grad(set_to_none=True)

    score("ablation")
    with torch.no_grad():
        start = float(functional.cross_entropy(model(inputs), targets))
    theirs = torch.tensor(loop(100)).double() - start
    torch.testing.assert_close(
        torch.from_numpy(scored["ablation"].values["blocks.2.conv1"][:CHANNELS_TIMED]), theirs, rtol=1e-3, atol=2e-6
    )
    compile_seconds = once(lambda: loop(100, compiled))
    seconds = in_turns(
        {
            "ablation": lambda: score("ablation"),
            "loop, batches of 32": lambda: loop(32),
            "loop, batches of 100": lambda: loop(100),
            "loop, one batch": lambda: loop(NUM_IMAGES),
            "compiled loop, batches of 100": lambda: loop(100, compiled),
            "Captum, batches of 100": captum,
            "taylor-2": lambda: score("taylor-2"),
            "10 forward and backward passes": ten_passes,
            "taylor-1": lambda: score("taylor-1"),
            "Torch-Pruning's Taylor importance": torch_prunings_taylor,
        },
        ROUNDS,
    )
    median = {way: times["median"] for way, times in seconds.items()}
    loops = {way: median[way] / CHANNELS_TIMED * num_channels for way in median if "loop" in way or "Captum" in way}
    forward = min(loops[way] for way in loops if way.startswith("loop")) / num_channels
    write("resnet8", {
        "num_images": NUM_IMAGES, "num_channels": num_channels, "seconds": seconds,
        "seconds_to_compile_the_loop": compile_seconds,
        "seconds_of_rivals_for_all_channels": loops,
        "rival_over_ours": {way: loops[way] / median["ablation"] for way in loops},
        "ablation_over_the_fastest_forward_pass": median["ablation"] / forward,
        "neurons_per_second": num_channels / median["ablation"],
        "neurons_times_images_per_second": num_channels * NUM_IMAGES / median["ablation"],
        "taylor_2_over_10_passes": median["taylor-2"] / median["10 forward and backward passes"],
        "torch_pruning_over_taylor_1": median["Torch-Pruning's Taylor importance"] / median["taylor-1"],
    })  # fmt: skip


if __name__ == "__main__":
    main()
