"""Sparse weights as files and as products: compressed rows (CSR) or compressed rows of blocks (BSR)."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import scipy
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from shrinknet.core.errors import BadInputError
from shrinknet.core.turns import leaving_out

Tile = Sequence[int]


def sparse_bytes(tensors: Mapping[str, Tensor], block: int | Tile | None = None) -> bytes:
    """Return a safetensors file that holds matrices and kernels without their zeros; no pickle.

    A tensor "w" of which enough is zero becomes "w.values", "w.columns" and "w.rows" (CSR, or BSR with `block`);
    kernels are laid out as [outputs, inputs x positions]. Any tensor that would not get smaller is stored as it is.

    Args:
        tensors: such as a `state_dict`.
        block: the size of tiles; it must divide a matrix for that to be stored in tiles, others are stored by weight.

    >>> weight = torch.zeros(64, 64)
    >>> weight[0, 0] = 1.0
    >>> len(sparse_bytes({"w": weight})) < 1000
    True
    """
    stored, shapes = dict[str, Tensor](), dict[str, list[int]]()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        parts = _parts(value.reshape(len(value), -1), block) if value.dim() >= 2 else None
        if parts is None or sum(part.nbytes for part in parts.values()) >= value.nbytes:
            stored[name] = value.clone()
        else:
            shapes[name] = list(value.shape)
            stored |= {f"{name}.{part}": of_part for part, of_part in parts.items()}
    return save(stored, {"sparse": json.dumps(shapes)})


def load_sparse(path: str | Path) -> dict[str, Tensor]:
    """Return the dense tensors of a file of sparse ones.

    Raises:
        BadInputError: it is not one.
    """
    try:
        with safe_open(path, "pt") as file:
            shapes = json.loads(file.metadata()["sparse"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, shape in shapes.items():
            values, columns, rows = (tensors.pop(f"{name}.{part}") for part in ("values", "columns", "rows"))
            kind = scipy.sparse.csr_array if values.dim() == 1 else scipy.sparse.bsr_array
            parts = values.to(EXACT[values.dtype]).numpy(), columns.numpy().astype(np.int32), rows.numpy()
            matrix = kind(parts, (shape[0], int(np.prod(shape[1:])))).toarray()
            tensors[name] = torch.from_numpy(matrix).to(values.dtype).reshape(shape)
    except (OSError, KeyError, TypeError, ValueError) as error:
        got = f"{str(path)!r} ({type(error).__name__}: {error})"
        raise BadInputError("path", "a file that sparse_bytes made", got, "Make it again.") from error
    return tensors


EXACT = {**dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float32), torch.float64: torch.float64}
"""Kinds of numbers that are stored without zeros, and the kind that numpy knows and that holds each exactly."""


def _parts(matrix: Tensor, block: int | Tile | None) -> dict[str, Tensor] | None:
    if matrix.dtype not in EXACT:
        return None
    tile = (block, block) if isinstance(block, int) else None if block is None else tuple(block)
    fits = tile is not None and matrix.shape[0] % tile[0] == 0 and matrix.shape[1] % tile[1] == 0
    whole = matrix.to(EXACT[matrix.dtype]).numpy()
    stored = scipy.sparse.bsr_array(whole, blocksize=tile) if fits else scipy.sparse.csr_array(whole)
    stored.eliminate_zeros()
    index = np.uint16 if matrix.shape[1] < 2**16 else np.int32
    return {
        "values": torch.from_numpy(stored.data).to(matrix.dtype),
        "columns": torch.from_numpy(stored.indices.astype(index)),
        "rows": torch.from_numpy(stored.indptr.astype(np.int32)),
    }


def product_times(matrix: Tensor, batch: int, block: int | Tile | None = None, repeats: int = 200) -> dict[str, float]:
    """Return the microseconds (median) that a product with some samples takes: dense, CSR, and BSR with a `block`.

    Dense and CSR by torch on its present number of threads, CSR and BSR by scipy on one; each the faster of what there
    is. Sparse ones often lose: the file is smaller all the same.
    """
    samples = torch.randn(matrix.shape[1], batch, dtype=matrix.dtype)
    dense = matrix.detach().clone()
    with leaving_out(UserWarning):  # torch calls the layout beta
        rows = dense.to_sparse_csr()
    csr, columns = scipy.sparse.csr_array(dense.numpy()), samples.numpy()
    found = {
        "dense": _microseconds(lambda: dense @ samples, repeats),
        "csr": min(_microseconds(lambda: rows @ samples, repeats), _microseconds(lambda: csr @ columns, repeats)),
    }
    if block is not None:
        tile = (block, block) if isinstance(block, int) else tuple(block)
        bsr = scipy.sparse.bsr_array(dense.numpy(), blocksize=tile)
        found["bsr"] = _microseconds(lambda: bsr @ columns, repeats)
    return {name: round(value, 2) for name, value in found.items()}


def _microseconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 10):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e6 * median(times[10:])
