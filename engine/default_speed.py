"""How a run's step is run where neither the settings nor --autotune say so: by rule, from figures that are assumed."""

# Assumed, not measured: EfficientNet-B1 at 256 px and 128 images a step, which an H100 is expected to take 45 ms for
# eagerly. A slower GPU, a larger network or a compilation that is cached gain more; --autotune measures.
_COMPILE_SECONDS = 60.0
_SAVED_BY_COMPILING = 0.015  # seconds per step: a third
_CAPTURE_SECONDS = 3.0
_SAVED_BY_REPLAYING = 0.003  # seconds per step: what the GPU waits for launches


def default_speed(steps: int, *, on_gpu: bool, world_size: int) -> tuple[bool, bool]:
    """Whether to compile, and to replay a CUDA graph, for the `steps` that a run has still to do.

    Neither on a CPU; no graph on several ranks, which exchange gradients within the step.
    """
    compiling = on_gpu and steps * _SAVED_BY_COMPILING > _COMPILE_SECONDS
    capturing = on_gpu and world_size == 1 and steps * _SAVED_BY_REPLAYING > _CAPTURE_SECONDS
    return compiling, capturing
