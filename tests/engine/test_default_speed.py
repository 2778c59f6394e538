"""How a step is run where neither the settings nor --autotune say so."""

from dataclasses import replace

import pytest
import torch

from configs.schema import LoaderConfig, SpeedConfig, TrainConfig
from engine import tune
from engine.default_speed import default_speed, predicts_compiled
from engine.distributed import joined_ranks
from engine.prepare_step import Speed
from engine.tune import chosen_way

NEVER, ALWAYS = 0, 10**9


@pytest.mark.parametrize(
    ("steps", "world_size", "expected"),
    [
        (NEVER, 1, (False, False)),
        (1_000, 1, (False, False)),
        (1_001, 1, (False, True)),
        (4_000, 1, (False, True)),
        (4_001, 1, (True, True)),
        (5_480, 1, (True, True)),  # a fold of the reference recipe
        (ALWAYS, 8, (True, False)),
    ],
)
def test_a_gpu_compiles_and_replays_where_the_steps_to_do_pay_for_it(
    steps: int, world_size: int, expected: tuple[bool, bool]
) -> None:
    assert default_speed(steps, on_gpu=True, world_size=world_size) == expected


def test_a_cpu_stays_eager() -> None:
    assert default_speed(ALWAYS, on_gpu=False, world_size=1) == (False, False)


def test_members_that_predict_are_compiled_where_it_pays_and_never_on_a_cpu() -> None:
    assert [predicts_compiled(passes, on_gpu=True) for passes in (NEVER, 6_000, 6_001)] == [False, False, True]
    assert not predicts_compiled(ALWAYS, on_gpu=False)


def way(monkeypatch: pytest.MonkeyPatch, kind: str, steps: int, config: TrainConfig, known: bool | None) -> Speed:
    """How a run is run, on a GPU or CPU for which --autotune found `known` for both switches; None: nothing."""
    feed = {name: getattr(LoaderConfig(), name) for name in ("cache", "decode", "hw_decoder_load", "prefetch")}
    run = {"channels_last": True, "compile": known, "cuda_graph": known, "placement": "host"}
    found = {} if known is None else {**feed, **run}
    monkeypatch.setattr(tune, "remembered", lambda *_: (found, None))
    with joined_ranks("cpu") as ranks:
        ranks = replace(ranks, device=torch.device(kind))
        chosen, _ = chosen_way(config, ranks, 64, 16, steps=steps)
    return chosen.speed


AUTO = TrainConfig()
ON, OFF = (replace(AUTO, speed=SpeedConfig(compile=word, cuda_graph=word)) for word in ("on", "off"))
SYNCED = replace(AUTO, sync_batchnorm=True)


@pytest.mark.parametrize(
    ("kind", "steps", "config", "known", "expected"),
    [
        ("cuda", ALWAYS, AUTO, None, (True, True)),
        ("cuda", NEVER, AUTO, None, (False, False)),
        ("cpu", ALWAYS, AUTO, None, (False, False)),
        ("cuda", ALWAYS, OFF, None, (False, False)),
        ("cuda", NEVER, ON, None, (True, True)),
        ("cuda", ALWAYS, AUTO, False, (False, False)),
        ("cuda", NEVER, AUTO, True, (True, True)),
        ("cuda", ALWAYS, OFF, True, (False, False)),
        ("cuda", ALWAYS, SYNCED, None, (False, True)),
    ],
)
def test_settings_come_before_what_autotune_found_and_that_before_the_rule(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    steps: int,
    config: TrainConfig,
    known: bool | None,
    expected: tuple[bool, bool],
) -> None:
    speed = way(monkeypatch, kind, steps, config, known)
    assert (speed.compile, speed.cuda_graph) == expected
