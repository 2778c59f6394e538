"""One command line, several members."""

from pathlib import Path

import pytest

from configs.errors import UserError
from configs.grid import parse_grid


def members(*words: str) -> list[tuple[str, int | None, float]]:
    configs = parse_grid(words, prog="train.py", description="")
    return [(config.backbone, config.fold, config.optim.lr) for config in configs]


def test_without_a_grid_there_is_one_member() -> None:
    assert members("--backbone", "tiny") == [("tiny", 0, 3e-3)]
    assert members("--fold=3", "--batch-size", "8") == [("efficientnet_b1", 3, 2e-4)]


def test_every_backbone_has_its_own_recipe_and_every_fold() -> None:
    found = members("--backbone", "tiny", "resnest50", "--fold", "0", "2", "--epochs", "3")
    assert found == [("tiny", 0, 3e-3), ("tiny", 2, 3e-3), ("resnest50", 0, 1e-4), ("resnest50", 2, 1e-4)]


def test_all_folds_are_those_of_the_shard_set(shard_folder: Path) -> None:
    found = members("--shards", str(shard_folder), "--fold", "all", "--backbone", "tiny", "--optim.lr", "0.1")
    assert found == [("tiny", fold, 0.1) for fold in range(3)]


def test_no_fold_is_held_out_by_the_word_none_and_by_null_in_yaml(tmp_path: Path) -> None:
    assert members("--backbone", "tiny", "--fold", "0", "none") == [("tiny", 0, 3e-3), ("tiny", None, 3e-3)]
    (tmp_path / "mine.yaml").write_text("backbone: tiny\nfold: null\n")
    assert members("--config", str(tmp_path / "mine.yaml")) == [("tiny", None, 2e-4)]
    assert members("--config", str(tmp_path / "mine.yaml"), "--fold", "1") == [("tiny", 1, 2e-4)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fold", "all", "--shards", "nowhere"), "nowhere holds no shard set"),
        (("--backbone", "tiny", "tiny"), "given twice"),
        (("--backbone", "--fold", "1"), "--backbone needs a value"),
        (("--fold", "0", "-1"), "fold=-1 is out of range"),
        (("--fold", "0", "all"), "--fold all is no fold: give numbers or none, or all by itself"),
        (("--fold", "1.5"), "--fold 1.5 is no fold"),
        (("--fold", "none", "none"), "given twice"),
    ],
)
def test_an_invalid_grid_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        members(*words)
