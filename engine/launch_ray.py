"""--launch ray: a member is a task of Ray, which finds it a GPU, and starts it again if its node or process is lost."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.launch import RAY_PREFIX, LaunchConfig, require_answer, required
from configs.launcher import STOPPED
from engine.launch import STARTS, STOP_SECONDS, Member, last_line

_REFUSED, _INTERRUPTED = 2, 130  # exit codes of the driver


class Interrupted(Exception):  # noqa: N818  not an error
    """A member was stopped with work left; Ray starts it again."""


def train(members: list[Member], launch: LaunchConfig, _: Path) -> None:
    """Train the members; returns when Ray is done with them, however they ended.

    Ray's driver is a process of its own: where the cluster is lost Ray ends it, and gives the reason on stderr alone.
    Raises UserError with the reason if Ray refuses, and KeyboardInterrupt, once the members are stopped.
    """
    required("ray", "ray")
    if launch.address:
        require_answer(launch.address)
    where = f"Ray at {launch.address}" if launch.address else "Ray"
    with tempfile.NamedTemporaryFile() as said:
        driver = multiprocessing.get_context("spawn").Process(target=_drive, args=(members, launch, said.name))
        driver.start()
        try:
            driver.join()
        except KeyboardInterrupt:
            print(f"stopping: the members are saved, within {STOP_SECONDS:.0f} s", file=sys.stderr)
            driver.terminate()
            driver.join()
            print("the same command continues; nothing goes on", file=sys.stderr)
            raise
        reason = RAY_PREFIX.sub("", last_line(Path(said.name)))
    if driver.exitcode == _REFUSED:
        raise UserError(f"{where}: {reason}; no member was started")
    if driver.exitcode:
        print(f"error: {where} is lost: {reason}", file=sys.stderr)


def _drive(members: list[Member], launch: LaunchConfig, said: str) -> None:
    """Ray's driver, with its stderr in the file `said`: exits with _REFUSED before the first task, if at all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the launcher passes it on, once
    os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), sys.stderr.fileno())
    import ray

    try:
        ray.init(
            address=launch.address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if launch.address else {"include_dashboard": False}),
        )
        need = {"GPU": members[0].gpus, "CPU": members[0].cpus}
        _require_node(need, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    except (OSError, RuntimeError, ValueError) as error:
        if not isinstance(error, ConnectionError) or not Path(said).stat().st_size:  # else Ray's line says more
            print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(_REFUSED)
    task = ray.remote(
        num_cpus=need["CPU"], num_gpus=need["GPU"], max_retries=STARTS - 1, retry_exceptions=[Interrupted]
    )(_train_member)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set its own
    tasks = {task.remote(member): member for member in members}
    waiting = list(tasks)
    try:
        while waiting:
            (ended,), waiting = ray.wait(waiting, num_returns=1)
            print(f"{tasks[ended].name}: {_outcome(ray, ended, tasks[ended])}", flush=True)
    except KeyboardInterrupt:
        for each in waiting:
            ray.cancel(each)
        ray.wait(waiting, num_returns=len(waiting), timeout=STOP_SECONDS)
        sys.exit(_INTERRUPTED)


def _require_node(need: dict[str, int], nodes: list[dict[str, float]]) -> None:
    """Raise UserError unless a node has what a member needs: Ray would wait for one."""
    if not any(all(node.get(name, 0) >= number for name, number in need.items()) for node in nodes):
        there = ", ".join(f"{node.get('GPU', 0):.0f} and {node.get('CPU', 0):.0f}" for node in nodes)
        raise UserError(
            f"a member needs {need['GPU']} GPU and {need['CPU']} cores of one node; the nodes have {there}: change "
            "--launch.gpus and --launch.cpus"
        )


def _train_member(member: Member) -> int:
    """The task: returns the member's exit code, or raises Interrupted, upon which Ray starts it again."""
    code = member.run()
    if code == STOPPED:
        raise Interrupted(member.name)
    return code


def _outcome(ray: Any, ended: Any, member: Member) -> str:
    """How a task ended, in words."""
    try:
        return f"exit code {code}: {last_line(member.log)}" if (code := ray.get(ended)) else "done"
    except Exception as error:  # Ray's own, of a lost node or process, or of a member that was stopped too often
        return f"lost: {(str(error).strip() or type(error).__name__).splitlines()[-1]}"
