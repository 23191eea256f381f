"""A role's rows are those that were given: samplers, batch samplers, what is no tensor, what would be rounded."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

import shrinknet as sn
from shrinknet.core.config import DEFAULT_BATCH_SIZE

ROWS = TensorDataset(torch.arange(100.0)[:, None].repeat(1, 4), torch.arange(100) % 3)


def network(precision: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(precision)


def task(source, precision: torch.dtype = torch.float32, loss="cross-entropy") -> sn.Task:
    return sn.Task(network(precision), loss, source)


def rows_in(source) -> list[int]:
    """The rows of a task's calibration data, told by what stands in them."""
    return [int(row) for batch in task(source).calibration.batches() for row in batch.inputs[:, 0]]


class Listed:
    """A sampler, or a batch sampler, of one's own."""

    def __init__(self, *each_time) -> None:
        self.each_time, self.calls = each_time, 0

    def __iter__(self):
        self.calls += 1
        return iter(self.each_time[min(self.calls, len(self.each_time)) - 1])


class Endless:
    def __iter__(self):
        while True:
            yield 1


class Reversed(RandomSampler):
    def __iter__(self):
        return iter(range(79, -1, -1))


ALL = list(range(100))
TAKEN = {
    "plain": (DataLoader(ROWS, 10), ALL),
    "shuffled": (DataLoader(ROWS, 10, shuffle=True), ALL),
    "shuffled, the last few dropped each time": (DataLoader(ROWS, 30, shuffle=True, drop_last=True), ALL),
    "the last few never come": (DataLoader(ROWS, 30, drop_last=True), list(range(90))),
    "a subset at random": (DataLoader(ROWS, 10, sampler=SubsetRandomSampler(range(80, 100))), list(range(80, 100))),
    "a subset in its own order": (DataLoader(ROWS, 7, sampler=SubsetRandomSampler([5, 99, 3])), [5, 99, 3]),
    "numbers of numpy": (DataLoader(ROWS, 7, sampler=SubsetRandomSampler(np.array([5, 99, 3]))), [5, 99, 3]),
    "numbers of torch": (DataLoader(ROWS, 7, sampler=SubsetRandomSampler(torch.tensor([5, 99]))), [5, 99]),
    "a source of fewer rows": (DataLoader(ROWS, 10, sampler=RandomSampler(range(30))), list(range(30))),
    "sequential over fewer rows": (DataLoader(ROWS, 10, sampler=SequentialSampler(range(30))), list(range(30))),
    "a list": (DataLoader(ROWS, 10, sampler=[4, 4, 9]), [4, 4, 9]),
    "a sampler of one's own": (DataLoader(ROWS, 10, sampler=Listed([9, 2, 5])), [9, 2, 5]),
    "one that shuffles its rows": (DataLoader(ROWS, 10, sampler=Listed([9, 2, 5], [2, 9, 5])), [2, 5, 9]),
    "a class that overrides a known one": (DataLoader(ROWS, 10, sampler=Reversed(range(80))), list(range(79, -1, -1))),
    "batches of a subset": (DataLoader(ROWS, batch_sampler=BatchSampler(SubsetRandomSampler([7, 8]), 10, False)), [7, 8]),
    "batches, the last few never come": (DataLoader(ROWS, batch_sampler=BatchSampler(SequentialSampler(range(10)), 4, True)), list(range(8))),
    "batches of one's own": (DataLoader(ROWS, batch_sampler=[[3, 1], [2]]), [3, 1, 2]),
    "batches in another order each time": (DataLoader(ROWS, batch_sampler=Listed([[3, 1], [2]], [[2], [3, 1]])), [1, 2, 3]),
    "whole batches as indices": (DataLoader(ROWS, batch_size=None, sampler=BatchSampler(SequentialSampler(range(6)), 4, False)), list(range(6))),
    "a loader of a subset": (DataLoader(Subset(ROWS, [8, 6, 4]), 2, sampler=SubsetRandomSampler([2, 0])), [4, 8]),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_a_loader_gives_the_rows_of_its_sampler(case: str) -> None:
    loader, expected = TAKEN[case]
    assert rows_in(loader) == expected
    assert len(task(loader).calibration) == len(expected)


def test_two_loaders_of_one_data_set_share_no_row() -> None:
    first, second = random_split(range(100), [80, 20], torch.Generator().manual_seed(1))
    loaders = [DataLoader(ROWS, 10, sampler=SubsetRandomSampler(part.indices)) for part in (first, second)]
    both = sn.Task(network(), "cross-entropy", *loaders)
    found = [
        {int(row) for batch in data.batches() for row in batch.inputs[:, 0]}
        for data in (both.calibration, both.validation)
    ]
    assert found == [set(first.indices), set(second.indices)]
    subset = sn.Task(network(), "cross-entropy", Subset(ROWS, list(first.indices)))
    assert dict(sn.rank(both)) == pytest.approx(dict(sn.rank(subset)), rel=1e-6, abs=1e-7)


def test_a_batch_sampler_of_torchs_own_gives_the_size_of_batches() -> None:
    batches = BatchSampler(SubsetRandomSampler(range(50)), 7, False)
    assert task(DataLoader(ROWS, batch_sampler=batches)).calibration.batch_size == 7
    assert task(DataLoader(ROWS, batch_sampler=[[1, 2], [3]])).calibration.batch_size == DEFAULT_BATCH_SIZE


REFUSED = {
    "by weight": (lambda: DataLoader(ROWS, 10, sampler=WeightedRandomSampler([1.0] * 100, 20)), "Got a WeightedRandomSampler."),
    "with replacement": (lambda: DataLoader(ROWS, 10, sampler=RandomSampler(ROWS, True, 20)), "Got a RandomSampler with replacement or num_samples."),
    "some of all at random": (lambda: DataLoader(ROWS, 10, sampler=RandomSampler(ROWS, num_samples=20)), "Got a RandomSampler with replacement or num_samples."),
    "a share of many processes": (lambda: DataLoader(ROWS, 10, sampler=DistributedSampler(ROWS, 4, 1)), "Got a DistributedSampler."),
    "weights in batches": (lambda: DataLoader(ROWS, batch_sampler=BatchSampler(WeightedRandomSampler([1.0] * 100, 20), 5, False)), "Got a WeightedRandomSampler."),
    "others each time": (lambda: DataLoader(ROWS, 10, sampler=Listed([1, 2], [1, 3])), "Got a Listed that gives other rows each time."),
    "once only": (lambda: DataLoader(ROWS, 10, sampler=iter([1, 2])), "that gives other rows each time."),
    "batches, others each time": (lambda: DataLoader(ROWS, batch_sampler=Listed([[1, 2]], [[1], [3]])), "Got a Listed that gives other rows each time."),
    "without end": (lambda: DataLoader(ROWS, 10, sampler=Endless()), "Got a Endless that does not end."),
    "beyond the data": (lambda: DataLoader(ROWS, 10, sampler=[3, 100]), "Got a sampler that gives row 100 of 100."),
    "no batches": (lambda: DataLoader(ROWS, batch_size=None), "Got a DataLoader with batch_size=None. Give the Dataset itself"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_sampler_whose_rows_are_not_known_is_refused(case: str) -> None:
    loader, words = REFUSED[case]
    with pytest.raises(sn.BadInputError, match=r"^calibration must be data whose rows are the same each time") as told:
        task(loader())
    assert words in str(told.value)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.ones(4), 1)] * 10)

    def __len__(self) -> int:
        return 10


