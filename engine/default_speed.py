"""How a step, or a member that predicts, is run where nothing says so: by rule, from figures that are assumed."""

# Assumed, not measured: EfficientNet-B1 at 256 px and 128 images a step, which an H100 is expected to take 45 ms for
# eagerly. A slower GPU, a larger network or a compilation that is cached gain more; --autotune measures.
_COMPILE_SECONDS = 60.0
_SAVED_BY_COMPILING = 0.015  # seconds per step: a third
_CAPTURE_SECONDS = 3.0
_SAVED_BY_REPLAYING = 0.003  # seconds per step: what the GPU waits for launches

# Assumed as well: predicting 128 such images, for which timm publishes 6,868 images/s eagerly and 9,335 compiled on one
# GPU (RTX PRO 6000): 19 ms and 14 ms.
_COMPILE_TO_PREDICT_SECONDS = 30.0
_SAVED_BY_COMPILED_PREDICTION = 0.005  # seconds per forward pass


def default_speed(steps: int, *, on_gpu: bool, world_size: int) -> tuple[bool, bool]:
    """Whether to compile, and to replay a CUDA graph, for the `steps` that a run has still to do.

    Neither on a CPU; no graph on several ranks, which exchange gradients within the step.
    """
    compiling = on_gpu and steps * _SAVED_BY_COMPILING > _COMPILE_SECONDS
    capturing = on_gpu and world_size == 1 and steps * _SAVED_BY_REPLAYING > _CAPTURE_SECONDS
    return compiling, capturing


def predicts_compiled(passes: int, *, on_gpu: bool) -> bool:
    """Whether to compile members of one backbone, which share a compilation, for `passes` batches x views of them all.

    Never on a CPU.
    """
    return on_gpu and passes * _SAVED_BY_COMPILED_PREDICTION > _COMPILE_TO_PREDICT_SECONDS
