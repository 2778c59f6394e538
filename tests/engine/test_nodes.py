"""Nodes that would not train the same, or not into one folder, are told before the first step; each rank is a node."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import ROOT, tiny
from torch.distributed import TCPStore

from configs.schema import LoaderConfig, TrainConfig
from engine.nodes import _facts
from prep.manifest import read_manifest, write_manifest


def ended(*nodes: list[str]) -> tuple[list[int], str]:
    """Exit codes and standard error of train.py on nodes of one rank each, with these words."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    processes = []
    for rank, words in enumerate(nodes):
        numbers = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(nodes)), "LOCAL_WORLD_SIZE": "1"}
        environment = {**os.environ, **address, **numbers, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        command = [sys.executable, "train.py", *words]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
    errors = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], "".join(errors)


def test_a_folder_that_is_not_shared_is_named_with_its_node(shard_folder: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("shared", "own", "shared")]
    codes, errors = ended(*(tiny(shard_folder, out, "--timeout", "0.4") for out in outs))
    assert codes == [2, 2, 2], errors
    host = socket.gethostname()
    said = (
        f"rank 1 on {host} does not see the --out that rank 0 on {host} writes to: give a folder that all nodes share"
    )
    assert errors == f"error: {said}\n"
    assert not outs[1].exists()
    assert not list(outs[0].iterdir())


def test_other_settings_are_named_with_their_node(shard_folder: Path, tmp_path: Path) -> None:
    words = tiny(shard_folder, tmp_path / "runs")
    codes, errors = ended(words, [*words, "--optim.lr", "0.5"])
    assert codes == [2, 2], errors
    host = socket.gethostname()
    said = f"rank 1 on {host} has 0.5 as --optim.lr of tiny/fold0, rank 0 on {host} has 0.003: give the same command"
    assert errors.startswith(f"error: {said}")
    assert errors.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_what_must_be_equal_says_which_packages_sources_and_sets_a_node_has(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(backbone="tiny", shards=str(shard_folder), loader=LoaderConfig(placement="host"))
    before = dict(_facts([config]))
    assert before["the version of torch"] == torch.__version__
    assert "the version of nvidia-dali-cuda130" not in before

    def differing(config: TrainConfig) -> dict[str, str]:
        return {name: value for name, value in _facts([config]) if before.get(name) != value}

    other = shutil.copytree(shard_folder, tmp_path / "other")
    there = replace(config, shards=str(other), out=str(tmp_path))
    assert differing(there) == {}  # the same set in another folder
    write_manifest(replace(read_manifest(other), options={}), other)
    assert list(differing(there)) == ["manifest.json in --shards of tiny/fold0"]
    (other / "manifest.json").unlink()
    assert differing(there) == {"manifest.json in --shards of tiny/fold0": "an error (No such file or directory)"}
    assert "the version of nvidia-dali-cuda130" in differing(replace(config, loader=LoaderConfig()))
    monkeypatch.setattr("engine.nodes._SOURCES", ("train.py",))
    assert list(differing(config)) == ["the SHA-256 of this project's sources"]
