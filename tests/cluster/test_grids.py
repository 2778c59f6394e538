"""--launch slurm and ray, by the real SLURM and two real nodes of Ray."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from commands import all_lines
from engines import Environment, asked, free_port, plain, ray_nodes, slurm, start_train, train, wait_until

BACKBONES = ("tiny", "test_resnet.r160_in1k")
MEMBERS = [f"{backbone}/fold{fold}" for backbone in BACKBONES for fold in (0, 1)]
SMALL = ("--launch.cpus", "1", "--launch.gpus", "0")


def grid(shards: Path, out: Path, *more: str) -> list[str]:
    recipe = ("--epochs=2", "--patience=0", "--batch-size=16", "--log-every=1", "--weights=none", "--loader.threads=1")
    return ["--shards", str(shards), "--out", str(out), "--fold", "0", "1", *recipe, *more]


@pytest.fixture(scope="module")
def slurm_cluster() -> Iterator[Environment]:
    with slurm() as environment:
        yield environment


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[tuple[str, Environment]]:
    with ray_nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def sequential(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The members, one after the other in one process."""
    out = tmp_path_factory.mktemp("sequential")
    code, said = train(plain(), *grid(synthetic_shards, out, "--backbone", *BACKBONES))
    assert code == 0, said
    return out


def assert_same_predictions(one: Path, two: Path, members: list[str]) -> None:
    for name in members:
        assert (one / name / "oof.parquet").read_bytes() == (two / name / "oof.parquet").read_bytes(), name


def one_line(said: str) -> str:
    """What was said after the line that a grid begins with: one line."""
    lines = said.splitlines()
    assert len(lines) == 2, said
    assert "members to train by" in lines[0], said
    return lines[1]


def trainer_of(folder: Path) -> int:
    """The process that trains the member in `folder`, once it has done a step."""
    wait_until(lambda: (folder / "metrics.jsonl").is_file() and all_lines(folder), f"{folder} has a step")
    found = re.match(r"pid (\d+)", (folder / "train.lock").read_text())
    assert found
    return int(found[1])


def daemons_of(job: str) -> list[str]:
    """What SLURM runs a job with on this host, by name."""
    names = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            names.append(path.read_text(errors="replace"))
    return [name for name in names if re.match(rf"slurmstepd\S*: \[{job}\.", name)]


