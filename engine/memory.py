"""Out of memory, said in the user's settings."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from configs.errors import UserError
from configs.schema import TrainConfig

# torch's own words where the CPU's memory ends; a GPU's end has an exception of its own.
_HOST_FULL = re.compile(r"can't allocate memory|not enough memory|CUDA error: out of memory")


@contextmanager
def explained_memory(config: TrainConfig) -> Iterator[None]:
    """Turn the end of the memory into a UserError that names the settings to change and what they are now."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(_remedy(config)) from error
    except RuntimeError as error:
        if not _HOST_FULL.search(str(error)):
            raise
        raise UserError(_remedy(config)) from error


def _remedy(config: TrainConfig) -> str:
    cached = f", --loader.cache none (now {config.loader.cache})" if config.loader.cache != "none" else ""
    return (
        f"out of memory with --backbone {config.backbone}; what was saved last is kept, and these may change before it "
        f"goes on: --accumulate {2 * config.accumulate} (now {config.accumulate}; the global batch stays "
        f"{config.batch_size}), --precision bf16 (now {config.precision}), --loader.prefetch 1 (now "
        f"{config.loader.prefetch}){cached}; a new run may take a lower --batch-size or shards of a smaller --size"
    )
