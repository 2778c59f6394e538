"""The ranks of a run: torchrun's environment, read once, and the few collectives that the engine needs."""

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from configs.errors import UserError
from configs.machine import usable_cores

Value = TypeVar("Value")
# How gloo and NCCL report a lost peer.
_LOST_PEER = re.compile(r"Connection (closed|reset)|[Rr]emote process|Broken pipe|Socket closed")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among the ranks of a run; a single process is rank 0 of 1, with no process group."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    host_group: dist.ProcessGroup | None = None
    """For tensors on the host, whatever the device; None for a single rank."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and prints messages."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """Cores that this rank has to itself, at least 1."""
        return max(1, usable_cores() // self.local_world_size)

    def gather(self, values: Tensor) -> Tensor:
        """Concatenate `values` (the same shape on every rank) over the ranks, in rank order, on each of them."""
        if self.world_size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def sum(self, value: Tensor) -> Tensor:
        """Sum a tensor over the ranks."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def share_from_first(self, value: float) -> float:
        """The first rank's value, on every rank, so that all of them take the same decision."""
        if self.world_size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return float(shared.item())

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What `make` returns on the first rank, on every rank: the others need no access to its disk."""
        if self.world_size == 1:
            return make()
        shared: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(shared, src=0, group=self.host_group)
        return cast(Value, shared[0])

    def merge(self, found: dict[int, str]) -> dict[int, str]:
        """What any of the ranks has found, on every rank."""
        if self.world_size == 1:
            return found
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, found, group=self.host_group)
        return {key: value for part in parts for key, value in part.items()}

    def all_of(self, fact: bool) -> bool:
        """Whether `fact` holds on every rank."""
        if self.world_size == 1:
            return fact
        shared = torch.tensor([int(fact)])
        dist.all_reduce(shared, op=dist.ReduceOp.MIN, group=self.host_group)
        return bool(shared.item())

    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank the first one's buffers (running statistics), so that all evaluate the same model."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


@contextmanager
def joined_ranks(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Ranks]:
    """Join the process group that torchrun describes (NCCL on GPUs, gloo on CPUs) and leave it at the end."""
    on_gpu = _wants_gpu(device)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    ranks = Ranks(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=local_rank,
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        device=torch.device("cuda", local_rank) if on_gpu else torch.device("cpu"),
    )
    if on_gpu:
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"local rank {local_rank} has no GPU, there are {torch.cuda.device_count()}: lower --nproc-per-node"
            )
        torch.cuda.set_device(ranks.device)
    else:
        torch.set_num_threads(ranks.threads)
        _keep_freed_memory()
    if ranks.world_size == 1:
        yield ranks
        return
    # torchrun keeps its store across restarts: the prefix hides the addresses of ranks that have died.
    store, _, _ = next(rendezvous("env://", ranks.rank, ranks.world_size))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store),
        rank=ranks.rank,
        world_size=ranks.world_size,
        device_id=ranks.device if on_gpu else None,
    )
    ranks = replace(ranks, host_group=dist.new_group(backend="gloo"))
    # After an error the group is not destroyed: that would wait for peers which wait for this rank. This process ends,
    # and torchrun ends the others.
    try:
        yield ranks
    except RuntimeError as error:
        if not _LOST_PEER.search(str(error)):
            raise
        raise UserError(
            f"rank {ranks.rank} lost the connection to another rank, whose own error says why; what was saved is kept: "
            "fix that error, then run the same command again"
        ) from error
    dist.destroy_process_group()


def _keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning each to the kernel, whose page faults halve a CPU step's speed.

    Has no effect if the C library has no mallopt (macOS, musl).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _wants_gpu(device: Literal["auto", "cpu", "cuda"]) -> bool:
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError("device='cuda', but torch sees no GPU: use --device auto, or install a CUDA build of torch")
    return available and device != "cpu"
