"""Check a shard set: hashes, then every sample inside, then the folds. Names what is damaged; exit code 1.

python prep/verify.py shards/isic            # everything
python prep/verify.py shards/isic --quick    # the files' hashes only
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: import from the repository root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from configs.cli import parse, run_command
from configs.prep import VerifyConfig


def main(argv: Sequence[str]) -> None:
    """Parse, check, list the damage."""
    if argv and not argv[0].startswith("-"):
        argv = ["--shards", *argv]
    config = parse(VerifyConfig, argv, prog="python prep/verify.py", description=(__doc__ or "").split("\n")[0])
    from prep.check import check_set  # after the parsing, so that --help answers at once
    from prep.manifest import read_manifest

    damage = check_set(Path(config.shards), quick=config.quick, workers=config.workers)
    if damage:
        remedy = "copy the damaged files again, or build the set again"
        print(*damage, f"{config.shards}: {len(damage)} problems: {remedy}", sep="\n", file=sys.stderr)
        sys.exit(1)
    print(f"{config.shards}: sound ({'hashes' if config.quick else 'hashes, every sample, folds'})")
    unsafe = read_manifest(Path(config.shards)).unsafe
    if unsafe:
        print(f"warning: it was {unsafe}")


if __name__ == "__main__":
    run_command(main)