class Scaled(TensorDataset):
    """Rows that are changed on the way out."""

    def __getitem__(self, row):
        inputs, targets = super().__getitem__(row)
        return inputs + 1000, targets


class Augmented(Dataset):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, row):
        return torch.randn(4), row % 3


class Padded(Dataset):
    """Sequences of several lengths."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row):
        return torch.ones(1 + row % 4), row % 3


class Named(Augmented):
    def __getitem__(self, row):
        return {"pixels": torch.ones(4), "label": row % 3}


class OfNumbers(Augmented):
    def __getitem__(self, row):
        return {"input": [1.0, 2.0, 3.0, 4.0], "label": row % 3}


def add_1000(items):
    inputs, targets = zip(*items, strict=True)
    return torch.stack(inputs) + 1000, torch.stack(targets)


def dropping(items):
    return torch.ones(len(items) - 1, 4), torch.zeros(len(items) - 1).long()


def uneven(items):
    return torch.ones(len(items), 4), torch.zeros(len(items) - 1).long()


def test_what_changes_rows_on_the_way_is_not_passed_over() -> None:
    expected = [1000 + row for row in range(100)]
    assert rows_in(Scaled(*ROWS.tensors)) == expected
    assert rows_in(DataLoader(ROWS, 10, collate_fn=add_1000)) == expected
    assert rows_in(DataLoader(ROWS, 10, sampler=SubsetRandomSampler([3, 2]), collate_fn=add_1000)) == [1003, 1002]
    padded = DataLoader(Padded(), 4, collate_fn=lambda items: (
        torch.stack([nn.functional.pad(x, (0, 4 - len(x))) for x, _ in items]), torch.tensor([y for _, y in items])))  # fmt: skip
    assert len(task(padded).calibration) == 12


TAKES_ONE = "calibration inputs must be of a shape and dtype that the model takes. Got [30, 4] float32 and [30,"
CALLED_ONCE = (
    "calibration must be a batch with what the network's forward takes (input). Got 2 parts beside the targets. Where"
)
NO_TARGETS = "calibration targets must be one tensor for cross-entropy. Got nothing. Give one for each row, or say `loss='own-answers'`"
X, Y = torch.randn(30, 4), torch.arange(30) % 3


class Frame:
    """What pandas and polars have in common."""

    def to_numpy(self):
        return X.numpy()


class Matrix:
    """What scipy's sparse matrices have."""

    shape = (30, 4)

    def toarray(self):
        return X.numpy()


