"""Batches from image files: the pixels of a shard set, each file once, and bad ones in their place."""

import io
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import picture, write_isic2020
from PIL import Image
from streams import CPU

import loaders.pictures
from configs.prep import PrepConfig
from configs.schema import LoaderConfig
from loaders.batch import TENSORS, Batch
from loaders.loader import Loader
from loaders.order import Partition
from loaders.pictures import PictureFiles
from loaders.shards import ShardSet
from prep.build import build
from prep.diagnosis import CLASSES
from prep.stage import Encoding, read_image

SMALL = Encoding(size=32, fit="squash", quality=96, subsampling="4:2:0")


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def odd_files() -> dict[str, bytes]:
    """Image files, by ending, that prep treats in different ways."""
    turned = Image.Exif()
    turned[0x0112] = 6
    image = Image.fromarray(picture(500, 61, 47))
    return {
        "3.png": encoded(Image.fromarray(picture(501, 90, 71)).convert("RGBA"), "PNG"),
        "4.jpg": encoded(image, "JPEG", exif=turned),
        "5.jpg": encoded(Image.fromarray(picture(502, 64, 64)), "JPEG", quality=80),
        "6.jpg": encoded(Image.fromarray(picture(503, 100, 33)), "JPEG", progressive=True),
        "7.jpg": encoded(Image.fromarray(picture(504, 75, 64)).convert("CMYK"), "JPEG"),
        "8.png": encoded(Image.fromarray(picture(505, 1001, 403)).convert("L"), "PNG"),
        "9.bmp": encoded(Image.fromarray(picture(506, 37, 29)), "BMP"),
        "10.jpg": encoded(Image.fromarray(picture(507, 2111, 1403)), "JPEG"),
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """A shard set of a folder that holds the odd files among others."""
    root = tmp_path_factory.mktemp("odd")
    train = write_isic2020(root / "2020", 24, 2) / "jpeg" / "train"
    for name, content in odd_files().items():
        number, ending = name.split(".")
        (train / f"ISIC_{int(number):07d}.jpg").unlink()
        (train / f"ISIC_{int(number):07d}.{ending}").write_bytes(content)
    out = str(root / "set")
    coding: dict[str, Any] = {"size": 64, "fit": "pad", "quality": 90, "subsampling": "4:4:4"}
    build(PrepConfig(isic2020=str(root / "2020"), out=out, folds=2, workers=1, **coding))
    opened = ShardSet(Path(out))
    yield opened
    opened.close()


def copied(batch: Batch) -> Batch:
    return replace(batch, **{name: getattr(batch, name).clone() for name in TENSORS})


def files_of(paths: list[Path], **options: Any) -> PictureFiles:
    return PictureFiles(paths, SMALL, CPU, **{"threads": 2, **options})


def drawn(files: PictureFiles, batch_size: int = 4, rank: int = 0, world: int = 1) -> list[Batch]:
    partition = Partition(samples=len(files), batch_size=batch_size, rank=rank, world_size=world)
    meta = np.arange(2 * len(files), dtype=np.float32).reshape(-1, 2)
    return [copied(batch) for batch in files.batches(partition, meta)]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Ten small images."""
    made = [tmp_path / f"{number}.jpg" for number in range(10)]
    for number, path in enumerate(made):
        path.write_bytes(encoded(Image.fromarray(picture(number, 40, 30)), "JPEG"))
    return made


def test_files_give_the_batches_of_a_shard_set_made_of_them(shards: ShardSet) -> None:
    places = {path.stem: path for path in (shards.folder.parent / "2020" / "jpeg").rglob("*.*")}
    keys, rows = shards.key.to_pylist(), np.arange(len(shards))
    assert {path.suffix for path in places.values()} == {".jpg", ".png", ".bmp"}
    assert len(rows) == len(places) == 26
    assert pd.read_parquet(shards.folder / "samples.parquet")["copied"].sum() == 1
    partition = Partition(samples=len(rows), batch_size=8)
    encoding = Encoding.from_described(shards.manifest.encoder)
    files = PictureFiles([places[key] for key in keys], encoding, CPU, threads=2)
    mine = [copied(batch) for batch in files.batches(partition, shards.meta("clinical"))]
    with Loader(LoaderConfig(placement="host"), shards, rows, CPU, threads=2) as loader:
        for one, other in zip(mine, loader.eval_batches(rows, partition), strict=True):
            assert one.step == other.step
            assert torch.equal(one.image[one.valid], other.image[other.valid])
            for name in ("index", "valid", "meta"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name
            for name in TENSORS:
                assert getattr(one, name).dtype == getattr(other, name).dtype, name
            assert one.image.shape == other.image.shape
    assert not files.reasons


def test_a_batch_says_that_nothing_is_known_of_the_label(paths: list[Path]) -> None:
    for batch in drawn(files_of(paths)):
        assert set(batch.target.tolist()) == {-1.0}
        assert {CLASSES[number] for number in batch.diagnosis.tolist()} == {"unknown"}


def test_bad_files_keep_their_place_and_their_reason_and_stop_nothing(paths: list[Path], tmp_path: Path) -> None:
    whole = paths[0].read_bytes()
    bomb = b"\xff\xd8\xff\xc0\x00\x11\x08\xea\x60\xea\x60\x03" + bytes(20)
    bad = {1: b"some text", 2: whole[: len(whole) // 2], 4: bomb, 5: b"", 7: None, 8: "folder"}
    for row, content in bad.items():
        paths[row] = tmp_path / f"bad{row}.jpg"
        if content == "folder":
            paths[row].mkdir()
        elif isinstance(content, bytes):
            paths[row].write_bytes(content)
    files = files_of(paths)
    batches = drawn(files)
    valid, image, index = (torch.cat([vars(one)[name] for one in batches]) for name in ("valid", "image", "index"))
    assert valid.tolist() == [row not in bad for row in range(10)] + [False, False]
    assert index.tolist() == [*range(10), 0, 1]
    assert not image[~valid].any()
    good = [row for row in range(10) if row not in bad]
    alone = torch.cat([batch.image[batch.valid] for batch in drawn(files_of([paths[row] for row in good]))])
    assert torch.equal(image[valid], alone)
    assert files.reasons.keys() == bad.keys()
    said = {1: "not an image", 4: "pixels: more than", 5: "empty", 7: "No such file", 8: "Is a directory"}
    assert all(words in files.reasons[row] for row, words in said.items()), files.reasons


@pytest.mark.parametrize("batch_size", [2, 6, 20])
def test_two_ranks_share_the_files_and_each_is_decoded_once(
    paths: list[Path], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = drawn(files_of(paths), batch_size)
    decoded: Counter[Path] = Counter()

    def counted(path: Path, encoding: Encoding, max_pixels: int) -> Any:
        decoded[path] += 1
        return read_image(path, encoding, max_pixels)

    monkeypatch.setattr(loaders.pictures, "read_image", counted)
    ranks = [drawn(files_of(paths), batch_size, rank=rank, world=2) for rank in range(2)]
    assert decoded == Counter(paths)
    for one, *parts in zip(alone, *ranks, strict=True):
        for name in TENSORS:
            assert torch.equal(getattr(one, name), torch.cat([getattr(part, name) for part in parts])), name


def test_the_order_is_that_of_the_paths_whichever_is_done_first(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = drawn(files_of(paths))
    later = threading.Event()

    def late(path: Path, encoding: Encoding, max_pixels: int) -> Any:
        if path == paths[0]:
            assert later.wait(300)
        if path == paths[9]:
            later.set()
        return read_image(path, encoding, max_pixels)

    monkeypatch.setattr(loaders.pictures, "read_image", late)
    for one, other in zip(expected, drawn(files_of(paths)), strict=True):
        assert torch.equal(one.image, other.image)


def test_only_a_few_batches_are_made_ahead_and_an_abandoned_stream_leaves_no_thread(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def noted(path: Path, encoding: Encoding, max_pixels: int) -> Any:
        read.append(path)
        return read_image(path, encoding, max_pixels)

    monkeypatch.setattr(loaders.pictures, "read_image", noted)
    files = files_of(paths * 10, prefetch=2)
    stream = files.batches(Partition(samples=100, batch_size=5), np.zeros((100, 1), dtype=np.float32))
    next(stream)
    stream.close()
    assert 5 <= len(read) <= 15
    assert not [one.name for one in threading.enumerate() if "picture-files" in one.name]


def test_memory_is_a_ring_that_leaves_the_last_two_batches_alone(paths: list[Path]) -> None:
    files = files_of(paths * 10, prefetch=2)
    stream = files.batches(Partition(samples=100, batch_size=5), np.zeros((100, 1), dtype=np.float32))
    buffers = [batch.image.data_ptr() for batch in stream]
    assert len(buffers) == 20
    assert len(set(buffers)) == 4
    assert all(one not in buffers[place + 1 : place + 4] for place, one in enumerate(buffers))


def test_threads_leave_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(64)]
    for number, path in enumerate(paths):
        Image.fromarray(picture(number, 40, 30)).save(path)
    before = list(warnings.filters)
    drawn(files_of(paths, threads=8))
    assert list(warnings.filters) == before


def test_meta_vectors_of_other_images_are_refused(paths: list[Path]) -> None:
    stream = files_of(paths).batches(Partition(samples=10, batch_size=5), np.zeros((9, 1), dtype=np.float32))
    with pytest.raises(ValueError, match="10 files, but 10 samples and 9 meta vectors"):
        next(stream)
