"""Every setting of training, inference and the loaders: frozen dataclasses, checked at construction.

The defaults of `TrainConfig` are the reference recipe (EfficientNet-B1, 256 px, 15 epochs); the YAML files in
this folder hold what differs for other backbones.
"""

from dataclasses import dataclass, field
from typing import Literal

from configs.errors import check

Probability = float


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Probabilities and ranges of the training augmentations (loaders/augment.py turns them into parameters)."""

    hflip: Probability = 0.5
    """Probability of a horizontal (left-right) flip."""
    vflip: Probability = 0.5
    """Probability of a vertical (upside-down) flip."""
    quarter_turn: Probability = 0.5
    """Probability of RandomRotate90: a rotation by 0, 90, 180 or 270 degrees, all equally likely."""
    shift_scale_rotate: Probability = 0.5
    """Probability of ShiftScaleRotate."""
    shift: float = 0.0625
    """Largest shift along each axis, as a fraction of the edge (0 to 1)."""
    scale: float = 0.1
    """Largest relative change of scale (0 to 0.9)."""
    rotate: float = 45.0
    """Largest rotation, in degrees (0 to 180)."""
    hue_saturation_value: Probability = 0.5
    """Probability of HueSaturationValue."""
    hue: float = 20.0
    """Largest rotation of the hue, in degrees (0 to 180)."""
    saturation: float = 0.12
    """Largest relative change of saturation (0 to 1)."""
    value: float = 0.08
    """Largest change of value, as a fraction of full scale (0 to 1)."""
    brightness_contrast: Probability = 0.5
    """Probability of RandomBrightnessContrast."""
    brightness: float = 0.2
    """Largest change of brightness, as a fraction of full scale (0 to 1)."""
    contrast: float = 0.2
    """Largest relative change of contrast (0 to 1)."""
    coarse_dropout: Probability = 0.5
    """Probability of CoarseDropout."""
    holes: int = 8
    """Maximum number of black boxes in one CoarseDropout (1 to 64)."""
    hole_size: float = 0.1
    """Largest edge of a box, as a fraction of the image's edge (0 to 1)."""
    meta_dropout: Probability = 0.1
    """Probability that a sample's sex, age and site are marked missing, so that the model also works without them."""

    def __post_init__(self) -> None:
        for name in (
            "hflip",
            "vflip",
            "quarter_turn",
            "shift_scale_rotate",
            "hue_saturation_value",
            "brightness_contrast",
            "coarse_dropout",
            "meta_dropout",
            "shift",
            "saturation",
            "value",
            "brightness",
            "contrast",
            "hole_size",
        ):
            check(0 <= getattr(self, name) <= 1, f"augment.{name}", getattr(self, name), "give 0 to 1")
        check(0 <= self.scale <= 0.9, "augment.scale", self.scale, "give 0 to 0.9")
        for name in ("rotate", "hue"):
            check(0 <= getattr(self, name) <= 180, f"augment.{name}", getattr(self, name), "give 0 to 180")
        check(1 <= self.holes <= 64, "augment.holes", self.holes, "give 1 to 64")


Placement = Literal["auto", "dali-gpu", "dali-cpu", "host"]
Cache = Literal["none", "ram", "gpu"]
OnBad = Literal["fail", "substitute"]


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Where samples are decoded and augmented, and how fast. Only on_bad can change which samples a run sees."""

    placement: Placement = "auto"
    """host: libjpeg-turbo and OpenCV on threads; dali-cpu: DALI decodes on the CPU, OpenCV augments; dali-gpu: DALI
    decodes and augments on the GPU; auto: dali-gpu if there is a GPU and DALI, else host."""
    decode: Literal["mixed", "cpu"] = "mixed"
    """Where dali-gpu decodes: mixed, on the GPU except for what its decoder leaves to the CPU; or cpu."""
    cache: Cache = "none"
    """Decode once and keep the pixels (3 bytes per pixel) of every sample of the run: ram, in each rank's host memory;
    gpu, in GPU memory (dali-gpu only). Refused at once if they do not fit. none decodes in every epoch."""
    on_bad: OnBad = "fail"
    """What to do with a corrupt sample, whose bytes are not those that prep wrote: fail; or substitute, which trains on
    another sample instead and leaves it out of evaluations."""
    max_bad: int = 100
    """Corrupt samples that substitute tolerates on each rank; one more stops the run (1 or more)."""
    threads: int = 0
    """Host threads for reading, decoding and augmenting; 0 means one per core available to this rank."""
    prefetch: int = 2
    """Batches prepared ahead of the one in training (1 to 64)."""
    hw_decoder_load: float = 0.65
    """Fraction of the JPEGs that the GPU's hardware decoder decodes, if it has one (0 to 1); dali-gpu only."""

    def __post_init__(self) -> None:
        check(self.threads >= 0, "loader.threads", self.threads, "give 0 (one per core) or more")
        check(1 <= self.prefetch <= 64, "loader.prefetch", self.prefetch, "give 1 to 64 batches")
        check(0 <= self.hw_decoder_load <= 1, "loader.hw_decoder_load", self.hw_decoder_load, "give 0 to 1")
        check(self.max_bad >= 1, "loader.max_bad", self.max_bad, "give 1 or more")
        fits = self.cache != "gpu" or self.placement in ("auto", "dali-gpu")
        check(fits, "loader.cache", self.cache, "only --loader.placement dali-gpu supports it: use ram or dali-gpu")


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Settings of `python -m loaders.show`."""

    shards: str = "shards/isic"
    """Folder of the shard set (may be given without --shards)."""
    out: str = "grid.png"
    """Image file to write."""
    samples: int = 6
    """Training samples to show, half of them melanomas (1 to 100)."""
    epochs: int = 3
    """Epochs of augmentation to show beside each stored image (0 to 20)."""
    seed: int = 0
    """Seed of the augmentation."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Training augmentations."""

    def __post_init__(self) -> None:
        check(1 <= self.samples <= 100, "samples", self.samples, "give 1 to 100")
        check(0 <= self.epochs <= 20, "epochs", self.epochs, "give 0 to 20")
        check(self.seed >= 0, "seed", self.seed, "give 0 or more")


