"""Combine, calibrate and score predictions that this project did not make, one CSV file for each model.

    python -m evaluation.ensemble A.csv B.csv --truth train.csv --target target --fold fold --group patient_id

The predictions must be out-of-fold: made by models that were not trained on the sample. The parts that this project's
own ensembles use are in evaluation/judgement.py (the verdict) and evaluation/shipped.py (what is shipped).
"""

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from configs.cli import parse, run_command
from configs.files import written_whole
from evaluation.foreign import ForeignConfig, read_foreign
from evaluation.judgement import Judgement, judge
from evaluation.text import lines


def main(argv: Sequence[str]) -> None:
    """Parse, read, judge, print, write."""
    files = list(takewhile(lambda word: not word.startswith("-"), argv))
    words = [f"--files={json.dumps(files)}", *argv[len(files) :]] if files else argv
    description = (__doc__ or "").split("\n")[0]
    config = parse(ForeignConfig, words, prog="python -m evaluation.ensemble", description=description)
    oof, remarks = read_foreign(config)
    for remark in remarks:
        print(f"note: {remark}")
    found = judge(oof, combine=config.combine, per_source=config.per_source, draws=config.draws, seed=config.seed)
    print("\n".join(lines(found)))
    if config.out:
        write(found, Path(config.out))
        print(config.out)


def write(found: Judgement, path: Path) -> None:
    """The figures as JSON or the rows as CSV, by the ending of `path`; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        text = json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n"
    else:
        columns: dict[str, Any] = {"key": found.oof.key, "fold": found.oof.fold}
        columns |= {"target": found.oof.target.astype(int), "raw": found.raw, "rank": found.rank}
        if found.calibrated is not None:
            columns["calibrated"] = found.calibrated
        text = pd.DataFrame(columns).to_csv(index=False)
    with written_whole(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    run_command(main)