INPUTS = {
    "a tuple of inputs": (((X, X), Y), TAKES_ONE),
    "a list of inputs": (([X, X[:, :2]], Y), TAKES_ONE),
    "a dict of inputs": (({"ids": X, "mask": X}, Y), TAKES_ONE),
    "three tensors": (TensorDataset(X, X, Y), CALLED_ONCE),
    "one tensor": (TensorDataset(X), NO_TARGETS),
    "a data set of dicts": (Named(), "(input). Got keys 'pixels', 'label'. Name the arrays so, or say unpack="),
    "inputs of other lengths": (((X, X[:20]), Y), "Got inputs[0][0] [30, 4], inputs[0][1] [20, 4], targets [30]. Give each a row"),
    "a key that nothing takes": ({"input": X, "labels": Y, "odd": Y}, "Got a key 'odd' that nothing takes. Leave it out"),
    "a frame": ((Frame(), Y), "Got a Frame. Write torch.tensor(frame.to_numpy())."),
    "a frame of targets": ((X, Frame()), "calibration targets must be one tensor with a row for each sample. Got a Frame."),
    "a sparse matrix": ((Matrix(), Y), "Got a Matrix. Write torch.tensor(matrix.toarray())."),
    "a sparse tensor": ((X.to_sparse(), Y), "Got a sparse Tensor. Give it with to_dense()."),
    "packed sequences": ((nn.utils.rnn.pack_sequence([X[0], X[1]]), Y), "Got a PackedSequence of 4. Pad the sequences to one length"),
    "sequences of several lengths": (([[1.0, 2.0], [3.0]], Y[:2]), "Make it one with torch.as_tensor"),
    "text": ((np.array(["a"] * 30), Y), "Got a ndarray. Make it one with torch.as_tensor"),
    "objects": ((np.array([None] * 30), Y), "Got a ndarray. Make it one with torch.as_tensor"),
    "nothing for targets": ((X, None), NO_TARGETS),
    "a tuple of targets": ((X, (Y, Y)), "calibration targets must be one tensor for cross-entropy. Got a tuple."),
    "one number": ((torch.tensor(1.0), Y), "Got a Tensor of shape []. Samples lie along the first axis."),
    "a stream": (Stream(), "Got Stream. Wrap your arrays as torch.from_numpy(...); read what only comes once into tensors."),
    "a loader of a stream": (DataLoader(Stream(), 5), "Got Stream."),
    "lengths that do not stack": (Padded(), "Got rows that cannot be read so (RuntimeError"),
    "others each time": (Augmented(), "calibration must be rows that are the same each time. Got other inputs the second time."),
    "rows left out": (DataLoader(ROWS, 10, collate_fn=dropping), "calibration must be as many rows as the data set has. Got 90 of 100."),
    "rows of targets left out": (DataLoader(ROWS, 10, collate_fn=uneven), "Got 10 inputs and 9 targets."),
    "batches in a list": ([(X, Y), (X, Y)], "Got list. Give a list of rows as DataLoader(rows, 64), all inputs and all targets as a tuple."),
    "rows of numbers": (OfNumbers(), "Got rows whose 'input' is a list of numbers, of which it makes a list of columns. Make it a tensor (a Hugging Face data set does with_format('torch'))"),
}  # fmt: skip


@pytest.mark.parametrize("case", INPUTS)
def test_what_is_no_pair_of_tensors_ends_in_one_sentence_with_the_remedy(case: str) -> None:
    source, words = INPUTS[case]
    with pytest.raises(sn.BadInputError) as told:
        task(source)
    assert words in str(told.value)


def test_arrays_lists_and_tensors_of_any_kind_are_taken() -> None:
    expected = sn.rank(task((X, Y)))
    with torch.inference_mode():
        inferred = X.clone(), Y.clone()
    for source in (
        (X.numpy(), Y.numpy()), (X.numpy()[::-1][::-1], Y.tolist()), (X.tolist(), Y), (X.clone().requires_grad_(), Y),
        (nn.Parameter(X), Y.to(torch.uint8)), inferred,
    ):  # fmt: skip
        assert sn.rank(task(source)) == expected
        assert sn.rank(task(source), "taylor-1") == sn.rank(task((X, Y)), "taylor-1")


