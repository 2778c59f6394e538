"""The ranks of a run: torchrun's environment, read once, and the few collectives that the engine needs."""

import atexit
import ctypes
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from configs.errors import UserError
from configs.launcher import Launch, read_launch
from configs.machine import usable_cores
from configs.schema import TIMEOUT
from engine.pulse import Pulse

Value = TypeVar("Value")
# How gloo and NCCL report a peer that is lost, or does not come.
_LOST_PEER = re.compile(
    r"Connection (closed|reset|refused)|[Rr]emote process|Broken pipe|Socket closed|[Tt]imed out|[Tt]imeout"
)
_NCCL_MARGIN = timedelta(minutes=1)
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

    def from_first_here(self, make: Callable[[], Value]) -> Value:
        """What `make` returns on the first rank of this machine, on every rank of it."""
        if self.world_size == 1:
            return make()
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, make() if self.local_rank == 0 else None, group=self.host_group)
        return cast(Value, parts[self.rank - self.local_rank])  # the ranks of a machine follow each other

    def merge(self, found: dict[int, Value]) -> dict[int, Value]:
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
def joined_ranks(device: Literal["auto", "cpu", "cuda"], *, timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """Join the process group that torchrun describes (NCCL on GPUs, gloo on CPUs) and leave it at the end.

    No rank waits longer than `timeout` minutes for another one: then it ends with a UserError that names the rank. What
    several ranks have to say is said by one of them.
    """
    on_gpu = _wants_gpu(device)
    launch = read_launch()
    ranks = Ranks(
        rank=launch.rank,
        world_size=launch.world_size,
        local_rank=launch.local_rank,
        local_world_size=launch.local_world_size,
        device=torch.device("cuda", launch.local_rank) if on_gpu else torch.device("cpu"),
    )
    if on_gpu:
        if ranks.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"local rank {ranks.local_rank} has no GPU, there are {torch.cuda.device_count()}: lower "
                "--nproc-per-node"
            )
        torch.cuda.set_device(ranks.device)
    else:
        torch.set_num_threads(ranks.threads)
        _keep_freed_memory()
    if ranks.world_size == 1:
        yield ranks
        return
    wait = timedelta(minutes=timeout)
    holder = "the launcher" if _launcher_holds_store() else "rank 0"
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    pulse = Pulse(_shared_store(launch, wait), ranks.rank, ranks.world_size, holder, address)
    # After an error the group is not destroyed: that would wait for peers which wait for this rank. This process ends,
    # and torchrun ends the others.
    try:
        yield replace(ranks, host_group=_join(pulse.store, ranks, wait))
    except Exception as error:
        lost = isinstance(error, RuntimeError) and _LOST_PEER.search(str(error)) is not None
        explained = _named(pulse, timeout) if lost else error
        atexit.register(_leave_at_once, 2 if isinstance(explained, UserError) else 1)
        # A rank that ends because one is lost is lost to the others: only the first of them knows which one it was.
        said = "a rank is lost" if lost else str(explained)
        if isinstance(explained, UserError) and not pulse.first_to_say(said):
            raise SystemExit(2) from error
        raise explained from (error if lost else error.__cause__)
    pulse.stop()
    dist.destroy_process_group()


def _shared_store(launch: Launch, wait: timedelta) -> Store:
    """The key-value store that all ranks share. Raises UserError if the launcher that holds it is gone."""
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store: Store
    try:
        if _launcher_holds_store():  # it is there already: a refusal is final
            socket.create_connection(address, timeout=wait.total_seconds()).close()
        store, _, _ = next(rendezvous("env://", launch.rank, launch.world_size, timeout=wait))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"rank {launch.rank} cannot reach {address[0]}:{address[1]}, where the ranks meet (MASTER_ADDR, "
            "MASTER_PORT): check that the launcher and rank 0 run and can be reached, then run the same command again"
        ) from error
    if not _launcher_holds_store():
        return store
    # torchrun keeps its store across restarts: the prefix hides the addresses of ranks that have died. Not where rank 0
    # has a new one: the launcher of a node that came later counts other restarts.
    return PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _launcher_holds_store() -> bool:
    """Whether torchrun holds the store of its ranks, and not the first of them."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _join(store: Store, ranks: Ranks, wait: timedelta) -> dist.ProcessGroup:
    """Join the process group, and a second one for tensors on the host, which is returned."""
    on_gpu = ranks.device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=ranks.rank,
        world_size=ranks.world_size,
        # NCCL ends the process by itself, without naming anyone: the exchanges on the host, one in each step, go first.
        timeout=wait + _NCCL_MARGIN if on_gpu else wait,
        device_id=ranks.device if on_gpu else None,
    )
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=wait)
    return group


def _named(pulse: Pulse, timeout: float) -> UserError:
    """The error for the user where another rank is lost: which one it is."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's, which comes before the rank is named
    return UserError(
        f"the ranks lost one of them: {pulse.diagnosis()} (--timeout {timeout:g} minutes); if it printed an error of "
        "its own, that says why; what was saved is kept: end all ranks, then run the same command again"
    )


def _leave_at_once(code: int) -> None:
    """End the process without waiting for exchanges with lost ranks, which takes as long as each of them may."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
