"""One command line, several members: --backbone A B --fold 0 1 none, or --fold all."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.cli import parse, values_of, with_recipe
from configs.errors import UserError
from configs.prep import MOST_FOLDS
from configs.schema import TrainConfig


def parse_grid(argv: Sequence[str], *, prog: str, description: str) -> list[TrainConfig]:
    """A checked config for each backbone and fold that `argv` names, backbone by backbone, with its own recipe."""
    (backbones, folds, launch), rest = values_of(argv, "--backbone", "--fold", "--launch")
    if len(launch) > 1:
        raise UserError(f"--launch {' '.join(launch)}: give one of none, ray and slurm")
    rest += [f"--launch.by={word}" for word in launch]
    configs: list[TrainConfig] = []
    for backbone in backbones or [TrainConfig.backbone]:
        named = [f"--backbone={backbone}"] if backbones else []
        words = with_recipe([*rest, *named], backbone)
        if folds == ["all"]:
            config = parse(TrainConfig, words, prog=prog, description=description)
            members = [replace(config, fold=fold) for fold in range(_folds_of(Path(config.shards)))]
        else:
            members = [
                parse(TrainConfig, [*words, *fold], prog=prog, description=description)
                for fold in ([[_fold_option(fold)] for fold in folds] or [[]])
            ]
        # The result of --autotune for one fold applies to the others.
        configs += [members[0], *(replace(config, autotune=False) for config in members[1:])]
    by = configs[0].launch.by
    if by != "none" and any(config.resume == "never" for config in configs):
        raise UserError(f"--resume never would start a member again whenever {by} does: choose another --out")
    names = [(config.backbone, config.fold) for config in configs]
    if len(set(names)) < len(names):
        raise UserError("the same backbone and fold are given twice: give each once")
    return configs


def member_words(argv: Sequence[str], config: TrainConfig) -> list[str]:
    """The words after train.py that train one member of the grid `argv` alone, in the process that they start."""
    (backbones, *_), rest = values_of(argv, "--backbone", "--fold", "--launch")
    backbone = [f"--backbone={config.backbone}"] if backbones else []
    return [*rest, *backbone, f"--fold={config.fold_word}", "--launch.by=none"]


def _fold_option(word: str) -> str:
    """The option that parses as the fold `word`: a number, or none, which YAML calls null."""
    if word != "none" and not word.removeprefix("-").isdecimal():
        raise UserError(f"--fold {word} is no fold: give numbers or none, or all by itself")
    return f"--fold={word}".replace("none", "null")


def _folds_of(shards: Path) -> int:
    """Number of folds of a shard set, from its manifest alone; each member checks the set when it opens it."""
    path, folds = shards / "manifest.json", 0
    try:
        if path.is_file():  # else a pipe would be waited for
            folds = 1 + max(int(row["fold"]) for row in json.loads(path.read_text())["counts"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{shards} holds no shard set whose folds can be counted ({error}): check --shards") from error
    if not 1 <= folds <= MOST_FOLDS:
        raise UserError(f"{shards} holds no shard set whose folds can be counted ({folds} folds): check --shards")
    return folds