def parent_of(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid:"))
    return int(line.split()[1])


def test_slurm_refuses_an_unknown_partition_in_one_line(
    slurm_cluster: Environment, synthetic_shards: Path, tmp_path: Path
) -> None:
    launch = ("--launch", "slurm", *SMALL, "--launch.partition", "nowhere")
    code, said = train(slurm_cluster, *grid(synthetic_shards, tmp_path, "--backbone", "tiny", *launch))
    assert code == 2
    assert one_line(said).startswith("error: SLURM refuses: invalid partition specified: nowhere")


def test_ray_refuses_a_wrong_token_and_what_no_node_has_in_one_line(
    ray_cluster: tuple[str, Environment], synthetic_shards: Path, tmp_path: Path
) -> None:
    address, environment = ray_cluster
    words = grid(synthetic_shards, tmp_path, "--backbone", "tiny", "--launch", "ray", "--launch.address")
    wrong = environment | {"RAY_AUTH_TOKEN": "0" * 64}
    code, said = train(wrong, *words, address, *SMALL)
    assert code == 2
    assert re.match(rf"error: Ray at {address}: .*token is missing or incorrect; no member was", one_line(said)), said
    code, said = train(environment, *words, address, "--launch.cpus", "3", "--launch.gpus", "0")
    assert code == 2
    assert "a member needs 0 GPU and 3 cores of one node; the nodes have 0 and 1, 0 and 1:" in one_line(said)
    code, said = train(environment, *words, f"127.0.0.1:{free_port()}", *SMALL)
    assert code == 2
    assert one_line(said).startswith("error: Ray does not answer at 127.0.0.1:")


@pytest.mark.long
@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_launched_members_predict_what_a_sequential_run_does_and_one_fails_alone(
    engine: str, sequential: Path, synthetic_shards: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cluster = request.getfixturevalue(f"{engine}_cluster")
    address, environment = cluster if engine == "ray" else ("", cluster)
    launch = ("--launch", engine, *SMALL, *(("--launch.address", address) if address else ()))
    words = grid(synthetic_shards, tmp_path, "--backbone", *BACKBONES, "no_such_network", *launch)
    code, said = train({**environment, "COLUMNS": "200"}, *words)
    assert code == 2
    assert "error: not finished: no_such_network/fold0, no_such_network/fold1; the same command" in said
    assert len(re.findall(r"failed: error: .*no_such_network", said)) == 2, said
    assert_same_predictions(sequential, tmp_path, MEMBERS)
    code, said = train(environment, *words)
    assert code == 2
    assert said.startswith("2 of 6 members to train"), "what is finished is not started again"


@pytest.mark.long
def test_slurm_queues_a_member_again_alone_that_was_sent_sigterm(
    slurm_cluster: Environment, sequential: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    words = grid(synthetic_shards, tmp_path, "--backbone", "tiny", "--launch", "slurm", *SMALL)
    with start_train(slurm_cluster, *words) as launcher:
        trainer = trainer_of(tmp_path / "tiny" / "fold0")
        queue = ("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %r %A")
        assert daemons_of("[0-9]+")
        os.kill(trainer, signal.SIGTERM)
        wait_until(lambda: "BeginTime" in asked(slurm_cluster, *queue), "the member is queued again")
        entry, reason, job = asked(slurm_cluster, *queue).split()
        assert re.fullmatch(r"\d+_0", entry), "alone"
        assert reason == "BeginTime"
        # SLURM would start it in two minutes. At once, it may take the end of the first start for that of the second.
        wait_until(lambda: not daemons_of(job), "the first start has ended")
        asked(slurm_cluster, "scontrol", "update", f"jobid={entry}", "StartTime=now")
        said, _ = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, said
    logs = [(tmp_path / "tiny" / name / "train.log").read_text() for name in ("fold0", "fold1")]
    assert ["stopped by SIGTERM" in log for log in logs] == ["continuing after" in log for log in logs] == [True, False]
    assert_same_predictions(sequential, tmp_path, MEMBERS[:2])


@pytest.mark.long
def test_ray_starts_members_again_one_that_was_sent_sigterm_and_one_whose_worker_was_killed(
    ray_cluster: tuple[str, Environment], sequential: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    address, environment = ray_cluster
    launch = ("--launch", "ray", "--launch.address", address, *SMALL)
    with start_train(environment, *grid(synthetic_shards, tmp_path, "--backbone", "tiny", *launch)) as launcher:
        stopped, killed = (trainer_of(tmp_path / "tiny" / fold) for fold in ("fold1", "fold0"))
        os.kill(stopped, signal.SIGTERM)
        os.kill(parent_of(killed), signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{killed}").exists(), "it ends with Ray's worker")
        said, _ = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, said
    log = (tmp_path / "tiny" / "fold1" / "train.log").read_text()
    assert "stopped by SIGTERM" in log
    assert "continuing after" in log
    assert "stopped" not in (tmp_path / "tiny" / "fold0" / "train.log").read_text(), "alone"
    assert f"pid {killed} " not in (tmp_path / "tiny" / "fold0" / "train.writer").read_text(), "started again"
    assert_same_predictions(sequential, tmp_path, MEMBERS[:2])


@pytest.mark.long
@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_an_interrupted_launcher_stops_its_members_which_are_saved(
    engine: str, synthetic_shards: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cluster = request.getfixturevalue(f"{engine}_cluster")
    address, environment = cluster if engine == "ray" else ("", cluster)
    launch = ("--launch", engine, *SMALL, *(("--launch.address", address) if address else ()))
    words = grid(synthetic_shards, tmp_path, "--backbone", "tiny", "--epochs", "50", *launch)
    with start_train(environment, *words) as launcher:
        pids = [trainer_of(tmp_path / "tiny" / fold) for fold in ("fold0", "fold1")]
        os.killpg(launcher.pid, signal.SIGINT)
        said, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 130, said
    assert "the same command continues; nothing goes on" in said
    for pid, fold in zip(pids, ("fold0", "fold1"), strict=True):
        assert not Path(f"/proc/{pid}").exists()
        assert "stopped by SIGTERM" in (tmp_path / "tiny" / fold / "train.log").read_text()
    if engine == "slurm":
        assert not asked(environment, "squeue", "--noheader"), "what the user cancels does not come back"
