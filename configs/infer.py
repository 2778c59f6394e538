"""Every setting of `infer.py`: a frozen dataclass, checked at construction."""

from dataclasses import dataclass, field
from typing import Literal

from configs.errors import check, check_ranges, ranged
from configs.machine import MAX_MEGAPIXELS
from configs.schema import TIMEOUT, Checkpoint, Combine, Device, LoaderConfig, Precision, check_timeout


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """Settings of `infer.py`."""

    runs: str = "runs/main"
    """Folder to search for members (config.yaml beside last.pt)."""
    shards: str = "shards/isic"
    """Folder of the shard set whose images to predict."""
    split: Literal["test", "extra"] = "test"
    """Which of its images: the challenge's test images, or those of an outside set (prep/shard.py --extra)."""
    out: str = "outputs"
    """Folder of everything that is written; --image, --images and --export read ensemble.json there."""
    ensemble: bool = False
    """Also combine, judge and calibrate the members on their out-of-fold rows: submission_ensemble.csv,
    predictions.parquet, oof.parquet, ensemble.json."""
    combine: Combine = "mean"
    """How the ensemble combines its models: mean of probabilities, mean of ranks, or weights fitted out of fold."""
    checkpoint: Checkpoint = "last"
    """last: the weights after the last epoch; best: those of the epoch chosen on the held-out fold, whose out-of-fold
    figures are optimistic."""
    calibrate: Literal["merged", "source"] = "merged"
    """One calibration for all images, or one for each source (2019 and 2020)."""
    prevalence: float = 0.0
    """Share of melanomas (between 0 and 1) in the place of use, to which probabilities are shifted; 0 leaves them at
    the prevalence of the training rows."""
    views: Literal[1, 2, 4, 8] = 4
    """Test-time views: 1 as stored, 2 adds the left-right flip, 4 both flips, 8 the quarter turns too."""
    sample_submission: str | None = None
    """The challenge's sample_submission.csv; submissions are checked against its rows and take their order."""
    fill: Literal["none", "prior"] = "none"
    """prior: test images without a prediction get the share of melanomas among the training rows, because Kaggle
    refuses a file in which rows are missing."""
    image: list[str] = field(default_factory=list)
    """Image files, JPEG, PNG, BMP, WebP or TIFF of any size, to predict one by one: --image FILE ..."""
    images: str | None = None
    """Folder of image files to predict, written to OUT/images.csv."""
    max_megapixels: float = ranged(MAX_MEGAPIXELS, low=0.01, high=4000)
    """Millions of pixels that an image may have, by its header; one of more is refused before it is decoded."""
    meta: str | None = None
    """CSV with image, and age, sex and site where known, for --images."""
    age: float | None = None
    """Age in years, of the patient in --image."""
    sex: str | None = None
    """male or female, of the patient in --image."""
    site: str | None = None
    """Site of the lesion in --image, such as torso or head/neck; the site names of ISIC 2019 are understood too."""
    csv: str | None = None
    """File for the table of --image."""
    explain: bool = False
    """Write a Grad-CAM overlay of each --image to OUT/IMAGE_gradcam.png."""
    export: str | None = None
    """Folder for a bundle of the ensemble: ONNX, safetensors, a model card, checksums."""
    bundle: str | None = None
    """Folder that --export wrote, for --image and --images in place of --runs and --out."""
    batch_size: int = ranged(128, low=1)
    """Samples per forward pass over all ranks together (1 or more)."""
    memory_gb: float = ranged(0.0, low=0)
    """Memory for the members' weights, in GB; those that do not fit predict in further passes over the images. 0 means
    half of what is free."""
    device: Device = "auto"
    """auto uses the GPU if there is one."""
    timeout: float = TIMEOUT
    """Minutes that a rank waits for another one (above 0); then all of them end, and one line names the silent one."""
    precision: Precision = "auto"
    """auto is autocast to bf16 (fp16 on GPUs before Ampere) on a GPU and fp32 on a CPU."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Where samples are decoded."""

    @property
    def max_pixels(self) -> int:
        """`max_megapixels` in pixels."""
        return round(self.max_megapixels * 1e6)

    def __post_init__(self) -> None:
        check_ranges(self)
        check_timeout(self.timeout)
        check(0 <= self.prevalence < 1, "prevalence", self.prevalence, "give a share between 0 and 1, or 0 for none")
        kinds = [bool(self.image), self.images is not None, self.export is not None]
        check(sum(kinds) <= 1, "image", self.image, "give only one of --image, --images and --export")
        alone = self.image or not (self.explain or self.csv or self.age is not None or self.sex or self.site)
        check(bool(alone), "image", self.image, "give --image FILE with --age, --sex, --site, --csv and --explain")
        check(self.meta is None or self.images is not None, "meta", self.meta, "give --images DIR with it")
        read = self.bundle is None or bool(self.image) or self.images is not None
        check(read, "bundle", self.bundle, "give --image FILE or --images DIR with it")
