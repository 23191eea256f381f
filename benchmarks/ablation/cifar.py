"""CIFAR-10 test images (re-encoded as JPEG; see the data's own README), drawn by a seed."""

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels 0 to 255 [count, 3, 32, 32] and classes."""
    file = np.load(Path(os.environ["SHRINKNET_DATA"]) / "cifar10" / "test.npz", allow_pickle=False)
    jpeg, offset = file["jpeg"], file["offset"]
    rows = np.random.default_rng(seed).permutation(len(offset) - 1)[:count]
    pixels = [np.asarray(Image.open(io.BytesIO(jpeg[offset[row] : offset[row + 1]].tobytes()))) for row in rows]
    inputs = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().contiguous()
    return inputs, torch.from_numpy(file["label"][rows].astype(np.int64))