MetaKind = Literal["clinical", "reference"]
Target = Literal["melanoma", "diagnosis"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
Inputs = Literal["both", "image", "meta"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network that combines the image and the patient's metadata."""

    inputs: Inputs = "both"
    """Inputs of the model; image and meta alone are the ablations."""
    meta: MetaKind = "clinical"
    """Which meta vector it uses; reference includes n_images and the file size, which leak the source."""
    meta_hidden: int = 512
    """Width of the first layer of the meta branch (1 or more)."""
    meta_out: int = 128
    """Width of the second layer of the meta branch (1 or more)."""
    meta_drop: Probability = 0.3
    """Dropout between the two layers of the meta branch."""
    head_drop: Probability = 0.5
    """Dropout in front of the head, drawn `head_masks` times."""
    head_masks: int = 5
    """Dropout masks whose logits are averaged (1 or more)."""

    def __post_init__(self) -> None:
        for name in ("meta_hidden", "meta_out", "head_masks"):
            check(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "give 1 or more")
        for name in ("meta_drop", "head_drop"):
            check(
                0 <= getattr(self, name) < 1,
                f"model.{name}",
                getattr(self, name),
                "give 0 or more, below 1",
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Loss, optimiser and schedule."""

    lr: float = 2e-4
    """Peak learning rate of AdamW (above 0)."""
    weight_decay: float = 0.01
    """Decoupled weight decay; norms and biases have none (0 or more)."""
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up before the cosine (0 or more)."""
    label_smoothing: float = 0.05
    """Fraction of each target that is spread evenly over the classes (0 or more, below 1)."""
    positive_weight: float = 0.0
    """Weight of a melanoma in the loss; 0 means negatives / positives of the training rows. Not used with --target
    diagnosis."""
    auxiliary_weight: float = 0.0
    """Weight of the cross-entropy of an auxiliary head for nine diagnoses; 0 means no such head."""
    clip_grad: float = 0.0
    """Maximum norm of the gradients; 0 means no clipping."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights (such as 0.999), which is then evaluated and saved to
    best.pt instead of the weights; it starts lower, so that the first steps are soon forgotten. 0 means none."""

    def __post_init__(self) -> None:
        check(self.lr > 0, "optim.lr", self.lr, "give a learning rate above 0")
        for name in ("weight_decay", "warmup_epochs", "positive_weight", "auxiliary_weight", "clip_grad"):
            check(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "give 0 or more")
        check(
            0 <= self.label_smoothing < 1,
            "optim.label_smoothing",
            self.label_smoothing,
            "give 0 or more, below 1",
        )
        check(0 <= self.ema < 1, "optim.ema", self.ema, "give 0 (none) or more, below 1")


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """How the training step is run; auto is what --autotune found fastest on this machine, else a plain eager step."""

    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    """Memory layout of images and weights; auto without an --autotune result is what suits the backbone."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: the first step takes a minute longer. If it fails, training continues without it and says why."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Replay the step as one CUDA graph, on one GPU; if it cannot be captured, training continues without it."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of `train.py`: one member, that is one backbone on one fold; or several of each, one after the other,
    with --backbone A B and --fold 0 1 or --fold all."""

    shards: str = "shards/isic"
    """Folder of the shard set that prep/shard.py wrote."""
    backbone: str = "efficientnet_b1"
    """efficientnet_b1, efficientnet_b3, efficientnet_b4, resnest50, tiny, or any timm name."""
    fold: int = 0
    """The fold to hold out for validation."""
    train_sources: Literal["all", "2019", "2020"] = "all"
    """The year whose images are used for training; the held-out fold is evaluated on both."""
    target: Target = "melanoma"
    """melanoma: one logit; diagnosis: nine classes, of which MEL gives the probability of melanoma."""
    out: str = "runs/main"
    """Folder of the run; the member is written to OUT/BACKBONE/foldK."""
    epochs: int = 15
    """Maximum number of passes over the training rows (1 or more)."""
    patience: int = 4
    """Epochs without improvement after which training stops; 0 means never."""
    monitor: Literal["auc", "auc_2020", "auc_2019", "loss"] = "auc"
    """Validation metric that selects best.pt and stops training early: higher is better, for the loss lower."""
    batch_size: int = 128
    """Samples per optimiser step over all ranks together, shared evenly among them."""
    accumulate: int = 1
    """Parts into which each rank splits its share of the batch, with one forward and backward pass each, if GPU memory
    is too small for the whole; the global batch stays the same, but each part has its own batch statistics."""
    sync_batchnorm: bool = False
    """Share batch statistics over the ranks (SyncBatchNorm; GPUs only); otherwise each rank has its own."""
    seed: int = 0
    """Seed of the order, the augmentation, the initial weights and dropout."""
    weights: str = "auto"
    """auto: timm's pretrained weights; none: random ones; or a .pth or .safetensors file."""
    resume: Literal["auto", "never"] = "auto"
    """auto continues after the last saved step if OUT already holds this member; never starts it from scratch."""
    save_every: int = 200
    """Steps between two saves of last.pt within an epoch (1 or more); it is also saved at the end of each epoch."""
    log_every: int = 50
    """Steps between two lines with the loss of a step in metrics.jsonl; 0 means one line per epoch only."""
    device: Device = "auto"
    """auto uses the GPU if there is one."""
    precision: Precision = "auto"
    """auto is autocast to bf16 (fp16 with loss scaling on GPUs before Ampere) on a GPU and fp32 on a CPU."""
    autotune: bool = False
    """Before training, measure memory formats, compilation, CUDA graphs and loader placements, and remember the fastest
    for this machine, backbone, image size and batch size: about a minute, plus one for each variant to compile."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    """How the training step is run."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Loss, optimiser and schedule."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Training augmentations."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Where samples are decoded and augmented."""

    def __post_init__(self) -> None:
        check(self.fold >= 0, "fold", self.fold, "folds count from 0")
        check(self.epochs >= 1, "epochs", self.epochs, "give 1 or more")
        check(self.patience >= 0, "patience", self.patience, "give 0 (never stop early) or more")
        check(self.seed >= 0, "seed", self.seed, "give 0 or more")
        check(self.batch_size >= 2, "batch_size", self.batch_size, "batch norm needs 2 or more")
        check(self.accumulate >= 1, "accumulate", self.accumulate, "give 1 (do not split the batch) or more")
        check(self.save_every >= 1, "save_every", self.save_every, "give 1 or more steps")
        # SyncBatchNorm communicates within the step, so compilation could not be tried on each rank by itself.
        apart = not self.sync_batchnorm or self.speed.compile != "on"
        check(apart, "speed.compile", self.speed.compile, "give off with --sync-batchnorm true")
        check(self.log_every >= 0, "log_every", self.log_every, "give 0 (one line per epoch only) or more steps")
        alone = self.target == "melanoma" or not self.optim.auxiliary_weight
        check(alone, "optim.auxiliary_weight", self.optim.auxiliary_weight, "give 0 with --target diagnosis")


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """Settings of `infer.py`."""

    runs: str = "runs/main"
    """Folder to search for members (.../foldK/best.pt)."""
    shards: str = "shards/isic"
    """Folder of the shard set whose images to predict."""
    split: Literal["test", "extra"] = "test"
    """Which of its images: the challenge's test images, or those of an outside set (prep/shard.py --extra)."""
    out: str = "outputs"
    """Folder of the submissions."""
    ensemble: bool = False
    """Also write submission_ensemble.csv, the mean probability over the members."""
    views: Literal[1, 2, 4, 8] = 4
    """Test-time views: 1 as stored, 2 adds the left-right flip, 4 both flips, 8 the quarter turns too."""
    batch_size: int = 128
    """Samples per forward pass over all ranks together (1 or more)."""
    device: Device = "auto"
    """auto uses the GPU if there is one."""
    precision: Precision = "auto"
    """auto is autocast to bf16 (fp16 on GPUs before Ampere) on a GPU and fp32 on a CPU."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Where samples are decoded."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "batch_size", self.batch_size, "give 1 or more")
