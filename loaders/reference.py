"""The yardstick: the same shards through plain webdataset, Pillow and torch, with nothing of ours in between."""

import io
import json
import random
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


def reference_loader(shards: list[Path], batch_size: int, *, workers: int, seed: int) -> webdataset.WebLoader:
    """Flipped training batches as a webdataset user would make them: image (uint8 [b, H, W, 3]), meta, target.

    Shuffled in a reservoir, by `workers` processes that live as long as the loader; each reads shards of its own.
    """
    dataset = (
        webdataset.WebDataset(
            [str(path) for path in shards],
            shardshuffle=len(shards),
            workersplitter=webdataset.split_by_worker,
            empty_check=False,
            seed=seed,
        )
        .shuffle(1000, seed=seed)
        .map(_flipped_sample)
        .batched(batch_size, partial=True)
    )
    # Spawned, because forking a process whose threads run (DALI's, OpenCV's) ends in a crash.
    return webdataset.WebLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context="spawn", persistent_workers=True
    )


def _flipped_sample(sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    axes = [axis for axis in (0, 1) if random.random() < 0.5]
    meta = torch.from_numpy(np.load(io.BytesIO(sample["npy"])))
    return _pixels(sample["jpg"]).flip(axes), meta, torch.tensor(float(sample["cls"]))


def _pixels(jpeg: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(jpeg)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy())