LAID_OUT = {
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "every other": lambda x: torch.stack([x, x], -1)[..., 0],
    "reversed twice": lambda x: x.flip(0).flip(0)[:],
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "a part of a wider one": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAID_OUT)
@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_laid_out_otherwise_give_the_same_scores_to_the_bit(layout: str, channels: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    x = torch.randn(10, channels, 8, 8)
    given = LAID_OUT[layout](x)
    plain = given.clone(memory_format=torch.contiguous_format)
    for criterion in ("ablation", "taylor-2"):
        found, expected = (
            sn.rank(sn.Task(model, "cross-entropy", (some, torch.arange(10) % 3)), criterion) for some in (given, plain)
        )
        assert found == expected


WHOLE = {
    "ids in float16": (torch.float16, 2049.0, "2049 in column 3, which float16 rounds to 2048."),
    "ids in bfloat16": (torch.bfloat16, 257.0, "257 in column 3, which bfloat16 rounds to 256."),
    "seconds in float32": (torch.float32, 1.7e9 + 1, "1700000001 in column 3, which float32 rounds to 1700000000."),
    "ids beyond float16": (torch.float16, 70000.0, "70000 in column 3, which float16 rounds to inf."),
}


@pytest.mark.parametrize("case", WHOLE)
def test_whole_numbers_beside_floats_are_not_rounded_in_silence(case: str) -> None:
    precision, value, words = WHOLE[case]
    inputs = torch.rand(30, 4, dtype=torch.float64)
    inputs[:, 3] = torch.arange(30)
    assert task((inputs, Y), precision)
    inputs[17, 3] = value
    with pytest.raises(sn.BadInputError, match=r"^calibration inputs must be whole numbers that the network's") as told:
        task((inputs, Y), precision)
    assert words in str(told.value)
    with pytest.raises(sn.BadInputError, match="inputs must be whole numbers"):
        task(
            DataLoader([*zip(inputs, Y, strict=True)], 8) if False else Subset(TensorDataset(inputs, Y), range(30)),
            precision,
        )
    if value < 60000:
        assert task((inputs.to(precision), Y), precision), "who rounds says so"
    inputs[16, 3] = 0.5
    if value < 60000:
        assert task((inputs, Y), precision), "a column of other numbers is measured, not counted"


def test_counts_as_targets_are_not_rounded_either() -> None:
    targets = torch.full((30, 3), 5000.0)
    with pytest.raises(
        sn.BadInputError, match=r"^calibration targets .* Got 5000 in column 0, which bfloat16 rounds to 4992\."
    ):
        task((X, targets), torch.bfloat16, "squared-error")


@pytest.fixture
def usual_defaults():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("default", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("criterion", ["ablation", "taylor-2", "empirical-fisher", "unit-obs", "activation"])
def test_another_default_dtype_changes_no_bit(default, criterion: str, usual_defaults) -> None:
    inputs = torch.randn(30, 4)
    model = network()
    expected = sn.rank(sn.Task(model, "cross-entropy", (inputs, Y)), criterion)
    torch.set_default_dtype(default)
    assert sn.rank(sn.Task(model, "cross-entropy", (inputs, Y)), criterion) == expected
    run = sn.prune(sn.Task(model, "cross-entropy", (inputs, Y), (inputs, Y)), criterion, goals=[sn.RemovedNeurons(2)],
                   compensate="mean")  # fmt: skip
    assert run.model[0].weight.dtype == torch.float32


def test_another_default_device_ends_in_one_sentence(usual_defaults) -> None:
    inputs, model = torch.randn(30, 4), network()
    made = sn.Task(model, "cross-entropy", (inputs, Y))
    torch.set_default_device("meta")
    for work in (
        lambda: sn.Task(model, "cross-entropy", (inputs, Y)),
        lambda: sn.rank(made),
        lambda: sn.trace(model, inputs),
    ):
        with pytest.raises(
            sn.BadInputError, match=r"^torch's default device must be the CPU .* Got 'meta'\. Call torch\.set"
        ):
            work()


@pytest.mark.parametrize("form", [lambda rows: rows, lambda rows: TensorDataset(*rows),
                                  lambda rows: Subset(TensorDataset(*rows), range(23)),
                                  lambda rows: DataLoader(TensorDataset(*rows), batch_size=7)])  # fmt: skip
def test_every_batch_begins_on_a_cache_line(form) -> None:
    """Rows of 5 numbers, 7 at a time: most parts of one tensor begin elsewhere, and sums of them have other bits."""
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    made = sn.Task(model, "cross-entropy", form((torch.randn(23, 5), torch.arange(23) % 3)), batch_size=7)
    for data in (made.calibration, made.calibration.rows(3, 20)):
        batches = list(data.batches())
        assert len(batches) > 2
        assert all(tensor.data_ptr() % 64 == 0 for batch in batches for tensor in (batch.inputs, batch.targets))
