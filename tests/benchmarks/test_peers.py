"""Every adapter hands over the same pictures, once an epoch, as a reference decoder has them."""

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import reference_samples

from benchmarks.comparison import LIMIT, PEERS, Contender, ours, setup
from benchmarks.peers import gpu_decoders, pixels
from benchmarks.peers.job import Job
from configs.errors import UserError
from loaders.shards import ShardSet

ROOT = Path(__file__).resolve().parents[2]
BATCH = 10  # 140 training samples: no batch is left unfilled
# The first epoch of each job, in a process without pytest's threads, from which peers may fork.
EPOCH = """
import importlib, json, sys
import numpy as np
from benchmarks.peers.job import Job
from benchmarks.peers.worker import wrong
from models.torchvision_stub import define_missing_operators

if __name__ == "__main__":
    define_missing_operators()
    for name, adapter, words, out in json.loads(sys.argv[1]):
        job = Job(**words)
        epochs = importlib.import_module(f"benchmarks.peers.{adapter}").epochs(job)
        pictures, found = [], []
        for images, targets in next(epochs):
            assert wrong(images, job) == "", wrong(images, job)
            pictures.append(images.numpy().copy())  # buffers may be used again
            found.append(np.array(targets).ravel())
        np.savez(out, images=np.concatenate(pictures), targets=np.concatenate(found))
"""


@pytest.fixture(scope="module")
def place(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    work = tmp_path_factory.mktemp("setup")
    return setup(shard_folder, work, size=64, device="cpu", batch_size=BATCH, threads=2)


def epochs(place: Job, some: list[Contender], workload: str) -> dict[str, Any]:
    """Pictures and targets of one epoch of each, by name."""
    jobs = []
    for contender in some:
        contender.prepare(place)
        out = place.own / f"{len(jobs)}{workload}{contender.environment}.npz"
        jobs.append((contender.name, contender.adapter, asdict(contender.job(place, workload)), str(out)))
    script = place.own / "epoch.py"
    script.write_text(EPOCH)
    words = [some[0].python(), str(script), json.dumps(jobs)]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {name: dict(np.load(out)) for name, _, _, out in jobs}


def seen_in(found: dict[str, Any], stored: np.ndarray, targets: np.ndarray) -> list[int]:
    """Which of the `stored` pictures each of `found` is a flip of; it has that one's target."""
    sides = np.stack([stored[:, ::up, ::left] for up in (1, -1) for left in (1, -1)]).astype(np.int16)
    seen = []
    for image in found["images"]:
        gaps = np.abs(sides - image).mean(axis=(2, 3, 4)).min(axis=0)
        # FFCV encodes anew and decoders round differently; another picture lies many levels away.
        assert gaps.min() < 5.0
        seen.append(int(gaps.argmin()))
    np.testing.assert_array_equal(targets[seen], found["targets"])
    assert seen != sorted(seen), "in an order of their own"
    return seen


def reference(shard_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    shards = ShardSet(shard_folder)
    tars = [shards.folder / entry.file for entry in shards.manifest.shards if "train" in entry.file]
    samples = list(reference_samples(tars))
    return np.stack([contender["image"].numpy() for contender in samples]), np.array(
        [contender["target"] for contender in samples]
    )


def test_all_of_this_environment_give_every_picture_once_flipped(place: Job, shard_folder: Path) -> None:
    stored, targets = reference(shard_folder)
    here = [contender for contender in PEERS if not contender.environment and not contender.cuda]
    some = [contender for contender in here if contender.adapter != "dali_reader"]
    some += [
        ours("cpu", "quick")[0],
        next(contender for contender in PEERS if contender.adapter == "dali_reader"),
    ]  # DALI last: its threads
    found = epochs(place, some, "flips")
    assert len(found) == len(some) == 7
    for contender in some:
        seen = seen_in(found[contender.name], stored, targets)
        if contender.adapter in ("torch_loader", "ours"):
            assert sorted(seen) == list(range(len(stored))), contender.name
        # webdataset's workers each leave an unfilled batch out, and DALI's reader fills up with what it has shown.
        assert len(set(seen)) > 100, contender.name


def test_the_whole_augmentation_changes_pictures_and_keeps_their_shape(place: Job, shard_folder: Path) -> None:
    stored, _ = reference(shard_folder)
    some = [
        contender
        for contender in PEERS
        if contender.name in ("torch DataLoader, simplejpeg", "torch DataLoader, albumentations")
    ]
    for name, found in epochs(place, [*some, ours("cpu", "quick")[0]], "full").items():
        assert found["images"].shape == stored.shape, name
        black = (found["images"] == 0).all(axis=-1).mean()
        assert 0.02 < black < 0.2, (name, "holes and empty corners")
        assert abs(found["images"].mean() - stored.mean()) < 25, name


@pytest.mark.parametrize(
    "contender",
    [contender for contender in PEERS if contender.environment and not contender.cuda],
    ids=lambda contender: contender.name,
)
def test_those_of_other_environments_give_every_picture(contender: Contender, place: Job, shard_folder: Path) -> None:
    try:
        contender.python()
    except UserError as error:
        pytest.skip(f"{contender.name}: {error}")
    stored, targets = reference(shard_folder)
    found = epochs(place, [contender], "flips")[contender.name]
    assert len(set(seen_in(found, stored, targets))) > 100


def test_a_peer_that_decodes_on_a_gpu_says_so_where_there_is_none(place: Job) -> None:
    some = [contender for contender in PEERS if contender.cuda]
    assert len(some) == 2
    for contender in some:
        with pytest.raises(UserError, match="decodes on a GPU, and there is none"):
            contender.prepare(place)


def test_decoding_a_batch_at_once_gives_every_picture(
    place: Job, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoder(variant: str, device: str) -> gpu_decoders.Decode:
        assert (variant, device) == ("torchvision", "cpu")
        return lambda jpegs: [
            torch.from_numpy(pixels.decode(jpeg.numpy().tobytes())).permute(2, 0, 1) for jpeg in jpegs
        ]

    monkeypatch.setattr(gpu_decoders, "_decoder", decoder)  # theirs need a GPU
    stored, targets = reference(shard_folder)
    epochs = gpu_decoders.epochs(replace(place, workload="flips", options={"variant": "torchvision"}))
    for _ in range(2):
        batches = [(images.numpy(), labels) for images, labels in next(epochs)]
        assert all(images.shape == (BATCH, 64, 64, 3) and images.flags.c_contiguous for images, _ in batches)
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        found = {"images": images, "targets": labels}
        assert sorted(seen_in(found, stored, targets)) == list(range(len(stored)))
    with pytest.raises(ValueError, match="only decodes"):
        next(gpu_decoders.epochs(replace(place, workload="full")))


def test_a_peer_that_is_not_installed_says_how_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.comparison.ROOT", tmp_path)
    peer = Contender("x", "ffcv_loader", environment="ffcv")
    with pytest.raises(UserError, match=r"it is not installed \(benchmarks/peers/install.sh ffcv\)"):
        peer.python()
    (tmp_path / ".peers").mkdir()
    (tmp_path / ".peers" / "ffcv.log").write_text("collecting\nerror: no opencv4 found\n\n")
    with pytest.raises(UserError, match="its installation failed: error: no opencv4 found"):
        peer.python()


def test_adapters_are_short() -> None:
    for name in {contender.adapter for contender in [LIMIT, *PEERS, *ours("cpu", "all")]}:
        assert len((ROOT / "benchmarks" / "peers" / f"{name}.py").read_text().splitlines()) < 80, name
