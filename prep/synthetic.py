"""Make a data set of the shape of ISIC 2019 + 2020, for a machine without the real one.

    python prep/synthetic.py --out data/synthetic --train 3000 --test 3000 --size 96 --seed 0

Below OUT lie 2019/ and 2020/, laid out and named as the two downloads are (tables, columns, vocabularies, shares
of nulls, lesions and patients with several images, official duplicates), and truth.csv, which prep never reads:
the true probability of every image. So the best AUC that any model can reach is known.

One thing differs from the real challenge on purpose: the test rows are drawn from both years' distributions, as
the training rows are, though all of them stand in 2020's test.csv with 2020's vocabulary; truth.csv says from
which year each was drawn.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a file: import from the repository root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from configs.cli import parse, run_command
from configs.errors import UserError
from configs.prep import SyntheticConfig
from prep.files import written_whole

if TYPE_CHECKING:
    import pandas as pd

RECIPE = 1  # raise it when the same settings come to mean other bytes
SETTINGS = "settings.json"  # written last: a folder that holds it is whole


def make(config: SyntheticConfig) -> pd.DataFrame:
    """Make the set that `config` asks for, unless OUT holds it whole already; return its rows (see make_cases).

    Raises UserError where OUT holds anything else, or cannot be written.
    """
    from prep.cases import make_cases, pictures, write_tables  # after the parsing, so that --help answers at once
    from prep.lesion import draw_all

    out = Path(config.out).resolve()
    settings = {name: getattr(config, name) for name in ("train", "test", "size", "seed")} | {"recipe": RECIPE}
    cases = make_cases(train=config.train, test=config.test, seed=config.seed)
    if _holds(out, settings):
        print(f"{config.out} holds this data set already")
        return cases
    partial = out.with_name(f"{out.name}.partial")
    try:
        if partial.exists():
            _remove_rest(partial)
        write_tables(cases, partial)
        draw_all(pictures(cases, partial), seed=config.seed, size=config.size, workers=config.workers)
        with written_whole(partial / SETTINGS) as file:
            file.write((json.dumps(settings, indent=2) + "\n").encode())
        partial.rename(out)
    except OSError as error:
        remedy = "see to room and rights there, or name another folder by --out"
        raise UserError(f"{error.filename or partial}: {error.strerror or error}; {remedy}") from error
    return cases


def _remove_rest(partial: Path) -> None:
    """Remove what an interrupted run left, and nothing that is not ours."""
    strange = {entry.name for entry in partial.iterdir()} - {"2019", "2020", "truth.csv", SETTINGS}
    if strange:
        raise UserError(f"{partial} holds {min(strange)}, which is not ours; move it away or choose another --out")
    shutil.rmtree(partial)


def _holds(out: Path, settings: dict[str, int]) -> bool:
    """Whether `out` is whole and made with `settings`; False where nothing is there."""
    if not out.exists():
        return False
    try:
        found = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != settings:
        what = "no synthetic data set" if found is None else f"another set ({found})"
        raise UserError(f"{out} exists and holds {what}; name another folder by --out, or remove this one")
    return True


def main(argv: Sequence[str]) -> None:
    """Parse, make, report."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(SyntheticConfig, argv, prog="python prep/synthetic.py", description=description)
    cases = make(config)
    from prep.cases import describe

    print(f"{config.out}: {config.train:,} training and {config.test:,} test images of {config.size} px")
    print(describe(cases))


if __name__ == "__main__":
    run_command(main)
