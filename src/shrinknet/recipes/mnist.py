"""MNIST from its four original files: a folder the user names, or fetched when the user asks for it."""

import gzip
import hashlib
import os
import urllib.request
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shrinknet.errors import BadInputError

SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def find_mnist(folder: Path | None, *, download: bool = False) -> Path:
    """Return the folder that holds MNIST: the given one, or `mnist` under the variable SHRINKNET_DATA.

    With `download` the files that are missing there are fetched and checked against their MD5.

    Raises:
        BadInputError: it is not there, or not MNIST.
    """
    if folder is None and "SHRINKNET_DATA" in os.environ:
        folder = Path(os.environ["SHRINKNET_DATA"]) / "mnist"
    if folder is None and download:
        folder = Path("mnist")
    if folder is not None and download:
        _fetch(folder)
    if folder is None or not all((folder / name).is_file() for name in MD5):
        raise BadInputError(
            "--mnist",
            "a folder with the four original MNIST files (*-ubyte.gz)",
            "nothing" if folder is None else repr(str(folder)),
            "Name it, or say --download to fetch them.",
        )
    for name, digest in MD5.items():
        if hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest() != digest:
            raise BadInputError("--mnist", "the original MNIST files", f"another {name!r}", "Fetch it again.")
    return folder


def _fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in MD5:
        if not (folder / name).is_file():
            with urllib.request.urlopen(SOURCE + name, timeout=60) as answer:
                content = answer.read()
            beside = folder / f".{name}.part"
            beside.write_bytes(content)
            os.replace(beside, folder / name)


def read_idx(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return an IDX file as bytes: images [N, 28, 28] or labels [N]."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def paper_subset(folder: Path, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return 4,500 training and 500 test rows of the 20 x 20 centre, 500 images a class, pixels in [0, 1].

    The paper used the 5,000 images of a course's exercise, 20 x 20; a seeded draw from MNIST stands in for them.
    """
    images = read_idx(folder / "train-images-idx3-ubyte.gz")
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")
    generator = np.random.default_rng(seed)
    chosen = np.concatenate([generator.choice(np.flatnonzero(labels == c), 500, replace=False) for c in range(10)])
    chosen = generator.permutation(chosen)
    inputs = torch.tensor(images[chosen, 4:24, 4:24].reshape(len(chosen), -1), dtype=torch.float64) / 255
    targets = torch.tensor(labels[chosen].astype(np.int64))
    return (inputs[:4500], targets[:4500]), (inputs[4500:], targets[4500:])
