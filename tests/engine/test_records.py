"""metrics.jsonl: what can be read of it is kept, whatever else is in it."""

import json
from pathlib import Path

import pytest

from configs.schema import TrainConfig
from engine.records import Records, damaged_lines, epoch_lines, member_folder

GOOD = [{"epoch": 0, "step": 3, "loss": 0.5}, {"epoch": 0, "auc": 0.7}, {"epoch": 1, "step": 3, "loss": None}]
BAD = [
    b'{"epoch": 1, "st',
    b"\0\0\0\0",
    b"",
    b"hello",
    b"[1, 2]",
    b'{"auc": 0.5}',
    b'{"epoch": "1"}',
    b"\xff\xfe{",
    b"[" * 10000,
]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(backbone="tiny", out=str(tmp_path / "runs[bold] :smile:"))


def written(config: TrainConfig, *bad: bytes) -> Path:
    folder = member_folder(config)
    folder.mkdir(parents=True)
    lines = [json.dumps(line).encode() for line in GOOD]
    (folder / "metrics.jsonl").write_bytes(b"\n".join([lines[0], *bad, *lines[1:]]) + b"\n")
    return folder


@pytest.mark.parametrize("bad", BAD)
def test_a_line_that_cannot_be_read_is_dropped_and_said(
    bad: bytes, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(config, bad)
    assert (epoch_lines(folder), damaged_lines(folder)) == ([GOOD[1]], 1)
    with Records(folder, config, {}) as records:
        records.forget(1, 3)
    assert f"{folder}/metrics.jsonl: 1 line(s) cannot be read" in capsys.readouterr().out
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == GOOD


def test_a_torn_last_line_is_dropped(config: TrainConfig) -> None:
    folder = written(config)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "step": 4, "loss": 0.')
    with Records(folder, config, {}) as records:
        records.forget(1, 3)
        records.step(1, 4, 10, {"loss": 0.25})
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == [*GOOD, {"epoch": 1, "step": 4, "loss": 0.25}]


def test_a_path_is_printed_as_it_is(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(config)
    with Records(folder, config, {}) as records:
        records.say(f"{folder}: [/old] best :smile: [red]")
    assert capsys.readouterr().out == f"{folder}: [/old] best :smile: [red]\n"
