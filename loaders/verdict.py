"""What bounds a training run and what to change: one rule, for train.py and for the benchmarks."""

from dataclasses import dataclass
from typing import Literal

Bound = Literal["step", "loader", "sharing", "tie"]
_NOTABLE = 0.05  # the loss of speed from which on a remedy is worth its trouble


@dataclass(frozen=True, kw_only=True)
class Feed:
    """How a training step was fed.

    kept: share of the step's own speed that is left with data loading, 0 to 1; interval: its 90 % interval, where it
    was measured in rounds; loader_alone: speed of the loader alone as a multiple of the step's own, None where unknown;
    stage_us: microseconds per image in the loader's threads, by stage (loaders.meter.STAGES).
    """

    kept: float
    interval: tuple[float, float] | None = None
    loader_alone: float | None = None
    stage_us: dict[str, float]
    placement: str
    cache: str
    on_gpu: bool

    @property
    def bound(self) -> Bound:
        """What bounds the run.

        tie: the interval holds 1, so that data costs nothing that was measured; step: data costs little, or no image is
        loaded at all (a metadata-only model); loader: it cannot make as many images alone as the step takes, or how
        many is unknown; sharing: it can, but not beside the step, with which it shares cores or the GPU.
        """
        if self.interval is not None and self.interval[0] <= 1 <= self.interval[1]:
            return "tie"
        if 1 - self.kept < _NOTABLE or not any(self.stage_us.values()):
            return "step"
        return "sharing" if self.loader_alone is not None and self.loader_alone > 1 else "loader"


def verdict(feed: Feed, figures: str) -> str:
    """What bounds the run, and where that is data, which setting to change; in one line around `figures`."""
    if feed.bound == "tie":
        return (
            f"data costs nothing that these rounds can tell: {figures}; as far as measured, the training step bounds "
            "this run (more --rounds and --seconds narrow the interval)"
        )
    if feed.bound == "step":
        return (
            f"data kept up: {figures}; the training step bounds this run: for more speed take --autotune, a larger "
            "batch, or a smaller backbone or image size"
        )
    on_one_gpu = feed.bound == "sharing" and feed.placement == "dali-gpu"
    what = "data bounds this run"
    if feed.bound == "sharing":
        what = f"data loading and the training step share {'the GPU' if on_one_gpu else 'this machine'}"
    stage = max(feed.stage_us, key=lambda name: feed.stage_us[name])
    change = _less_on_the_gpu(feed.cache) if on_one_gpu else _remedy(stage, feed)
    return (
        f"{what}: {figures}; of an image's {sum(feed.stage_us.values()):.0f} microseconds in the loader, {stage} takes "
        f"most ({feed.stage_us[stage]:.0f}): {change}"
    )


def _remedy(stage: str, feed: Feed) -> str:
    if stage == "copy" and feed.cache == "ram" and feed.placement == "dali-gpu":
        return "keep the pixels on the GPU with --loader.cache gpu where they fit"
    if stage == "read" and feed.cache == "none":
        return "put the shards on a local disk, or keep the pixels with --loader.cache ram"
    if stage == "decode" and feed.cache == "none":
        return f"decode once with --loader.cache {'gpu' if feed.placement == 'dali-gpu' else 'ram'} where the set fits"
    if feed.placement != "dali-gpu" and feed.on_gpu:
        return "augment on the GPU with --loader.placement dali-gpu"
    return "give this rank more cores (--loader.threads), or augment less"


def _less_on_the_gpu(cache: str) -> str:
    decoding = "decode once with --loader.cache gpu where the set fits, or on the CPU with --loader.decode cpu, or "
    return f"{decoding if cache == 'none' else ''}leave the GPU to the step with --loader.placement host"
