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

from configs.cli import parse, run_command
from configs.prep import PrepConfig


def main(argv: Sequence[str]) -> None:
    """Parse, build, print the summary."""
    config = parse(PrepConfig, argv, prog="python prep/shard.py", description=(__doc__ or "").split("\n")[0])
    from prep.build import build  # after the parsing, so that --help answers at once

    print(build(config))


if __name__ == "__main__":
    run_command(main)
