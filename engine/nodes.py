"""Several nodes: before the first step they prove that they share OUT and train the same on the same data."""

import hashlib
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from configs.errors import UserError
from configs.schema import TrainConfig
from engine.distributed import Ranks
from engine.records import versions
from prep.manifest import MANIFEST

_ROOT = Path(__file__).parents[1]
_SOURCES = ("*.py", *(f"{name}/**/*.py" for name in ("configs", "prep", "loaders", "models", "engine", "evaluation")))
_DALI = "nvidia-dali-cuda130"
_OWN = ("shards", "out")  # settings that each node may spell in its own way: what stands there is compared
_MOST_SECONDS = 30.0  # until a file is seen on other nodes: network file systems remember what a folder holds
_LOOK_SECONDS = 0.5


def require_one_training(configs: Sequence[TrainConfig], ranks: Ranks) -> None:
    """Compare each node with that of rank 0, through one rank of each; every rank must call it, and waits for all.

    Raises UserError on every rank, which names the node and what differs first: versions, this project's sources,
    settings, the shard set's manifest, or the folder OUT. Asks nothing where all ranks are on one node.
    """
    if ranks.local_world_size == ranks.world_size:
        return
    speaks = ranks.local_rank == 0
    found = ranks.merge({ranks.rank: (socket.gethostname(), dict(_facts(configs)))} if speaks else {})
    first, expected = found.pop(0)
    for rank, (host, facts) in sorted(found.items()):
        for name in [*expected, *facts]:  # either may have settings of members that the other lacks
            one, other = (known.get(name, "nothing") for known in (facts, expected))
            if one != other:
                raise UserError(
                    f"rank {rank} on {host} has {one} as {name}, rank 0 on {first} has {other}: give the same command "
                    "on every node, with the same packages, sources and shard set"
                )
    for out in dict.fromkeys(config.out for config in configs):
        blind = _without(Path(out), ranks, seconds=min(_MOST_SECONDS, 30 * configs[0].timeout))
        if blind:
            nodes = ", ".join(f"rank {rank} on {found[rank][0]}" for rank in sorted(blind))
            raise UserError(
                f"{nodes} does not see the --out that rank 0 on {first} writes to: give a folder that all nodes share"
            )


def _without(out: Path, ranks: Ranks, *, seconds: float) -> dict[int, bool]:
    """The ranks, one a node, that do not see within `seconds` what rank 0 writes to the folder `out`; not in order."""
    token = ranks.from_first(lambda: secrets.token_hex(16))
    path = out / f".{token}.tmp"
    try:
        if ranks.first:
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(token)
        ranks.all_of(True)  # now it is there
        return ranks.merge({} if ranks.local_rank or _appears(path, token, seconds) else {ranks.rank: True})
    finally:
        if ranks.first:
            path.unlink(missing_ok=True)


def _appears(path: Path, content: str, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while True:
        try:
            if path.read_text() == content:
                return True
        except OSError:
            pass
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_SECONDS)


def _facts(configs: Sequence[TrainConfig]) -> Iterator[tuple[str, str]]:
    """What must be equal on all nodes: its name and its value, for the user."""
    with_dali = any(config.loader.placement != "host" for config in configs)
    for name, value in versions().items():
        if with_dali or name != _DALI:
            yield f"the version of {name}", value
    sources = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in _ROOT.glob(pattern)):
        sources.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes() + b"\0")
    yield "the SHA-256 of this project's sources", sources.hexdigest()
    members = [f"{config.backbone}/fold{config.fold_word}" for config in configs]
    yield "the members", " ".join(members)
    for config, member in zip(configs, members, strict=True):
        for name, value in asdict(config).items():
            inner = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
            yield from ((f"--{key} of {member}", repr(one)) for key, one in inner.items() if key not in _OWN)
        yield f"{MANIFEST} in --shards of {member}", _digest(Path(config.shards) / MANIFEST)


def _digest(path: Path) -> str:
    try:
        return f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError as error:
        return f"an error ({error.strerror})"
