"""A run, from its batches to its step."""

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import tiny

from configs.grid import parse_grid
from configs.schema import LoaderConfig
from engine.distributed import joined_ranks
from engine.run import open_run
from loaders.batch import Batch
from train import train_epoch


def gpu_placement(_: LoaderConfig, __: torch.device) -> tuple[str, str]:
    """In place of loaders.placement.chosen_placement: DALI's GPU graph, which then runs on its CPU backend."""
    return "dali-gpu", ""


def test_a_step_finds_no_earlier_batch_alive(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a captured step copies from is a view of DALI's own buffer, which DALI has back before the next step."""
    monkeypatch.setattr("loaders.loader.chosen_placement", gpu_placement)
    words = tiny(shard_folder, tmp_path, "--fold", "0", "--epochs", "1", "--device", "cpu", "--loader.decode", "cpu")
    (config,) = parse_grid(words, prog="train.py", description="")
    given: list[weakref.ref[torch.UntypedStorage]] = []
    alive: list[int] = []

    def step(batch: Batch) -> torch.Tensor:
        alive.append(sum(storage() is not None for storage in given))
        given.append(weakref.ref(batch.image.untyped_storage()))
        assert given[-1]() is not None
        return trained(batch)

    with joined_ranks("cpu") as ranks, open_run(config, ranks) as run:
        trained = run.trainer.step
        assert run.data.loader.placement == "dali-gpu"
        train_epoch(replace(run, trainer=replace(run.trainer, step=step)))  # type: ignore[arg-type]
        steps = run.data.samples.partition.steps
    assert alive == [0] * steps
    assert steps > 3
