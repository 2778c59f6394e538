"""--launch slurm: the members are the entries of one job array, submitted with submitit."""

import io
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import redirect_stderr
from math import inf
from pathlib import Path

from configs.errors import UserError
from configs.launch import LaunchConfig, required
from configs.launcher import STOPPED
from engine.launch import ROOT, STARTS, STOP_SECONDS, Member

_FOLDER = "launch"
"""In OUT: what submitit writes."""
_POLL_SECONDS = 5.0
_UNKNOWN_JOB = "Invalid job id"


def train(members: list[Member], launch: LaunchConfig, out: Path) -> None:
    """Train the members; returns when SLURM has none of them any more, however they ended.

    Raises UserError with the reason if SLURM refuses, and KeyboardInterrupt, once the members are stopped.
    """
    submitit = required("submitit", "slurm")
    optional = {"partition": launch.partition} if launch.partition else {}
    try:
        executor = submitit.SlurmExecutor(folder=out.absolute() / _FOLDER)
        executor.update_parameters(
            job_name=f"{out.name}-members",
            time=launch.minutes,
            nodes=1,
            ntasks_per_node=1,
            cpus_per_task=members[0].cpus,
            array_parallelism=launch.parallelism,
            additional_parameters={"requeue": True},  # where a node is lost
            srun_args=[f"--cpus-per-task={members[0].cpus}"],  # which srun does not take from sbatch since 22.05
            setup=[f"export PYTHONPATH={ROOT}${{PYTHONPATH:+:$PYTHONPATH}}"],
            **({"gpus_per_node": members[0].gpus} if members[0].gpus else {}),
            **optional,
        )
        with redirect_stderr(io.StringIO()):  # submitit prints what it raises
            jobs = executor.map_array(_train_member, members)
    except RuntimeError as error:
        reason = "; ".join(str(error).replace("sbatch: error: ", "").splitlines())
        raise UserError(f"SLURM refuses: {reason}; no member was started") from error
    job = jobs[0].job_id.partition("_")[0]
    print(f"SLURM job {job}, {len(members)} members; its own logs are in {out / _FOLDER}", flush=True)
    try:
        _wait_for(job)
    except KeyboardInterrupt:
        subprocess.run(["scancel", job], check=False)
        print(f"SLURM job {job} is cancelled; its members save within SLURM's KillWait", file=sys.stderr)
        _wait_for(job, seconds=STOP_SECONDS)
        print("the same command continues; nothing goes on", file=sys.stderr)
        raise


def _wait_for(job: str, seconds: float = inf) -> None:
    """Wait until SLURM neither runs the job's entries nor has them queued, for at most `seconds`; say how they stand.

    squeue answers also where SLURM keeps no accounts, which sacct and so submitit's own waiting need.
    """
    said, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        asked = _run("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%T %r")
        entries = asked.stdout.splitlines()
        if not entries and (asked.returncode == 0 or _UNKNOWN_JOB in asked.stderr):
            return
        # Without an answer SLURM's controller is away for a moment: its jobs go on.
        states = Counter(line.lower().replace(" none", "") for line in entries)
        words = ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or asked.stderr.strip()
        if words != said:
            print(f"SLURM job {job}: {words}", flush=True)
            said = words
        time.sleep(_POLL_SECONDS)


def _train_member(member: Member) -> None:
    """An entry of the array, on its node: exits with the member's exit code; one that was stopped is queued again."""
    code = member.run()
    if code == STOPPED and int(os.environ.get("SLURM_RESTART_COUNT") or 0) < STARTS - 1:
        job, entry = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        task = f"{job}_{entry}" if job else os.environ["SLURM_JOB_ID"]  # JOB alone would queue every entry again
        # An entry that the user cancels is completing by now: queued again, it would come back.
        if _run("squeue", "--noheader", f"--jobs={task}", "--format=%T").stdout.strip() == "RUNNING":
            asked = _run("scontrol", "requeue", task)
            print(f"{member.name} was stopped: requeued as {task} {asked.stderr.strip()}", flush=True)
    if code:
        sys.exit(code)


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)
