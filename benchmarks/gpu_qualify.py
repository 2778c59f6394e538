"""Everything that only a CUDA machine can tell, in one command.

    bash benchmarks/gpu_qualify.sh OUT [SHARDS] [--dry]

The gpu tests; the training step of the four backbones, and whether it waits for data, with a trace; a full-size epoch
and a whole fold; every loader placement beside what peers are installed; the fastest way to run the step. Without
SHARDS it makes 58,457 synthetic images of 256 px first. OUT gets the records, the trace, and steps.tsv with the seconds
of every step; logs, and all that the next call needs, stay in WORK (runs/gpu_qualify).

A call takes at most BUDGET seconds (540). What does not fit is left for the next call, which goes on where this one
ended; what failed or was cut off comes last there. Exits with 0 when all is done, 3 when something is left, 1 when
something failed, 2 when it cannot begin. --dry runs every step at toy size, with or without a GPU. Nothing is installed
or downloaded: what is missing is named. PYTHON names the interpreter, PYTHONPATH a folder of packages brought along.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = """torch torchvision timm nvidia cv2 simplejpeg PIL webdataset jsonargparse docstring_parser
yaml rich numpy pandas pyarrow scipy sklearn matplotlib tensorboard albumentations pytest hypothesis"""
Verdict = Literal["passed", "FAILED", "cut off"]


class Step(NamedTuple):
    """One command of Python: its name, its words, and about how many seconds it takes."""

    name: str
    words: Sequence[str]
    expected: float


class Schedule:
    """Runs steps within a budget of seconds, each until it has passed once; work/verdicts.json remembers.

    run: runs a step for at most so many seconds; clock: seconds since the call began; done: name, verdict and seconds
    of each step that was run, in their order; left: steps for which there was not enough time.
    """

    def __init__(
        self, *, work: Path, budget: float, clock: Callable[[], float], run: Callable[[Step, float], Verdict]
    ) -> None:
        self.budget, self.clock, self.run = budget, clock, run
        self.done: list[tuple[str, Verdict, float]] = []
        self.left: list[str] = []
        self._file = work / "verdicts.json"
        self.verdicts: dict[str, Verdict] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def take(self, steps: Sequence[Step]) -> Iterator[str]:
        """Run what has not passed yet, in order, what an earlier call tried in vain last; yields each step's name."""
        waiting = [step for step in steps if self.verdicts.get(step.name) != "passed"]
        for step in sorted(waiting, key=lambda step: step.name in self.verdicts):
            begin = self.clock()
            if begin + step.expected > self.budget:
                self.left.append(step.name)
                continue
            verdict = self.verdicts[step.name] = self.run(step, max(1.0, self.budget - begin))
            self._file.write_text(json.dumps(self.verdicts))
            self.left += [step.name] if verdict == "cut off" else []
            self.done.append((step.name, verdict, self.clock() - begin))
            yield step.name


def main(argv: Sequence[str]) -> int:
    """Check the machine, run what fits into the budget, copy the records; returns the exit code."""
    begin, dry = time.monotonic(), "--dry" in argv
    words = [word for word in argv if word != "--dry"]
    if refused := _refused(words, dry):
        print(refused, file=sys.stderr)
        return 2
    out, *given = [Path(os.environ.get("CALLED_FROM", "."), word).resolve() for word in words]
    work = Path(os.environ.get("WORK") or f"runs/gpu_qualify{'_dry' if dry else ''}").resolve()
    records, shards = work / "records", given[0] if given else work / "shards"
    records.mkdir(parents=True, exist_ok=True)
    schedule = Schedule(
        work=work,
        budget=float(os.environ.get("BUDGET") or 540),
        clock=lambda: time.monotonic() - begin,
        run=lambda step, seconds: _run(step, work / f"{step.name}.log", seconds),
    )
    making = [] if given else making_shards(work, shards, dry)
    if not (shards / "manifest.json").exists():
        for step in making:
            schedule.verdicts.pop(step.name, None)
    for step in making:  # one by one: each needs the one before
        _report(schedule, records, [step])
    if any(schedule.verdicts.get(step.name) != "passed" for step in making):
        print("error: without shards nothing else can be run", file=sys.stderr)
        return 1
    _report(schedule, records, measuring(work, shards, dry))
    shutil.copytree(records, out, dirs_exist_ok=True)
    if schedule.left:
        print(f"left for another call: {' '.join(schedule.left)}")
    failed = any(verdict == "FAILED" for _, verdict, _ in schedule.done)
    return 1 if failed else 3 if schedule.left else 0


