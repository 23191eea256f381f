"""Where recipes find their data: a folder the user names, the variable SHRINKNET_DATA, or fetched when asked for."""

import gzip
import hashlib
import io
import os
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shrinknet.core.errors import BadInputError

Rows = tuple[Tensor, Tensor]

MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
ADULT = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"


@dataclass(frozen=True, slots=True)
class Files:
    """A folder with one subfolder for each data set; what is missing is fetched where that is asked for."""

    folder: Path | None = None
    download: bool = False

    def find(self, name: str, files: tuple[str, ...], what: str, fetch: Callable[[Path], None] | None) -> Path:
        """Return the folder of a data set that holds all these files.

        Raises:
            BadInputError: it is not there.
        """
        given = self.folder
        if given is None and "SHRINKNET_DATA" in os.environ:
            given = Path(os.environ["SHRINKNET_DATA"])
        if given is None and self.download:
            given = Path("data")
        folder = None if given is None else given / name
        if folder is not None and self.download and fetch is not None and not _all_there(folder, files):
            folder.mkdir(parents=True, exist_ok=True)
            fetch(folder)
        if folder is None or not _all_there(folder, files):
            got = "nothing" if given is None else repr(str(given))
            do = "Name it, or say `download=True` to fetch them." if fetch is not None else "Name it."
            raise BadInputError("data", f"a folder that holds {name}/ with {what}", got, do)
        return folder

    def mnist(self) -> Path:
        """Return the folder of MNIST's four original files.

        Raises:
            BadInputError: they are not there, or are others.
        """
        found = self.find("mnist", tuple(MNIST_MD5), "the four original MNIST files (*-ubyte.gz)", _fetch_mnist)
        for name, digest in MNIST_MD5.items():
            if hashlib.md5((found / name).read_bytes(), usedforsecurity=False).hexdigest() != digest:
                do = "Fetch it again."
                raise BadInputError("data", "a folder with the original MNIST files", f"another {name!r}", do)
        return found

    def mnist_rows(self) -> tuple[Rows, Rows]:
        """Return all training and test images [N, 1, 28, 28], pixels in [0, 1], and their classes."""
        folder = self.mnist()
        parts = [
            (read_idx(folder / f"{part}-images-idx3-ubyte.gz"), read_idx(folder / f"{part}-labels-idx1-ubyte.gz"))
            for part in ("train", "t10k")
        ]
        train, test = ((torch.tensor(x)[:, None].float() / 255, torch.tensor(y.astype(np.int64))) for x, y in parts)
        return train, test

    def cifar10_rows(self) -> tuple[Rows, Rows]:
        """Return training and test images [N, 3, 32, 32] in [0, 1] and their classes, shuffled once.

        Read from JPEG (`train.npz`, `test.npz` with the keys jpeg, offset, label) or from the original binary files.
        """
        folder = self.find("cifar10", (), "train.npz and test.npz, or the original binary files", _fetch_cifar10)
        read = _jpeg_rows if (folder / "train.npz").is_file() else _binary_rows
        parts = []
        for part in ("train", "test"):
            images, labels = read(folder, part)
            order = np.random.default_rng(0).permutation(len(images))
            pixels = torch.tensor(images[order]).permute(0, 3, 1, 2).float() / 255
            parts.append((pixels.contiguous(), torch.tensor(labels[order].astype(np.int64))))
        return parts[0], parts[1]

    def shakespeare(self) -> str:
        """Return the text of tiny Shakespeare."""
        folder = self.find("text", ("tinyshakespeare.txt",), "tinyshakespeare.txt", _fetch_shakespeare)
        return (folder / "tinyshakespeare.txt").read_text()

    def adult(self) -> tuple[list[list[str]], list[list[str]]]:
        """Return the training and test rows of UCI Adult as texts, the label last."""
        names = ("adult.data.gz", "adult.test.gz")
        folder = self.find("tabular", names, " and ".join(names), _fetch_adult)
        return _table(folder / names[0]), _table(folder / names[1])


def read_idx(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return an IDX file as bytes: images [N, 28, 28] or labels [N]."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def _all_there(folder: Path, files: tuple[str, ...]) -> bool:
    return folder.is_dir() and all((folder / name).is_file() for name in files)


def _fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def _keep(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(content)
    os.replace(beside, path)


def _fetch_mnist(folder: Path) -> None:
    for name in MNIST_MD5:
        if not (folder / name).is_file():
            _keep(folder / name, _fetch(MNIST + name))


def _fetch_cifar10(folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(_fetch(CIFAR10))) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(".bin") else None
            if content is not None:
                _keep(folder / Path(member.name).name, content.read())


def _fetch_shakespeare(folder: Path) -> None:
    _keep(folder / "tinyshakespeare.txt", _fetch(SHAKESPEARE))


def _fetch_adult(folder: Path) -> None:
    for part in ("data", "test"):
        _keep(folder / f"adult.{part}.gz", gzip.compress(_fetch(f"{ADULT}adult.{part}")))


def _jpeg_rows(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    with np.load(folder / f"{part}.npz", allow_pickle=False) as file:
        jpeg, offsets, labels = file["jpeg"], file["offset"], file["label"]
    bounds = pairwise(offsets)
    return np.stack([np.asarray(Image.open(io.BytesIO(jpeg[a:b].tobytes()))) for a, b in bounds]), labels


def _binary_rows(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] if part == "train" else ["test_batch.bin"]
    rows = np.concatenate([np.frombuffer((folder / name).read_bytes(), np.uint8).reshape(-1, 3073) for name in names])
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def _table(path: Path) -> list[list[str]]:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    rows = [[cell.strip().rstrip(".") for cell in line.split(",")] for line in lines]
    return [row for row in rows if len(row) == 15]
