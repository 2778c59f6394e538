"""A stream leaves no threads, memory or queued work behind."""

import gc
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from streams import CPU, TIERS, our_threads, requests_of, stream, train_batches

from configs.schema import AugmentConfig
from loaders.loader import Loader
from loaders.order import Partition
from loaders.shards import ShardSet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shards(shard_folder: Path) -> ShardSet:
    return ShardSet(shard_folder)


@pytest.mark.parametrize("tier", TIERS)
def test_threads_end_with_the_loader(shards: ShardSet, tier: str) -> None:
    list(stream(shards, TIERS[tier], range(1)))
    assert not our_threads()


@pytest.mark.parametrize("tier", TIERS)
def test_threads_end_when_the_consumer_fails(shards: ShardSet, tier: str) -> None:
    def fail_in_the_middle() -> None:
        with Loader(TIERS[tier], shards, shards.train_rows(0), CPU, threads=2) as loader:
            for number, _ in enumerate(train_batches(loader, shards)):
                if number == 2:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_in_the_middle()
    gc.collect()
    assert not our_threads()


@pytest.mark.parametrize("tier", TIERS)
def test_an_abandoned_stream_leaves_nothing_to_the_next_one(shards: ShardSet, tier: str) -> None:
    rows = np.arange(64)
    partition = Partition(samples=64, batch_size=8)
    with Loader(TIERS[tier], shards, rows, CPU, threads=2) as loader:
        next(loader.eval_batches(rows, partition))
        whole = [batch.index.numpy() for batch in loader.eval_batches(rows, partition)]
    np.testing.assert_array_equal(np.concatenate(whole), rows)


@pytest.mark.parametrize(("threads", "readers"), [(1, 1), (3, 2)])
def test_training_and_evaluation_share_a_reader_that_leaves_a_core(
    shards: ShardSet, threads: int, readers: int
) -> None:
    rows, partition = np.arange(96), Partition(samples=96, batch_size=48)  # two tasks a batch
    with Loader(TIERS["dali-cpu"], shards, shards.train_rows(0), CPU, threads=threads) as loader:
        next(loader.train_batches(rows, partition, AugmentConfig(), seed=0, epochs=range(1)))
        next(loader.eval_batches(rows, partition))
        assert 1 <= sum("renderer-reader" in name for name in our_threads()) <= readers


def test_abandoned_requests_leave_no_thread(shards: ShardSet) -> None:
    requests = requests_of(shards)
    next(requests)
    assert len(our_threads()) == 2  # that sort the next epoch and draw the next parameters
    del requests
    assert not our_threads()


def resident_mib() -> float:
    """Resident memory of this process, in MiB."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("tier", TIERS)
def test_memory_does_not_grow_over_fifty_epochs(shards: ShardSet, tier: str) -> None:
    seen = []
    with Loader(TIERS[tier], shards, shards.train_rows(0), CPU, threads=2) as loader:
        for batch in train_batches(loader, shards, range(50)):
            if batch.step == 0:
                seen.append(resident_mib())
    assert len(seen) == 50
    # One batch of 16 images takes 0.2 MiB: a leak of one per epoch would show.
    assert max(seen[40:]) - max(seen[5:15]) < 4, seen


_INTERRUPTED = """
import sys
import time
from dataclasses import replace
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from loaders import render_dali_cpu, render_host
from streams import CPU, TIERS, train_batches
from loaders.loader import Loader
from loaders.shards import ShardSet

def slow(change, out, finish=render_host.finish):  # so that work still waits in the queue
    time.sleep(0.002)
    finish(change, out)

render_host.finish = render_dali_cpu.finish = slow

class Consumer:
    def __init__(self, shards, loader):
        self.stream = train_batches(loader, shards, range(100))

    def run(self):
        for number, batch in enumerate(self.stream):
            if number == 2:
                raise KeyboardInterrupt

shards = ShardSet(Path(sys.argv[1]))
try:
    config = replace(TIERS["TIER-NAME"], prefetch=16)
    with Loader(config, shards, shards.train_rows(0), CPU, threads=1) as loader:
        consumer = Consumer(shards, loader)
        consumer.run()
except KeyboardInterrupt:
    pass
del consumer, loader
print("ended")
"""


@pytest.mark.parametrize("tier", TIERS)
def test_a_loader_closes_before_the_stream_that_is_still_held(shard_folder: Path, tier: str, tmp_path: Path) -> None:
    """As after Ctrl-C in training: much is queued, the stream is an attribute, and the loader goes first."""
    script = tmp_path / "interrupted.py"
    script.write_text(_INTERRUPTED.replace("TIER-NAME", tier))
    words = [sys.executable, str(script), str(shard_folder), str(ROOT), str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr


@pytest.mark.parametrize("tier", ["host", "dali-cpu"])
def test_ctrl_c_ends_a_stream_at_once(shard_folder: Path, tier: str, tmp_path: Path) -> None:
    script = tmp_path / "forever.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "sys.path[:0] = sys.argv[2:]\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from streams import TIERS, stream\nfrom loaders.shards import ShardSet\n"
        "for batch in stream(ShardSet(Path(sys.argv[1])), TIERS['" + tier + "'], range(1_000_000)):\n"
        "    if (batch.epoch, batch.step) == (1, 0): print('running', flush=True)\n"
    )
    words = [sys.executable, str(script), str(shard_folder), str(ROOT), str(Path(__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert process.returncode not in (0, None)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of open files are Unix")
def test_more_shards_than_the_limit_of_open_files_allows(shard_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "many.py"
    script.write_text(
        "import resource, sys\nfrom pathlib import Path\nimport numpy as np\nsys.path.insert(0, sys.argv[2])\n"
        "from loaders.shards import ShardSet\n"
        "shards = ShardSet(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]), int(sys.argv[4])))\n"
        "print(len(shards.jpegs(np.arange(len(shards)))))\n"
    )
    words = [sys.executable, str(script), str(shard_folder), str(ROOT)]
    count = len(ShardSet(shard_folder))
    raised = subprocess.run([*words, "6", "200"], capture_output=True, text=True, check=False, timeout=300)
    assert raised.stdout == f"{count}\n", raised.stderr
    refused = subprocess.run([*words, "6", "6"], capture_output=True, text=True, check=False, timeout=300)
    assert "too many shards for this process's open files: raise ulimit -n" in refused.stderr
