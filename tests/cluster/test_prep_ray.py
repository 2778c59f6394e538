"""prep/shard.py on two nodes of Ray ends with a local build's bytes, whatever becomes of the second node.

CLUSTER names a folder whose venv/bin/python has Ray beside what the project needs. A link is cut between two network
namespaces, for which ip and root are needed.
"""

import hashlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, write_isic2019, write_isic2020

from configs.errors import UserError
from configs.prep import PrepConfig
from prep.build import build
from prep.ray_workers import _run, _Shared
from prep.stage import Encoding, StageTask, libraries, stage_chunk

_LONGEST = 120.0  # seconds from a fault to the end of the build
_WAIT = 180.0  # for anything else, on a busy machine


@pytest.fixture(scope="module")
def python() -> str:
    found = Path(os.environ.get("CLUSTER", "")).absolute() / "venv" / "bin" / "python"
    if not os.environ.get("CLUSTER") or not found.is_file():
        pytest.skip("needs Ray: set CLUSTER to a folder whose venv/bin/python has it")
    return str(found)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PrepConfig:
    """A set of 1,400 images in 11 chunks and some 70 shards, built on this machine in the folder `out`."""
    root = tmp_path_factory.mktemp("prep-ray")
    isic2020, isic2019 = write_isic2020(root / "2020", 900, 20), write_isic2019(root / "2019", 480)
    config = PrepConfig(isic2020=str(isic2020), isic2019=str(isic2019), out=str(root / "whole"), samples_per_shard=20)
    build(config)
    return config


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def wait_until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + _WAIT
    while not true():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.02)


def with_children(process: "subprocess.Popen[bytes]") -> list[int]:
    """The ids of a process, of all that it started, and so on."""
    found = [process.pid]
    for pid in found:
        with suppress(OSError):  # it has ended
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


def is_working(node: "subprocess.Popen[bytes]") -> bool:
    """Whether a task of prep is under way on a node: Ray names its processes after what they do."""
    for pid in with_children(node):
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_run"):
                return True
    return False


def kill_with_children(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL a process that the test started and all that it started, as a power cut of its node would."""
    for pid in with_children(process):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


@dataclass(kw_only=True)
class Cluster:
    """A head and a second node of Ray, one core each; with `spaces`, each in a network namespace of this name."""

    python: str
    folder: Path
    environment: dict[str, str]
    hosts: tuple[str, str]
    spaces: tuple[str, str] | None
    port: int
    nodes: list["subprocess.Popen[bytes]"]

    def start(self, number: int) -> None:
        """Start the head (0) or the second node (1)."""
        temporary = f"{self.folder}/{number}-{secrets.token_hex(2)}"
        role = [f"--address={self.hosts[0]}:{self.port}"]
        if number == 0:
            role = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        command = [str(Path(self.python).with_name("ray")), "start", *role, f"--node-ip-address={self.hosts[number]}"]
        command += [f"--temp-dir={temporary}", "--num-cpus=1", "--num-gpus=0", "--disable-usage-stats", "--block"]
        with (self.folder / f"{Path(temporary).name}.log").open("wb") as log:
            node = subprocess.Popen([*self.inside(number), *command], env=self.environment, stdout=log, stderr=log)
        self.nodes[number:] = [node]
        wait_until(lambda: list(Path(temporary).glob("session_*/sockets/raylet*")) or node.poll(), "a node is there")
        assert node.poll() is None, log.name

    def inside(self, number: int) -> list[str]:
        return ["ip", "netns", "exec", self.spaces[number]] if self.spaces else []

    def link(self, state: str) -> None:
        assert self.spaces
        subprocess.run(["ip", "-n", self.spaces[0], "link", "set", "eth0", state], check=True)

    def prep(self, config: PrepConfig, out: Path) -> "subprocess.Popen[str]":
        options = [f"--isic2020={config.isic2020}", f"--isic2019={config.isic2019}", f"--out={out}"]
        options += [f"--samples-per-shard={config.samples_per_shard}", "--launch", "ray", "--launch.task-timeout=20"]
        words = [self.python, "prep/shard.py", *options, f"--launch.address={self.hosts[0]}:{self.port}"]
        pipe = subprocess.PIPE
        command = [*self.inside(0), *words]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=pipe, stderr=pipe, text=True)


@contextmanager
def cluster(python: str, *, spaces: bool = False, more: dict[str, str] | None = None) -> Iterator[Cluster]:
    """Both nodes, with `more` in their environment."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie in it
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_health_check_initial_delay_ms": "2000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "5",
        **(more or {}),
    }
    mark = secrets.token_hex(2)
    names = (f"prep{mark}a", f"prep{mark}b") if spaces else None
    hosts = ("10.99.0.1", "10.99.0.2") if spaces else ("127.0.0.1", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    found = Cluster(
        python=python, folder=folder, environment=environment, hosts=hosts, spaces=names, port=port, nodes=[]
    )
    try:
        if names:
            _join(names, hosts)
        found.start(0)
        found.start(1)
        yield found
    finally:
        for node in reversed(found.nodes):
            kill_with_children(node)
        for name in names or ():
            subprocess.run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _join(names: tuple[str, str], hosts: tuple[str, str]) -> None:
    """Make two network namespaces with a link between them."""
    first, second = names
    commands = [f"netns add {first}", f"netns add {second}"]
    commands += [f"link add eth0 netns {first} type veth peer name eth0 netns {second}"]
    for name, host in zip(names, hosts, strict=True):
        commands += [f"-n {name} address add {host}/24 dev eth0"]
        commands += [f"-n {name} link set {device} up" for device in ("lo", "eth0")]
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def with_faults(nodes: Cluster, config: PrepConfig, out: Path, faults: int, cut: bool) -> list[float]:
    """Build once for each fault, which meets the second node while it works; seconds from each fault to the end."""
    wanted, moments, seconds, told = digest(Path(config.out)), random.Random(faults), list[float](), 0
    partial = out.with_name(out.name + ".partial")
    shards = sum(name.endswith(".tar") for name in wanted)
    for _ in range(5 * faults):
        if len(seconds) == faults:
            break
        process = nodes.prep(config, out)
        finished, most = moments.choice([("stage/*.npz", 8), ("*.done.json", shards - 9)])
        met = _meets_work(process, nodes.nodes[1], partial, finished, moments.randrange(most))
        if met and cut:
            nodes.link("down")
        elif met:
            kill_with_children(nodes.nodes[1])
        begin = time.monotonic()
        said, errors = process.communicate(timeout=_LONGEST)
        took = time.monotonic() - begin
        assert process.returncode == 0, said + errors
        assert digest(out) == wanted
        assert [path.name for path in out.parent.iterdir() if path.name.startswith(out.name)] == [out.name]
        shutil.rmtree(out)
        if met:
            seconds.append(took)
            told += "given out again" in errors
            if cut:
                nodes.link("up")
                kill_with_children(nodes.nodes[1])
            nodes.start(1)
    print(
        f"seconds from each fault to the end: {[round(each) for each in seconds]}; in {told} work was given out again"
    )
    assert len(seconds) == faults, "the second node did not work"
    return seconds


def _meets_work(
    process: "subprocess.Popen[str]", node: "subprocess.Popen[bytes]", folder: Path, finished: str, some: int
) -> bool:
    """Wait until `some` files of a pattern are there, and the node works; False where the build has ended before."""
    for true in (lambda: len(list(folder.glob(finished))) >= some, lambda: is_working(node)):
        wait_until(lambda true=true: true() or process.poll() is not None, f"{some} {finished}, and the node works")  # type: ignore[misc]
    return process.poll() is None


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.long)])
def test_a_build_ends_with_the_same_bytes_where_a_node_is_killed(
    python: str, config: PrepConfig, tmp_path: Path, kills: int
) -> None:
    with cluster(python) as nodes:
        assert max(with_faults(nodes, config, tmp_path / "set", kills, cut=False)) < _LONGEST


