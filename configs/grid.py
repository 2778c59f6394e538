"""One command line, several members: --backbone A B --fold 0 1, or --fold all."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.cli import parse, with_recipe
from configs.errors import UserError
from configs.schema import TrainConfig

_ALL = "all"


def parse_grid(argv: Sequence[str], *, prog: str, description: str) -> list[TrainConfig]:
    """A checked config for each backbone and fold that `argv` names, backbone by backbone, with its own recipe."""
    rest, backbones = _taken(argv, "--backbone")
    rest, folds = _taken(rest, "--fold")
    configs: list[TrainConfig] = []
    for backbone in backbones or [TrainConfig.backbone]:
        named = [f"--backbone={backbone}"] if backbones else []
        words = with_recipe([*rest, *named], backbone)
        if folds == [_ALL]:
            config = parse(TrainConfig, words, prog=prog, description=description)
            members = [replace(config, fold=fold) for fold in range(_folds_of(Path(config.shards)))]
        else:
            members = [
                parse(TrainConfig, [*words, *fold], prog=prog, description=description)
                for fold in ([[f"--fold={fold}"] for fold in folds] or [[]])
            ]
        # What was found for one fold holds for the others.
        configs += [members[0], *(replace(config, autotune=False) for config in members[1:])]
    names = [(config.backbone, config.fold) for config in configs]
    if len(set(names)) < len(names):
        raise UserError("a backbone and fold are named twice: name each once")
    return configs


def _taken(argv: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """`argv` without `option`, and all values that followed it: --fold 0 1 2 or --fold=0."""
    rest: list[str] = []
    values: list[str] = []
    taking = False
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            taking = name == option
            if not taking:
                rest.append(word)
            elif equals:
                values.append(value)
        elif taking:
            values.append(word)
        else:
            rest.append(word)
    if any(word.partition("=")[0] == option for word in argv) and not values:
        raise UserError(f"{option} needs a value: give one or several")
    return rest, values


def _folds_of(shards: Path) -> int:
    """Number of folds of a shard set, from its manifest alone."""
    try:
        counts = json.loads((shards / "manifest.json").read_text())["counts"]
        return 1 + max(int(row["fold"]) for row in counts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shards} holds no shard set whose folds could be counted: {error}") from error
