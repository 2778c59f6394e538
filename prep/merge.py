"""The merged master table of ISIC 2019 and 2020, alone: one row a training image, with its fold.

    python prep/merge.py --isic2020 DIR --isic2019 DIR --out train_merged_master.csv

Columns: image_name, target, year, filepath, patient, lesion, sex, age, site, diagnosis, group, fold. An image that
does not exist has no filepath. prep/shard.py takes the file as --master, and its folds as --folds-file.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: import from the repository root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from configs.cli import parse, run_command
from configs.prep import MergeConfig


def main(argv: Sequence[str]) -> None:
    """Parse, merge, print the summary."""
    config = parse(MergeConfig, argv, prog="python prep/merge.py", description=(__doc__ or "").split("\n")[0])
    from prep.master import write_master  # after the parsing, so that --help answers at once

    print(write_master(config))


if __name__ == "__main__":
    run_command(main)
