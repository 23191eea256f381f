"""A process of its own for what workers do: starting one takes longer than all that tests ask of it."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch.utils.data import Dataset

_SET_UP = {}


class Rows(Dataset):
    """Rows that are made anew each time they are read."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int):
        return self.inputs[row].clone(), self.targets[row].clone()


def run_elsewhere(job: bytes, shard: tuple) -> dict:
    """In a process of its own; networks are traced once."""
    todo = pickle.loads(job)
    if todo.model not in _SET_UP:
        _SET_UP[todo.model] = todo.set_up()
    setting = _SET_UP[todo.model]
    setting.held.clear()
    return todo.run(setting, shard)


class Elsewhere:
    """One process that all rankings share, in the place of `Processes`."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"))

    def __call__(self, job, workers: int, threads: int) -> "Working":
        return Working(self.pool, pickle.dumps(job))


class Working:
    """One ranking's share of the process."""

    def __init__(self, pool: ProcessPoolExecutor, job: bytes) -> None:
        self.pool, self.job = pool, job

    def results(self, shards):
        futures = {number: self.pool.submit(run_elsewhere, self.job, shard) for number, shard in shards.items()}
        for number in sorted(futures, reverse=True):  # any order will do
            yield number, futures[number].result()

    def close(self) -> None:
        pass
