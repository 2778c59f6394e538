"""Every setting of the prep commands: frozen dataclasses, checked at construction."""

from dataclasses import dataclass, field
from typing import Literal

from configs.errors import UserError, check, check_ranges, ranged
from configs.machine import MAX_MEGAPIXELS

Fit = Literal["squash", "crop", "pad"]
Subsampling = Literal["4:2:0", "4:4:4"]
DuplicatePolicy = Literal["drop", "group", "keep"]
FoldScheme = Literal["grouped", "random"]
MOST_FOLDS = 100


@dataclass(frozen=True, kw_only=True)
class _Common:
    """What `prep/shard.py` and `prep/merge.py` share."""

    isic2020: str | None = None
    """Folder of the ISIC 2020 download: Kaggle's layout, the ISIC archive's, or a resized set's."""
    isic2019: str | None = None
    """Folder of the ISIC 2019 download: the challenge's two tables and its images, flat or in class folders."""
    folds: int = ranged(5, low=2, high=MOST_FOLDS)
    """Number of cross-validation folds (2 to 100), unless prep/shard.py gets a --folds-file."""
    seed: int = ranged(0, low=0)
    """Seed of the fold assignment and of the order of the samples."""
    workers: int = ranged(0, low=0)
    """Processes that read images; 0 means one per core. The result does not depend on it."""

    def __post_init__(self) -> None:
        if self.isic2020 is None and self.isic2019 is None and getattr(self, "master", None) is None:
            raise UserError("no input: name at least one of --isic2020 FOLDER and --isic2019 FOLDER, or --master CSV")
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class PrepLaunchConfig:
    """Where the images are read and the shards are packed."""

    by: Literal["none", "ray"] = "none"
    """none: on this machine, by --workers processes; ray: on the nodes of a Ray cluster, which share the folders of the
    images and of --out. --launch ray is short for --launch.by ray."""
    address: str = ""
    """HOST:PORT of a running Ray cluster; without it, Ray is started on this machine for as long as the build takes."""
    task_timeout: float = ranged(600.0, low=1.0)
    """Seconds (1 or more) after which a chunk or shard whose result has not come is given out again. Longer than a node
    takes for a chunk: 128 images, or 1/512 of a set of more than 65,536."""

    def __post_init__(self) -> None:
        check_ranges(self, "launch.")


@dataclass(frozen=True, kw_only=True)
class PrepConfig(_Common):
    """Settings of `prep/shard.py`."""

    master: str | None = None
    """CSV (image_name, target, year, filepath) with the training images and their files; --isic2020 and --isic2019 give
    the rest, unless it has all of prep/merge.py's columns."""
    extra: str | None = None
    """CSV of an outside set: image, target, and optionally group, diagnosis, sex, age and site."""
    extra_role: Literal["evaluate", "train"] = "evaluate"
    """evaluate: the outside set becomes the split extra; train: its rows join the training folds."""
    out: str = "shards/isic"
    """Folder of the shard set to build; it must not hold another one."""
    size: int = ranged(256, low=16, high=2048)
    """Edge of the stored square images, in pixels (16 to 2048)."""
    fit: Fit = "squash"
    """How an image becomes square: squash changes the aspect ratio, crop takes the centre, pad adds black bars."""
    quality: int = ranged(96, low=50, high=100)
    """JPEG quality of the stored images (50 to 100); at 95, fine hairs fall below a PSNR of 38 dB."""
    subsampling: Subsampling = "4:2:0"
    """Chroma subsampling of the stored images; 4:4:4 needs a quarter more disk space and decoding time."""
    duplicates: DuplicatePolicy = "drop"
    """Training images that occur more than once. drop: keep only the best copy where the labels agree; group: keep all
    copies in one fold; keep: ignore them when assigning folds, which leaks (for comparison only)."""
    fold_scheme: FoldScheme = "grouped"
    """grouped: no patient, lesion or duplicate crosses folds; random ignores them and leaks (for comparison only)."""
    folds_file: str | None = None
    """CSV (image_name, fold) with a fold assignment to use instead of computing one; it is audited the same way."""
    missing: Literal["fail", "skip"] = "fail"
    """What to do when image files that the tables name do not exist."""
    on_bad: Literal["fail", "skip"] = "fail"
    """What to do with corrupt images; either way rejected.csv lists all of them."""
    max_megapixels: float = ranged(MAX_MEGAPIXELS, low=0.01, high=4000)
    """Millions of pixels that an image may have, by its header; one of more is refused before it is decoded."""
    samples_per_shard: int = ranged(1024, low=1)
    """Samples in a tar file (1 or more); the last file of a split and fold may have fewer."""
    keep_ids: bool = False
    """Store the tables' ids of patients and lesions, in files that only you may read, instead of numbers."""
    launch: PrepLaunchConfig = field(default_factory=PrepLaunchConfig)
    """Where the images are read and the shards are packed: here, or on a Ray cluster."""

    @property
    def max_pixels(self) -> int:
        """`max_megapixels` in pixels."""
        return round(self.max_megapixels * 1e6)

    def __post_init__(self) -> None:
        super().__post_init__()
        both = self.folds_file is not None and self.fold_scheme != "grouped"
        check(not both, "fold_scheme", self.fold_scheme, "--folds-file brings its own folds: give one of them")


@dataclass(frozen=True, kw_only=True)
class MergeConfig(_Common):
    """Settings of `prep/merge.py`."""

    out: str = "train_merged_master.csv"
    """The CSV file to write."""
    look: bool = False
    """Also read every image, to find duplicates that the tables do not list. Only then are the folds certain to be
    those of prep/shard.py; it takes as long as building a set."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Settings of `prep/verify.py`."""

    shards: str = "shards/isic"
    """Folder of the shard set to check (may be given without --shards)."""
    quick: bool = False
    """Check only the files' hashes, not the samples inside."""
    workers: int = ranged(0, low=0)
    """Processes that check shards; 0 means one per core."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Settings of `prep/synthetic.py`."""

    out: str = "data/synthetic"
    """Folder to create, with 2019/, 2020/ and truth.csv, which prep never reads."""
    train: int = ranged(3000, low=100)
    """Labelled training images over both years (100 or more)."""
    test: int = ranged(3000, low=10)
    """Test images; only truth.csv has their labels (10 or more)."""
    size: int = ranged(96, low=32, high=1024)
    """Edge of the images, in pixels (32 to 1024)."""
    seed: int = ranged(0, low=0)
    """Seed of everything: the same seed gives the same bytes, on any number of workers."""
    workers: int = ranged(0, low=0)
    """Processes that draw images; 0 means one per core."""
    plant: Literal["none", "rulers"] = "none"
    """A shortcut for networks to learn, in the training images only. rulers: one on 80 % of the melanomas and 5 % of
    the others, which python -m report must call out."""

    def __post_init__(self) -> None:
        check_ranges(self)
