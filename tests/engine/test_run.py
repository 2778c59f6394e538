"""A run, from its batches to its step."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import tiny

from configs.grid import parse_grid
from configs.schema import LoaderConfig
from engine.distributed import joined_ranks
from engine.evaluate import Predictions, predict
from engine.prepare_step import CompiledNetwork
from engine.run import Run, open_run
from loaders.batch import Batch
from train import train_epoch


def gpu_placement(_: LoaderConfig, __: torch.device) -> tuple[str, str]:
    """In place of loaders.placement.chosen_placement: DALI's GPU graph, which then runs on its CPU backend."""
    return "dali-gpu", ""


@contextmanager
def opened(words: list[str]) -> Iterator[Run]:
    (config,) = parse_grid(words, prog="train.py", description="")
    with joined_ranks("cpu") as ranks, open_run(config, ranks) as run:
        yield run


def eager(run: Run) -> Predictions:
    """Of the held-out fold, by the judged model as it is."""
    trainer, batches = run.trainer, run.data.fold_batches()
    return predict(trainer.judged_model, trainer.objective, batches, run.ranks, autocast=trainer.autocast)


@pytest.mark.parametrize("more", [(), ("--optim.ema", "0.9")])
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_where_the_step_is_compiled_evaluation_is_too_and_says_the_same(
    more: tuple[str, ...], backend: str, shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with opened(tiny(shard_folder, tmp_path, "--fold", "0", "--speed.compile", "on", *more)) as run:
        trainer = run.trainer
        assert isinstance(trainer.judge, CompiledNetwork)
        train_epoch(run)
        found, _ = run.validate()
        assert trainer.judge._compiled is not None
        assert not trainer.remarks
        assert found is not None
        np.testing.assert_allclose(found.probability, eager(run).probability, atol=1e-5, rtol=0)
        assert np.ptp(found.probability) > 1e-3


def test_a_cpu_evaluates_eagerly_by_default(shard_folder: Path, tmp_path: Path) -> None:
    with opened(tiny(shard_folder, tmp_path, "--fold", "0", "--optim.ema", "0.9")) as run:
        assert run.trainer.judge is run.trainer.judged_model


class Failing(torch.nn.Module):
    """What torch.compile gives where compilation fails."""

    def forward(self, *_: torch.Tensor) -> torch.Tensor:
        raise ValueError("no\nsuch operator")


def test_an_evaluation_that_cannot_be_compiled_is_eager_and_says_why(
    shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(tiny(shard_folder, tmp_path, "--fold", "0")) as run:
        trainer = run.trainer
        judge = CompiledNetwork(trainer.judged_model, 16, trainer.remarks.append)
        judge._compiled = Failing()
        found, _ = replace(run, trainer=replace(trainer, judge=judge)).validate()
        assert found is not None
        np.testing.assert_array_equal(found.probability, eager(run).probability)
        assert trainer.remarks == ["torch.compile failed: ValueError: no"]
    assert "torch.compile failed: ValueError: no" in capsys.readouterr().out


def test_a_step_finds_no_earlier_batch_alive(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a captured step copies from is a view of DALI's own buffer, which DALI has back before the next step."""
    monkeypatch.setattr("loaders.loader.chosen_placement", gpu_placement)
    words = tiny(shard_folder, tmp_path, "--fold", "0", "--epochs", "1", "--device", "cpu", "--loader.decode", "cpu")
    given: list[weakref.ref[torch.UntypedStorage]] = []
    alive: list[int] = []

    def step(batch: Batch) -> torch.Tensor:
        alive.append(sum(storage() is not None for storage in given))
        given.append(weakref.ref(batch.image.untyped_storage()))
        assert given[-1]() is not None
        return trained(batch)

    with opened(words) as run:
        trained = run.trainer.step
        assert run.data.loader.placement == "dali-gpu"
        train_epoch(replace(run, trainer=replace(run.trainer, step=step)))  # type: ignore[arg-type]
        steps = run.data.samples.partition.steps
    assert alive == [0] * steps
    assert steps > 3
