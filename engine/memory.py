"""Out of memory, explained by the settings that the user can change."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from configs.errors import UserError
from configs.schema import TrainConfig
from engine.distributed import Ranks

# How torch, its libraries and DALI report a failed allocation where they have no exception of their own for it.
_FULL = re.compile(r"can't allocate|not enough memory|out of memory|ALLOC_FAILED", re.IGNORECASE)


@contextmanager
def explained_memory(config: TrainConfig, ranks: Ranks) -> Iterator[None]:
    """Turn an out-of-memory error into a UserError that names the settings to change and their current values."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if isinstance(error, RuntimeError) and not _FULL.search(str(error)):
            raise
        raise UserError(_remedy(config, ranks)) from error


def _remedy(config: TrainConfig, ranks: Ranks) -> str:
    local = -(-config.batch_size // ranks.world_size)
    more = [parts for parts in range(config.accumulate + 1, local // 2 + 1) if local % parts == 0]
    ways = []
    if more:
        same = f"the global batch stays {config.batch_size}"
        ways.append(f"--accumulate {more[0]} (now {config.accumulate}; {same})")
    if config.precision == "fp32":
        ways.append("--precision bf16 (now fp32)")
    if config.loader.cache != "none":
        ways.append(f"--loader.cache none (now {config.loader.cache})")
    ways.append(f"--loader.prefetch 1 (now {config.loader.prefetch})")
    return (
        f"out of memory with --backbone {config.backbone}; earlier checkpoints are kept: continue with any of "
        f"{', '.join(ways)}; or start from scratch (--resume never) with a lower --batch-size (now "
        f"{config.batch_size}) or shards of a smaller --size"
    )
