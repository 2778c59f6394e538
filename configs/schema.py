"""Every setting of training and the loaders: frozen dataclasses, checked at construction.

The defaults are the reference recipe of EfficientNet-B1; YAML files beside this one hold what other backbones change.
"""

from dataclasses import dataclass, field
from typing import Literal

from configs.errors import check, check_ranges, ranged
from configs.launch import LaunchConfig

Placement = Literal["auto", "dali-gpu", "dali-cpu", "host"]
OnBad = Literal["fail", "substitute"]
MetaKind = Literal["clinical", "reference"]
Target = Literal["melanoma", "diagnosis"]
Border = Literal["reflect", "edge", "constant"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Inputs = Literal["both", "image", "meta"]
Device = Literal["auto", "cpu", "cuda"]
Checkpoint = Literal["last", "best"]
Combine = Literal["mean", "rank", "weighted"]
TIMEOUT = 10.0  # minutes
_LONGEST = 7 * 24 * 60.0  # minutes


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Probabilities and ranges of the training augmentations (loaders/augment.py turns them into parameters)."""

    hflip: float = ranged(0.5, low=0, high=1)
    """Probability of a horizontal (left-right) flip."""
    vflip: float = ranged(0.5, low=0, high=1)
    """Probability of a vertical (upside-down) flip."""
    quarter_turn: float = ranged(0.5, low=0, high=1)
    """Probability of RandomRotate90: a rotation by 0, 90, 180 or 270 degrees, all equally likely."""
    shift_scale_rotate: float = ranged(0.5, low=0, high=1)
    """Probability of ShiftScaleRotate."""
    shift: float = ranged(0.0625, low=0, high=1)
    """Largest shift along each axis, as a fraction of the edge (0 to 1)."""
    scale: float = ranged(0.1, low=0, high=0.9)
    """Largest relative change of scale (0 to 0.9)."""
    rotate: float = ranged(45.0, low=0, high=180)
    """Largest rotation, in degrees (0 to 180)."""
    border: Border = "constant"
    """What ShiftScaleRotate shows outside the image: its mirror image (reflect), its outermost pixels (edge), or black
    (constant)."""
    hue_saturation_value: float = ranged(0.5, low=0, high=1)
    """Probability of HueSaturationValue."""
    hue: float = ranged(20.0, low=0, high=180)
    """Largest rotation of the hue, in degrees (0 to 180)."""
    saturation: float = ranged(0.12, low=0, high=1)
    """Largest relative change of saturation (0 to 1)."""
    value: float = ranged(0.08, low=0, high=1)
    """Largest change of value, as a fraction of full scale (0 to 1)."""
    brightness_contrast: float = ranged(0.5, low=0, high=1)
    """Probability of RandomBrightnessContrast."""
    brightness: float = ranged(0.2, low=0, high=1)
    """Largest change of brightness, as a fraction of full scale (0 to 1)."""
    contrast: float = ranged(0.2, low=0, high=1)
    """Largest relative change of contrast (0 to 1)."""
    coarse_dropout: float = ranged(0.5, low=0, high=1)
    """Probability of CoarseDropout."""
    holes: int = ranged(8, low=1, high=64)
    """Maximum number of black boxes in one CoarseDropout (1 to 64)."""
    hole_size: float = ranged(0.1, low=0, high=1)
    """Largest edge of a box, as a fraction of the image's edge (0 to 1)."""
    meta_dropout: float = ranged(0.1, low=0, high=1)
    """Probability that a sample's sex, age and site are marked missing, so that the model also works without them."""

    def __post_init__(self) -> None:
        check_ranges(self, "augment.")


@dataclass(frozen=True, kw_only=True)
class ProgressiveConfig:
    """Progressive image size: the first epochs train on smaller images, the others on those of the shard set, on which
    every epoch is evaluated. What `augment` draws is the same in relation to the image."""

    epochs: int = ranged(0, low=0)
    """The first epochs, which train at `size` (fewer than all); 0 means that all train on images of the set's size."""
    size: int = ranged(160, low=32)
    """Edge of their images in pixels (32 or more, below that of the shard set)."""

    def __post_init__(self) -> None:
        check_ranges(self, "progressive.")

    def size_in(self, epoch: int, full: int) -> int:
        """The edge of the training images of `epoch`, those of the shard set having `full`."""
        return self.size if epoch < self.epochs else full


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Where samples are decoded and augmented, and how fast. Only on_bad can change which samples a run sees."""

    placement: Placement = "auto"
    """host: libjpeg-turbo and OpenCV on threads; dali-cpu: DALI decodes on the CPU, OpenCV augments; dali-gpu: DALI
    decodes and augments on the GPU; auto: dali-gpu if there is a GPU and DALI, else host."""
    decode: Literal["mixed", "cpu"] = "mixed"
    """Where dali-gpu decodes: mixed, on the GPU except for what its decoder leaves to the CPU; or cpu."""
    cache: Literal["none", "ram", "gpu"] = "none"
    """Decode once and keep the pixels (3 bytes per pixel) of every sample of the run: ram, in each rank's host memory;
    gpu, in GPU memory (dali-gpu only). Refused at once if they do not fit. none decodes in every epoch."""
    on_bad: OnBad = "fail"
    """What to do with a corrupt sample: fail; or substitute another in training and leave it out of evaluations."""
    max_bad: int = ranged(100, low=1)
    """Corrupt samples that substitute tolerates on each rank; one more stops the run (1 or more)."""
    threads: int = ranged(0, low=0)
    """Host threads for reading, decoding and augmenting; 0 means one per core available to this rank."""
    prefetch: int = ranged(2, low=1, high=64)
    """Batches prepared ahead of the one in training (1 to 64)."""
    hw_decoder_load: float = ranged(0.65, low=0, high=1)
    """Fraction of the JPEGs that the GPU's hardware decoder decodes, if it has one (0 to 1); dali-gpu only."""

    def __post_init__(self) -> None:
        check_ranges(self, "loader.")
        fits = self.cache != "gpu" or self.placement in ("auto", "dali-gpu")
        check(fits, "loader.cache", self.cache, "only --loader.placement dali-gpu supports it: use ram or dali-gpu")


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Settings of `python -m loaders.show`."""

    shards: str = "shards/isic"
    """Folder of the shard set (may be given without --shards)."""
    out: str = "grid.png"
    """Image file to write."""
    samples: int = ranged(6, low=1, high=100)
    """Training samples to show, half of them melanomas (1 to 100)."""
    epochs: int = ranged(3, low=0, high=20)
    """Epochs of augmentation to show beside each stored image (0 to 20)."""
    seed: int = ranged(0, low=0)
    """Seed of the augmentation."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Training augmentations."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network that combines the image and the patient's metadata."""

    inputs: Inputs = "both"
    """Inputs of the model; image and meta alone are the ablations."""
    meta: MetaKind = "clinical"
    """Which meta vector it uses; reference includes n_images and the file size, which leak the source."""
    meta_hidden: int = ranged(512, low=1)
    """Width of the first layer of the meta branch (1 or more)."""
    meta_out: int = ranged(128, low=1)
    """Width of the second layer of the meta branch (1 or more)."""
    meta_drop: float = 0.3
    """Dropout between the two layers of the meta branch."""
    head_drop: float = 0.5
    """Dropout in front of the head, drawn `head_masks` times."""
    head_masks: int = ranged(5, low=1)
    """Dropout masks whose logits are averaged (1 or more)."""

    def __post_init__(self) -> None:
        check_ranges(self, "model.")
        check(0 <= self.meta_drop < 1, "model.meta_drop", self.meta_drop, "give 0 or more, below 1")
        check(0 <= self.head_drop < 1, "model.head_drop", self.head_drop, "give 0 or more, below 1")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Loss, optimiser and schedule."""

    lr: float = 2e-4
    """Peak learning rate of AdamW (above 0)."""
    weight_decay: float = ranged(0.01, low=0)
    """Decoupled weight decay; norms and biases have none (0 or more)."""
    warmup_epochs: float = ranged(1.0, low=0)
    """Epochs of linear warm-up before the cosine (0 or more)."""
    label_smoothing: float = 0.05
    """Fraction of each target that is spread evenly over the classes (0 or more, below 1)."""
    positive_weight: float = ranged(0.0, low=0)
    """Weight of a melanoma in the loss; 0 means negatives / positives; not used with --target diagnosis."""
    auxiliary_weight: float = ranged(0.0, low=0)
    """Weight of the cross-entropy of an auxiliary head for nine diagnoses; 0 means no such head."""
    clip_grad: float = ranged(0.0, low=0)
    """Maximum norm of the gradients; 0 means no clipping."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights (0.999), which best.pt then holds; 0 means none."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim.")
        check(self.lr > 0, "optim.lr", self.lr, "give a learning rate above 0")
        smoothing = self.label_smoothing
        check(0 <= smoothing < 1, "optim.label_smoothing", smoothing, "give 0 or more, below 1")
        check(0 <= self.ema < 1, "optim.ema", self.ema, "give 0 (none) or more, below 1")


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """How the training step is run; auto is what --autotune found fastest on this machine, else a rule: eager on a CPU;
    on a GPU compiled and replayed where the steps still to do pay for it (engine/default_speed.py)."""

    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    """Memory layout of images and weights; auto without an --autotune result is what suits the backbone."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile, of the step and of evaluation: the first of each takes a minute longer. If it fails (a part
    that it cannot compile is a failure), training continues without it and says why."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Replay the step as one CUDA graph, on one GPU; if it cannot be captured, training continues without it."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of `train.py`; several values of --backbone and --fold train several members."""

    shards: str = "shards/isic"
    """Folder of the shard set that prep/shard.py wrote."""
    backbone: str = "efficientnet_b1"
    """efficientnet_b1, efficientnet_b3, efficientnet_b4, resnest50, tiny, or any timm name."""
    fold: int | None = ranged(0, low=0)
    """The fold to hold out for validation; none (null in YAML) trains on all folds, without validation: patience and
    monitor have no effect, and last.pt is the member. Several numbers, or all of them (all), make a grid."""
    train_sources: Literal["all", "2019", "2020"] = "all"
    """The year whose images are used for training; the held-out fold is evaluated on both."""
    target: Target = "melanoma"
    """melanoma: one logit; diagnosis: nine classes, of which MEL gives the probability of melanoma."""
    out: str = "runs/main"
    """Folder of the run; the member is written to OUT/BACKBONE/foldK (foldnone without a held-out fold)."""
    epochs: int = ranged(15, low=1)
    """Maximum number of passes over the training rows (1 or more); with --fold none, their number."""
    patience: int = ranged(4, low=0)
    """Epochs without improvement after which training stops; 0 means never."""
    monitor: Literal["auc", "auc_2020", "auc_2019", "loss"] = "auc"
    """Validation metric that selects best.pt and stops training early: higher is better, for the loss lower."""
    batch_size: int = ranged(128, low=2)
    """Samples per optimiser step over all ranks together (2 or more, for batch norm); shares differ by one at most."""
    accumulate: int = ranged(1, low=1)
    """Parts into which each rank splits its share of a batch, to save GPU memory; each has its own batch statistics."""
    sync_batchnorm: bool = False
    """Share batch statistics over the ranks (SyncBatchNorm; GPUs only); otherwise each rank has its own."""
    seed: int = ranged(0, low=0)
    """Seed of the order, the augmentation, the initial weights and dropout."""
    weights: str = "auto"
    """auto: timm's pretrained weights; none: random ones; or a .pth or .safetensors file."""
    resume: Literal["auto", "never"] = "auto"
    """auto continues after the last saved step if OUT already holds this member; never starts it from scratch."""
    save_every: int = ranged(200, low=1)
    """Steps between two saves of last.pt within an epoch (1 or more); it is also saved at the end of each epoch."""
    save_minutes: float = ranged(10.0, low=0, high=_LONGEST)
    """Minutes after a save at which last.pt is saved again, where that comes before save_every steps; 0 means never."""
    log_every: int = ranged(50, low=0)
    """Steps between two lines with the loss of a step in metrics.jsonl; 0 means one line per epoch only."""
    device: Device = "auto"
    """auto uses the GPU if there is one."""
    timeout: float = TIMEOUT
    """Minutes that a rank waits for another one (above 0); then all of them end, and one line names the silent one."""
    precision: Precision = "auto"
    """auto is autocast to bf16 (fp16 with loss scaling on GPUs before Ampere) on a GPU and fp32 on a CPU."""
    autotune: bool = False
    """First measure and remember the fastest settings of speed and loader for this machine and network, in minutes; a
    larger batch is only suggested."""
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    """What starts the members of a grid: none, ray or slurm."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    """How the training step is run."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Loss, optimiser and schedule."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Training augmentations."""
    progressive: ProgressiveConfig = field(default_factory=ProgressiveConfig)
    """Smaller training images in the first epochs."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Where samples are decoded and augmented."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_timeout(self.timeout)
        # SyncBatchNorm communicates within the step, so compilation could not be tried on each rank by itself.
        apart = not self.sync_batchnorm or self.speed.compile != "on"
        check(apart, "speed.compile", self.speed.compile, "give off with --sync-batchnorm true")
        alone = self.target == "melanoma" or not self.optim.auxiliary_weight
        check(alone, "optim.auxiliary_weight", self.optim.auxiliary_weight, "give 0 with --target diagnosis")
        smaller, name = self.progressive.epochs, "progressive.epochs"
        check(smaller < self.epochs, name, smaller, f"give fewer than the {self.epochs} of --epochs")
        check(not smaller or self.model.inputs != "meta", name, smaller, "give 0 with --model.inputs meta")

    @property
    def fold_word(self) -> str:
        """The held-out fold as on the command line: its number, or none."""
        return "none" if self.fold is None else str(self.fold)


def check_timeout(minutes: float) -> None:
    """Raise UserError unless ranks may wait so long for each other."""
    check(0 < minutes <= _LONGEST, "timeout", minutes, f"give minutes above 0, up to {_LONGEST:.0f} (a week)")