def _refused(words: Sequence[str], dry: bool) -> str:
    """Why it cannot begin, or nothing."""
    if len(words) not in (1, 2) or any(word.startswith("-") for word in words):
        return "usage: gpu_qualify.sh OUT [SHARDS] [--dry]"
    missing = [name for name in _PACKAGES.split() if not find_spec(name)]
    missing += [] if "nvidia" in missing or find_spec("nvidia.dali") else ["nvidia.dali"]
    if missing:
        who = f"error: {sys.executable} has no {', '.join(missing)}"
        return f"{who}: install it, or name another interpreter with PYTHON=..."
    look = "import torch; assert torch.cuda.is_available(); print(torch.cuda.get_device_name(), torch.__version__)"
    if not dry and subprocess.run([sys.executable, "-c", look], stderr=subprocess.DEVNULL, check=False).returncode:
        return "error: torch sees no GPU here (--dry runs every step at toy size without one)"
    return ""


def _report(schedule: Schedule, records: Path, steps: Sequence[Step]) -> None:
    """Take the steps; print and record a line for each, and the end of the log of one that failed."""
    for name in schedule.take(steps):
        line = "{}\t{}\t{:.0f}".format(*schedule.done[-1])
        print(line, flush=True)
        with (records / "steps.tsv").open("a") as file:
            print(line, file=file)
        if schedule.done[-1][1] == "FAILED":
            log = (records.parent / f"{name}.log").read_text(errors="replace")
            print(*log.splitlines()[-12:], sep="\n", flush=True)


def making_shards(work: Path, shards: Path, dry: bool) -> list[Step]:
    """The steps that every other one needs."""
    images, size, expected = ("150", "64", 0) if dry else ("58457", "256", 60)
    data = f"{work}/data"
    made = ["prep/synthetic.py", "--out", data, "--train", images, "--test", "100", "--size", size]
    packed = ["prep/shard.py", "--isic2020", f"{data}/2020", "--isic2019", f"{data}/2019", "--out", f"{shards}"]
    return [Step("synthetic", made, expected), Step("shard", [*packed, "--size", size], expected)]


def measuring(work: Path, shards: Path, dry: bool) -> list[Step]:
    """All the others, in their order; `dry` ones at toy size, whatever the budget."""
    backbones = ["tiny"] if dry else ["efficientnet_b1", "resnest50", "efficientnet_b3", "efficientnet_b4"]
    turns = ["--rounds=1", "--seconds=0.05"] if dry else ["--rounds=3", "--seconds=1"]
    step = [*turns, "--peers=off", *(["--batch-size=8"] if dry else [])]
    loaders = [*turns, "--training=false", *(["--peers=quick", "--loader-batch-size=8"] if dry else ["--peers=all"])]
    ways = ["--speed.compile=off", "--speed.memory_format=channels_last", "--loader.placement=host"] if dry else []
    recipe = [f"--backbone={backbones[0]}", "--weights=none", "--patience=0"]
    recipe += ["--batch-size=16", "--device=cpu"] if dry else []

    def throughput(name: str, *words: str) -> list[str]:
        out = f"--out={work}/records/throughput_{name}.json"
        return ["-m", "benchmarks.throughput", f"--shards={shards}", f"--work={work}/peers", out, *words]

    def training(name: str, epochs: int) -> list[str]:
        return ["train.py", f"--shards={shards}", *recipe, f"--epochs={epochs}", f"--out={work}/{name}"]

    tests = ["-m", "pytest", "-m", "gpu", "tests/engine", "tests/loaders", "tests/test_train_infer.py"]
    steps = [Step("tests", tests, 60)]
    for name in backbones:
        traced = [f"--trace={work}/records/trace.json.gz"] if name == backbones[0] else []
        steps.append(Step(f"step_{name}", throughput(name, f"--backbone={name}", *step, *traced), 55))
    best = throughput("autotuned", f"--backbone={backbones[0]}", *step, "--autotune", "--plain", *ways)
    inference = ["-m", "benchmarks.inference", f"--shards={shards}", f"--runs={work}/epoch", turns[0]]
    inference += [f"--out={work}/records/inference.json", *(["--images=32", "--device=cpu"] if dry else [])]
    host = ["-m", "benchmarks.host", f"--shards={shards}", f"--out={work}/records/host.json"]
    host += ["--rounds=1", "--steps=4", "--batch-size=8", "--device=cpu"] if dry else []
    steps += [
        Step("host", host, 60),
        Step("epoch", training("epoch", 1), 60),
        Step("fold", training("fold", 2 if dry else 15), 60),  # goes on from its last checkpoint
        Step("inference", inference, 60),
        Step("loaders", throughput("loaders", *loaders), 240),
        Step("loaders_flips", throughput("loaders_flips", *loaders, "--workloads=flips"), 240),
        Step("autotuned", best, 400),
    ]
    return [step._replace(expected=0) for step in steps] if dry else steps


def _run(step: Step, log: Path, seconds: float) -> Verdict:
    """Run a step, its output at the end of `log`; at the limit it is killed with all of its process group."""
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, *step.words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, process_group=0
        )
        try:
            return "FAILED" if process.wait(seconds) else "passed"
        except subprocess.TimeoutExpired:
            return "cut off"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
