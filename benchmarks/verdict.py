"""From rates to words: what bounds a training run, and which setting to change."""

from dataclasses import dataclass

from loaders.meter import remedy

_NOTABLE = 0.03  # a loss that is worth a word, where the control is quieter still
_PER_SHARE = 3.0  # what a loader may take of a step for each share of the cores that it uses: caches and memory too


@dataclass(frozen=True, kw_only=True)
class Fed:
    """Images/s (medians) of the training step and of its loader.

    loader: the stream alone; resident: the step on one batch; replayed: on kept batches; real: both together;
    saturation: real / replayed, the median of the rounds'; noise: the A/A control; waiting: share of the time in which
    the step had no data; stage_us: microseconds of the loader's threads an image, by stage; cores: of the host.
    """

    loader: float
    resident: float
    replayed: float
    real: float
    saturation: float
    noise: float
    waiting: float
    stage_us: dict[str, float]
    placement: str
    cache: str
    cores: int
    on_gpu: bool


def verdict(fed: Fed) -> tuple[str, str]:
    """What bounds the run: step, loader, sharing or unclear; and the same as a sentence with the remedy.

    loader: it cannot make as many images alone as the step could take; sharing: it can, but not beside the step, with
    which it shares cores and memory.
    """
    tolerance = max(fed.noise, _NOTABLE)
    figures = f"{_rate(fed.real)} img/s, and {_rate(fed.replayed)} without a loader (saturation {fed.saturation:.2f})"
    if fed.saturation >= 1 - tolerance:
        if fed.saturation < 1 - _NOTABLE:
            return "unclear", (
                f"{figures}: a tie, because the same step twice may differ by {fed.noise:.0%}. Measure with more "
                "--rounds and --seconds, and nothing else running"
            )
        return "step", (
            f"The training step bounds this run: {figures}. Data keeps up (alone the loader makes "
            f"{_rate(fed.loader)} img/s). To go faster: --autotune, larger batches, a smaller backbone or size"
            + _replay_words(fed, tolerance)
        )
    busy = fed.real * sum(fed.stage_us.values()) / 1e6 / fed.cores
    if fed.placement == "host" and not fed.on_gpu and 1 - fed.saturation > _PER_SHARE * (fed.waiting + busy):
        return "unclear", (
            f"{figures}, but the step waited for data {fed.waiting:.1%} of the time and the loader's threads took "
            f"{busy:.1%} of the cores, which does not explain it: other work on this machine, or chance. Measure with "
            "more --rounds and --seconds, and nothing else running"
        )
    if fed.loader >= fed.replayed * (1 + tolerance) and fed.placement == "dali-gpu":
        return "sharing", (
            f"Loader and step share the GPU: {figures}, although the loader alone makes {_rate(fed.loader)} img/s; "
            f"{_less_on_the_gpu(fed.cache)}"
        )
    busiest = max(fed.stage_us, key=lambda name: fed.stage_us[name])
    change = remedy(busiest, fed.placement, fed.cache, fed.on_gpu)
    cost = f"most of an image's {sum(fed.stage_us.values()):.0f} us in the loader is {busiest}"
    if fed.loader < fed.replayed * (1 + tolerance):
        return "loader", (
            f"The loader bounds this run: {figures}; alone it makes {_rate(fed.loader)} img/s, and {cost}: {change}"
        )
    return "sharing", (
        f"Loader and step share this machine: {figures}, although the loader alone makes {_rate(fed.loader)} img/s; "
        f"{cost}: {change}"
    )


def _less_on_the_gpu(cache: str) -> str:
    decoding = "decode once with --loader.cache gpu where the set fits, or on the CPU with --loader.decode cpu, or "
    return f"{decoding if cache == 'none' else ''}leave the GPU to the step with --loader.placement host"


def _replay_words(fed: Fed, tolerance: float) -> str:
    lost = 1 - fed.replayed / fed.resident
    return f". Reading other batches than one in a cache costs the step {lost:.0%}" if lost > tolerance else ""


def _rate(images: float) -> str:
    return f"{images:,.0f}" if images >= 100 else f"{images:.1f}"
