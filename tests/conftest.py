"""Small data that the tests share: made once per session, never changed by a test."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from commands import tiny
from hypothesis import settings
from PIL import Image

import infer
import train
from configs.prep import PrepConfig, SyntheticConfig
from prep.build import build
from prep.synth.folder import make

ROOT = Path(__file__).resolve().parents[1]
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
settings.register_profile("same on every machine", deadline=None, derandomize=True)
settings.load_profile("same on every machine")
SITES_2020 = ("torso", "head/neck", "lower extremity", "")
SITES_2019 = ("anterior torso", "head/neck", "lateral torso", "")


@pytest.fixture(scope="session")
def isic_sample() -> Path:
    folder = Path(os.environ.get("ISIC_SAMPLE", ROOT / ".." / "shared" / "data" / "isic-sample")).resolve()
    if not (folder / "2020" / "train.csv").is_file():
        pytest.skip(f"the real ISIC sample is not at {folder}: set ISIC_SAMPLE to its folder")
    return folder


def write_jpeg(path: Path, seed: int, width: int = 80, height: int = 60) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(simplejpeg.encode_jpeg(picture(seed, width, height), quality=95, colorsubsampling="420"))


def picture(seed: int, width: int, height: int) -> np.ndarray:
    """A smooth random image, different for each seed, that JPEG changes little. uint8 [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(30, 226, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write_isic2020(folder: Path, train: int, test: int) -> Path:
    """A Kaggle-shaped 2020 download: two images per patient, every fourth patient with melanoma."""
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge"
    lines = [f"{header},diagnosis,benign_malignant,target"]
    for number in range(train):
        patient = number // 2
        label = int(patient % 4 == 0)
        sex, age = ("male", "female", "")[patient % 3], (45.0, 60.0, "")[number % 3]
        facts = f"ISIC_{number:07d},IP_{patient:07d},{sex},{age},{SITES_2020[number % 4]}"
        lines.append(f"{facts},{'melanoma' if label else 'nevus'},{'malignant' if label else 'benign'},{label}")
        write_jpeg(folder / "jpeg" / "train" / f"ISIC_{number:07d}.jpg", number)
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    names = [f"ISIC_{number:07d}" for number in range(5_000_000, 5_000_000 + test)]
    rows = [f"{name},IP_9{name[-6:]},female,50.0,torso" for name in names]
    (folder / "test.csv").write_text("\n".join([header, *rows]) + "\n")
    for number, name in enumerate(names):
        write_jpeg(folder / "jpeg" / "test" / f"{name}.jpg", 10_000 + number)
    (folder / "ISIC_2020_Training_Duplicates.csv").write_text("image_name_1,image_name_2\nISIC_0000000,ISIC_0000002\n")
    return folder


def write_isic2019(folder: Path, train: int) -> Path:
    """A challenge-shaped 2019 download: three images per lesion, every third lesion a melanoma, CRLF line ends."""
    classes = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    truth, meta = [",".join(["image", *classes])], ["image,age_approx,anatom_site_general,lesion_id,sex"]
    for number in range(train):
        name = f"ISIC_1{number:06d}" + ("_downsampled" if number % 5 == 0 else "")
        lesion = number // 3
        hot = 0 if lesion % 3 == 0 else 1 + lesion % 2
        truth.append(",".join([name, *("1.0" if place == hot else "0.0" for place in range(len(classes)))]))
        archive = ("BCN_", "HAM_", "MSK4_")[lesion % 3]
        lesion_id = f"{archive}{lesion:07d}" if number % 7 else ""
        meta.append(f"{name},{'' if number % 6 == 0 else 55},{SITES_2019[number % 4]},{lesion_id},male")
        write_jpeg(folder / "ISIC_2019_Training_Input" / f"{name}.jpg", 20_000 + number, width=96, height=96)
    (folder / "ISIC_2019_Training_GroundTruth.csv").write_text("\r\n".join(truth) + "\r\n", newline="")
    (folder / "ISIC_2019_Training_Metadata.csv").write_text("\r\n".join(meta) + "\r\n", newline="")
    return folder


def pytest_configure() -> None:
    """Give each of pytest-xdist's workers a core of its own: threads that compete for cores take ten times as long."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and CORES:
        os.sched_setaffinity(0, {sorted(CORES)[int(worker.removeprefix("gw")) % len(CORES)]})
        torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _all_cores_for_benchmarks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare loaders on all cores; FFCV hangs on one."""
    if not CORES or request.path.parent.name != "benchmarks":
        yield
        return
    pinned = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield
    os.sched_setaffinity(0, pinned)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a CUDA device if there is none, with that reason."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep this machine's --autotune results out of the tests."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a small 2020 download (80 train, 9 test) and a small 2019 download (60 train)."""
    root = tmp_path_factory.mktemp("downloads")
    return write_isic2020(root / "2020", 80, 9), write_isic2019(root / "2019", 60)


@pytest.fixture(scope="session")
def shard_folder(downloads: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of the small downloads: 64 px, 3 folds, 140 training and 9 test samples, 20 samples per shard."""
    out = tmp_path_factory.mktemp("shards") / "small"
    isic2020, isic2019 = downloads
    build(
        PrepConfig(
            isic2020=str(isic2020),
            isic2019=str(isic2019),
            out=str(out),
            size=64,
            folds=3,
            workers=1,
            samples_per_shard=20,
        )
    )
    return out


@pytest.fixture(scope="session")
def synthetic_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of prep/synthetic.py's pictures: 48 px, 3 folds, 400 training and 40 test samples."""
    root = tmp_path_factory.mktemp("synthetic")
    make(SyntheticConfig(out=str(root / "data"), train=400, test=40, size=48, workers=1))
    folders = {f"isic{year}": str(root / "data" / str(year)) for year in (2019, 2020)}
    build(PrepConfig(**folders, out=str(root / "shards"), size=48, folds=3, workers=1))
    return root / "shards"


@pytest.fixture(scope="session")
def trained(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny on the three folds of these, judged in its folder outputs: what a report is made of."""
    runs = tmp_path_factory.mktemp("trained")
    train.main(tiny(synthetic_shards, runs, "--fold", "all", "--epochs", "2", "--patience", "0"))
    words = ["--runs", str(runs), "--shards", str(synthetic_shards), "--out", str(runs / "outputs")]
    infer.main([*words, "--ensemble", "--views", "2"])
    return runs
