"""Make a data set of the shape of ISIC 2019 + 2020, for a machine without the real one.

    python prep/synthetic.py --out data/synthetic --train 3000 --test 3000 --size 96 --seed 0

OUT has 2019/ and 2020/, structured and named like the two downloads (tables, vocabularies, shares of nulls, lesions and
patients with several images, official duplicates), and truth.csv, which prep never reads, with the true probability of
every image: so the best AUC that any model can reach is known. Unlike the challenge's, the test rows are drawn from
both years' distributions, though all are in 2020's test.csv with 2020's vocabulary; truth.csv has the year of each.

--plant rulers makes a set with a shortcut, to test what should notice it: a ruler in most of the melanomas' training
images, in few of the others, and in none of the test images.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: import from the repository root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from configs.cli import parse, run_command
from configs.prep import SyntheticConfig


def main(argv: Sequence[str]) -> None:
    """Parse, make the set, print what it is."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(SyntheticConfig, argv, prog="python prep/synthetic.py", description=description)
    from prep.synth.cases import describe  # after the parsing, so that --help answers at once
    from prep.synth.folder import make

    cases = make(config)
    print(f"{config.out}: {config.train:,} training and {config.test:,} test images of {config.size} px")
    print(describe(cases))


if __name__ == "__main__":
    run_command(main)
