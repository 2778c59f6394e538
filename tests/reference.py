"""The reference for tests: the same shards read with plain webdataset, Pillow and torch, without our own loader."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image


def reference_samples(shards: list[Path]) -> Iterator[dict[str, Any]]:
    """The samples of tar files in order: key (str), image (uint8 [H, W, 3]), meta (float32 [11]), target, facts."""
    for sample in webdataset.WebDataset([str(path) for path in shards], shardshuffle=False, empty_check=False):
        yield {
            "key": sample["__key__"],
            "image": _pixels(sample["jpg"]),
            "meta": torch.from_numpy(np.load(io.BytesIO(sample["npy"]))),
            "target": int(sample["cls"]),
            "facts": json.loads(sample["json"]),
        }


def _pixels(jpeg: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(jpeg)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy())
