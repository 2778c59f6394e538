"""Options as people mistype them: nothing is guessed, and what was probably meant is named."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT

from configs.cli import parse, run_command
from configs.errors import UserError
from configs.grid import parse_grid
from configs.infer import InferConfig
from configs.prep import MergeConfig, PrepConfig, SyntheticConfig, VerifyConfig
from configs.report import ReportConfig
from configs.schema import ShowConfig, TrainConfig
from evaluation.foreign import ForeignConfig

KINDS: list[type[Any]] = [TrainConfig, InferConfig, PrepConfig, MergeConfig, VerifyConfig, SyntheticConfig]
KINDS += [ReportConfig, ShowConfig, ForeignConfig]


@pytest.mark.parametrize("kind", KINDS)
def test_no_command_takes_an_abbreviation_and_each_names_the_option(kind: type[Any]) -> None:
    with pytest.raises(UserError, match=r"^--see: no such option; did you mean --seed\?|^--shar: .* --shards\?"):
        parse(kind, ["--see" if hasattr(kind, "seed") else "--shar", "1"], prog="command", description="")


def grid(words: Sequence[str]) -> object:
    return parse_grid(words, prog="train.py", description="")


def prep(words: Sequence[str]) -> object:
    return parse(PrepConfig, words, prog="shard.py", description="")


@pytest.mark.parametrize(
    ("read", "words", "said"),
    [
        (grid, ["--back", "tiny"], "--back: no such option; did you mean --backbone?"),
        (grid, ["--fol", "all"], "--fol: no such option; did you mean --fold?"),
        (grid, ["--fol=all"], "--fol: no such option; did you mean --fold?"),
        (grid, ["--bakbone", "tiny"], "--bakbone: no such option; did you mean --backbone?"),
        (grid, ["-backbone", "tiny"], "-backbone: no such option; did you mean --backbone?"),
        (grid, ["--batch_siz", "8"], "--batch_siz: no such option; did you mean --batch-size?"),
        (grid, ["--optim.l", "1"], "--optim.l: no such option; did you mean --optim.lr?"),
        (grid, ["--optm.lr", "1"], "--optm.lr: no such option; did you mean --optim.lr?"),
        (grid, ["--lr", "1"], "--lr: no such option; did you mean --optim.lr?"),
        (grid, ["--loader.place", "host"], "--loader.place: no such option; did you mean --loader.placement?"),
        (grid, ["--xyzzy", "1"], "--xyzzy: no such option (see"),
        (grid, ["--precision", "fp33"], "did you mean fp32?"),
        (grid, ["--optim.lr", "fast"], 'key "optim.lr"'),
        (grid, ["--autotune=ture"], "did you mean true?"),
        (prep, ["--isic2020", "x", "--fit", "crp"], "did you mean crop?"),
        (prep, ["--isic2020", "x", "--duplicate", "drop"], "did you mean --duplicates?"),
        (prep, ["--isic2020", "x", "--duplicates", "kep"], "did you mean keep?"),
        (prep, ["--isic2020", "x\udce9"], "is not UTF-8: rename the file or folder"),
    ],
)
def test_what_was_probably_meant_is_named(read: Callable[[Sequence[str]], object], words: list[str], said: str) -> None:
    with pytest.raises(UserError) as raised:
        read(words)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("yaml", "said"), [("epoch: 3\n", "did you mean epochs?"), ("optim:\n  lrr: 3\n", "did you mean optim.lr?")]
)
def test_a_misspelt_key_of_a_recipe_is_named_with_the_right_one(yaml: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml)
    with pytest.raises(UserError) as raised:
        grid(["--config", str(tmp_path / "mine.yaml")])
    assert said in str(raised.value)
    with pytest.raises(UserError, match=r"did you mean .*mine\.yaml\?"):
        grid(["--config", str(tmp_path / "mime.yaml")])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"seed: seven\n", "Got value: seven"),
        (b"- 1\n", "Unexpected config"),
        (b"optim:\n    ema: 0.5\n  lr: 1\n", "line 3, column 3"),
        (b"seed: 1\x01\n", "unacceptable character"),
        (b"seed: \xff\n", "is not UTF-8 (byte 6)"),
    ],
)
@pytest.mark.parametrize("words", [["--config=good.yaml", "--config=bad.yaml"], ["--config", "bad.yaml", "--seed=1"]])
def test_a_recipe_that_cannot_be_used_is_named(
    content: bytes, said: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text("seed: 3\n")
    Path("bad.yaml").write_bytes(content)
    with pytest.raises(UserError) as raised:
        grid(words)
    assert str(raised.value).startswith("bad.yaml")
    assert said in str(raised.value)
    assert "unicode string" not in str(raised.value)


def test_what_is_no_option_but_looks_like_one_still_passes() -> None:
    config = parse(InferConfig, ["--prevalence", "1e-2", "--image+=a", "--image+=b"], prog="infer.py", description="")
    assert (config.prevalence, config.image) == (0.01, ["a", "b"])
    assert parse(TrainConfig, ["--batch-size", "8", "--optim.weight-decay=0"], prog="", description="").batch_size == 8


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locales")
def test_a_locale_without_utf8_changes_nothing(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if name not in ("LANG", "PYTHONIOENCODING")}
    environment = {**bare, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ["--isic2020", str(downloads[0]), "--out", str(tmp_path / "is é"), "--size", "32", "--workers", "1"]

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, check=False, encoding="utf-8"
        )

    made = run("prep/shard.py", *words)
    assert (made.returncode, made.stderr) == (0, "")
    opened = run("infer.py", "--shards", str(tmp_path / "is é"), "--runs", str(tmp_path))
    assert opened.returncode == 2
    assert opened.stderr.count("\n") == 1
    assert "no trained member" in opened.stderr


def test_a_locale_that_cannot_be_changed_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    monkeypatch.setenv("PYTHONUTF8", "1")
    with pytest.raises(SystemExit, match="2"):
        run_command(lambda _: pytest.fail("the command was started"))
    assert capsys.readouterr().err == "error: file names are read as ascii: set LC_ALL=C.UTF-8\n"