@pytest.mark.long
def test_a_build_ends_with_the_same_bytes_where_a_link_is_cut(python: str, config: PrepConfig, tmp_path: Path) -> None:
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip")
    with cluster(python, spaces=True) as nodes:
        assert max(with_faults(nodes, config, tmp_path / "set", 10, cut=True)) < _LONGEST


@pytest.mark.long
def test_a_wrong_token_is_told_in_one_line(python: str, config: PrepConfig, tmp_path: Path) -> None:
    with cluster(python) as nodes:
        nodes.environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        process = nodes.prep(config, tmp_path / "set")
        _, errors = process.communicate(timeout=_WAIT)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert "InvalidAuthToken" in errors


# Every Python that is started with this in its path is killed by a JPEG of these bytes.
_DEADLY = """
import os, pathlib, signal, simplejpeg
decode, deadly = simplejpeg.decode_jpeg, pathlib.Path(os.environ["DEADLY"]).read_bytes()
def decode_jpeg(data, *args, **kwargs):
    if data == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(data, *args, **kwargs)
simplejpeg.decode_jpeg = decode_jpeg
"""


@pytest.mark.long
def test_an_image_that_kills_its_reader_is_named(python: str, config: PrepConfig, tmp_path: Path) -> None:
    name = "ISIC_0000100"
    (tmp_path / "sitecustomize.py").write_text(_DEADLY)
    deadly = {"PYTHONPATH": str(tmp_path), "DEADLY": str(Path(str(config.isic2020), "jpeg", "train", f"{name}.jpg"))}
    with cluster(python, more=deadly) as nodes:
        process = nodes.prep(config, tmp_path / "set")
        _, errors = process.communicate(timeout=_WAIT)
    assert process.returncode == 2
    assert f"1 images cannot be used: {deadly['DEADLY']}: the process that read it was killed" in errors


def test_a_node_that_is_not_like_the_others_is_told(tmp_path: Path) -> None:
    (tmp_path / "launch.tmp").write_text("token")
    shared = {"marker": str(tmp_path / "launch.tmp"), "token": "token", "libraries": libraries()}
    encoding = Encoding(size=16, fit="squash", quality=96, subsampling="4:2:0")
    task = StageTask(stem=str(tmp_path / "0"), encoding=encoding, files=((str(tmp_path / "a.jpg"), 1, 0),))
    for other, said in (
        ({"marker": str(tmp_path / "else" / "launch.tmp")}, "does not see .*else: --out must lie in a folder"),
        ({"token": "of another run"}, "does not see"),
        ({"libraries": {**libraries(), "pillow": "1"}}, "install the same versions"),
        ({}, r"does not see .*a\.jpg: all nodes must share"),
    ):
        with pytest.raises(UserError, match=said):
            _run(stage_chunk, task, _Shared(**(shared | other)))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["launch.tmp"]
