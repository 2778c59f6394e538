"""A SLURM of one node, and two nodes of Ray, on this machine, on ports of their own, for as long as a test needs them.

tests/cluster/install.sh DIR makes what they are started from; CLUSTER names DIR.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODE = "node1"
_SECONDS = 300.0  # to wait for anything, on a machine that is busy
Environment = dict[str, str]


def installed() -> Path:
    """The folder that install.sh made."""
    folder = Path(os.environ.get("CLUSTER", "")).absolute()
    if not os.environ.get("CLUSTER") or not (folder / "venv" / "bin" / "python").is_file():
        pytest.skip("needs Ray, submitit and SLURM: tests/cluster/install.sh DIR, then CLUSTER=DIR")
    return folder


def start_train(environment: Environment, *words: str) -> subprocess.Popen[str]:
    """python train.py, with the packages of `installed`, in a session of its own."""
    return subprocess.Popen(
        [str(installed() / "venv" / "bin" / "python"), "train.py", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def train(environment: Environment, *words: str) -> tuple[int, str]:
    """The exit code of train.py, and what it said."""
    with start_train(environment, *words) as process:
        said, _ = process.communicate(timeout=900)
    return process.returncode, said


def wait_until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.05)


def plain() -> Environment:
    """Of one thread, in which a run is the same bit for bit wherever it takes place."""
    ours = ("RAY_", "SLURM_", "SBATCH_", "RANK", "WORLD_SIZE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@contextmanager
def running(folder: Path, environment: Environment, *commands: list[str]) -> Iterator[None]:
    """Programs that stay in the foreground, each with a log in `folder`, ended in the opposite order."""
    processes = []
    try:
        for command in commands:
            with (folder / f"{Path(command[0]).name}{len(processes)}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        yield
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


_SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
MailProg=/bin/true
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm() -> Iterator[Environment]:
    """munge, slurmctld and a slurmd with two cores; gives the environment in which its commands work."""
    unpacked = installed() / "slurm"
    if os.geteuid():
        pytest.skip("SLURM's daemons need root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munge insists
    programs = unpacked / "usr" / "sbin"
    (libraries,) = {path.parent for path in unpacked.glob("usr/lib/*/slurm-wlm")}
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o600)
    conf = {"host": socket.gethostname(), "node": NODE, "folder": folder, "plugins": libraries / "slurm-wlm"}
    ports = {"controller": free_port(), "daemon": free_port()}
    (folder / "slurm.conf").write_text(_SLURM_CONF.format(**conf, **ports))
    environment = plain() | {
        "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'slurm-wlm'}",
        "PATH": f"{unpacked / 'usr' / 'bin'}:{os.environ['PATH']}",
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    munge = [f"--{name}={folder / file}" for name, file in _MUNGE.items()]
    daemons = (
        [str(programs / "slurmctld-wlm"), "-D"],
        [str(programs / "slurmd-wlm"), "-D", "-N", NODE, "-d", str(programs / "slurmstepd-wlm")],
    )
    with ExitStack() as started:
        started.enter_context(running(folder, environment, [str(programs / "munged"), "--foreground", *munge]))
        wait_until((folder / "munge.sock").exists, "munge listens")
        started.enter_context(running(folder, environment, *daemons))
        wait_until(lambda: "idle" in asked(environment, "sinfo", "--noheader"), "SLURM's node is idle")
        yield environment
        asked(environment, "scancel", "--user=root")
        wait_until(lambda: not asked(environment, "squeue", "--noheader"), "SLURM's queue is empty")
    shutil.rmtree(folder)


_MUNGE = {
    "key-file": "munge.key",
    "socket": "munge.sock",
    "pid-file": "munged.pid",
    "log-file": "munged.log",
    "seed-file": "munged.seed",
}


def asked(environment: Environment, *command: str) -> str:
    """What a command of SLURM says."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip()


@contextmanager
def ray_nodes() -> Iterator[tuple[str, Environment]]:
    """A head and a second node of Ray, one core each, behind a token; gives the address and the environment."""
    ray = str(installed() / "venv" / "bin" / "ray")
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie in it
    address = f"127.0.0.1:{free_port()}"
    environment = plain() | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_health_check_initial_delay_ms": "2000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "5",
    }
    every = ["--num-cpus=1", "--num-gpus=0", "--disable-usage-stats", "--block"]
    port = address.partition(":")[2]
    head = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    with running(folder, environment, [ray, "start", *head, f"--temp-dir={folder}/head", *every]):
        wait_until(lambda: _listens(int(port)), "Ray's head listens")
        other = [ray, "start", f"--address={address}", f"--temp-dir={folder}/other", *every]
        with running(folder, environment, other):
            wait_until(lambda: list(folder.glob("other/session_*/sockets/raylet*")), "Ray's second node is there")
            yield address, environment
    shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
