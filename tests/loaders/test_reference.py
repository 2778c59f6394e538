from collections import Counter
from pathlib import Path

import numpy as np

from loaders.reference import reference_loader, reference_samples
from loaders.shards import ShardSet


def test_the_yardstick_gives_every_training_image_once_flipped_in_batches(shard_folder: Path) -> None:
    shards = ShardSet(shard_folder)
    tars = [shards.folder / entry.file for entry in shards.manifest.shards if "train" in entry.file]
    stored = [sample["image"].numpy() for sample in reference_samples(tars)]
    sides = {
        image[::up, ::left].tobytes(): number
        for number, image in enumerate(stored)
        for up in (1, -1)
        for left in (1, -1)
    }
    seen: Counter[int] = Counter()
    melanomas = 0
    for images, meta, target in reference_loader(tars, 32, workers=1, seed=0):
        assert images.shape[1:] == (64, 64, 3)
        assert meta.shape == (len(images), 11)
        seen.update(sides[image.numpy().tobytes()] for image in images)
        melanomas += int(target.sum())
    assert seen == Counter(range(len(stored)))
    assert melanomas == int((shards.target[np.flatnonzero(shards.fold >= 0)] == 1).sum())
    assert list(seen) != sorted(seen), "shuffled"
