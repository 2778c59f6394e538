"""From the ISIC downloads to a shard set.

    python prep/shard.py --isic2020 DIR --isic2019 DIR --out shards/isic

The set is built in OUT.partial and renamed when it is complete. After an interruption the next run continues from the
last finished shard; a second run with the same inputs and options changes nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: import from the repository root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from configs.cli import parse, run_command, values_of
from configs.prep import PrepConfig


def main(argv: Sequence[str]) -> None:
    """Parse, build, print the summary."""
    (launch,), rest = values_of(argv, "--launch")
    words = [*rest, *(f"--launch.by={word}" for word in launch)]
    config = parse(PrepConfig, words, prog="python prep/shard.py", description=(__doc__ or "").split("\n")[0])
    from prep.build import build  # after the parsing, so that --help answers at once

    print(build(config))


if __name__ == "__main__":
    run_command(main)
