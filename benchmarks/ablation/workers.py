"""Two processes against one on ResNet8's exact ranking, one thread each.

    SHRINKNET_DATA=... python benchmarks/ablation/workers.py

Pools are started and have set up before anything is timed; what starting costs is written beside. The driver and the
serial run use one thread as well, so that threads are split fairly. Scores must be the same bits throughout.
"""

import torch
from cifar import images
from rounds import SEED, in_turns, once, write

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import in_memory
from shrinknet.execution.jobs import Workers

NUM_IMAGES, ROUNDS = 1000, 3


def main() -> None:
    """Time one and two processes, and none."""
    from trained_networks import resnet8

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    task = sn.Task(resnet8().eval(), "cross-entropy", images(NUM_IMAGES, SEED))
    network, ablation = gated(task), find_criterion("ablation")
    task = in_memory(task, network)
    pools, starting, scores = {}, {}, {}
    for count in (1, 2):
        scoring = sn.Scoring(executor="processes", workers=count)
        pools[count] = Workers(task, scoring, (), (), ablation, None)

        def score(count=count) -> None:
            scores[count] = pools[count].score(network, lambda done, total: None)

        starting[count] = once(score)

    def again(count: int) -> None:
        scores[count] = pools[count].score(network, lambda done, total: None)

    def serial() -> None:
        scores["serial"] = ablation.score(network, task.calibration.batches())

    seconds = in_turns({"serial": serial, "1 process": lambda: again(1), "2 processes": lambda: again(2)}, ROUNDS)
    same = all(
        (scores[key].values[name] == scores["serial"].values[name]).all() for key in (1, 2) for name in scores[1].values
    )
    for pool in pools.values():
        pool.close()
    median = {way: times["median"] for way, times in seconds.items()}
    write("workers", {
        "num_images": NUM_IMAGES, "threads_of_each_worker": 1, "seconds": seconds,
        "seconds_of_the_first_ranking": starting, "same_bits": bool(same),
        "one_over_two": median["1 process"] / median["2 processes"],
        "serial_over_two": median["serial"] / median["2 processes"],
    })  # fmt: skip


if __name__ == "__main__":
    main()
