"""Every figure of predictions that this project did not make, with intervals over patients or lesions.

    python -m evaluation.metrics PREDICTIONS.csv --target y --score p --group patient_id --source year

The scores may be on any scale; calibration is judged where they are 0 to 1. `python -m evaluation.ensemble` combines
and calibrates several files.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from configs.cli import parse, run_command
from configs.errors import UserError, check, check_ranges, ranged
from configs.files import written_whole
from evaluation.foreign import column, keyed, numbers, read_csv, usual_key
from evaluation.measures import Scored
from evaluation.ranking import group_numbers
from evaluation.shipped import plain
from evaluation.summary import Figure, summary, why_no_probability


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Settings of `python -m evaluation.metrics`."""

    file: str = ""
    """CSV file with a row for each image (may be given without --file, in front)."""
    target: str = "target"
    """Column with 1 for melanoma and 0 for the rest."""
    score: str = "score"
    """Column with the prediction, any numbers, higher being more suspicious."""
    group: str = ""
    """Column with the patient or lesion, whose images are drawn together; default: each row by itself."""
    source: str = ""
    """Column with the source, such as 2019 or 2020; any labels."""
    diagnosis: str = ""
    """Column with the diagnosis: figures are also given without BCC, SCC and AK among the negatives."""
    lesion: str = ""
    """Column with the lesion, empty where it is not known: an AUC is also given by lesion."""
    key: str = ""
    """Column that names the rows in messages; default: image_name, key, isic_id, image or id, if there is one."""
    draws: int = ranged(2000, low=100)
    """Draws of the bootstrap over groups (100 or more)."""
    seed: int = ranged(0, low=0)
    """Seed of the bootstrap."""
    out: str = ""
    """Where to write the figures: a name that ends in .json or .csv."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.file:
            raise UserError("no predictions are given: name one CSV file, such as PREDICTIONS.csv")
        check(self.out == "" or Path(self.out).suffix in (".json", ".csv"), "out", self.out, "end it in .json or .csv")


def main(argv: Sequence[str]) -> None:
    """Parse, read, judge, print, write."""
    words = [f"--file={argv[0]}", *argv[1:]] if argv and not argv[0].startswith("-") else argv
    description = (__doc__ or "").split("\n")[0]
    config = parse(MetricsConfig, words, prog="python -m evaluation.metrics", description=description)
    scored = read(config)
    found = summary(scored, draws=config.draws, seed=config.seed)
    print("\n".join(lines(config, scored, found)))
    if config.out:
        write(found, Path(config.out))
        print(config.out)


def read(config: MetricsConfig) -> Scored:
    """The columns that the settings name. Raises UserError for the file, column or row to mend."""
    file = config.file
    rows = read_csv(Path(file))
    key = config.key or usual_key(rows)
    rows = keyed(rows, key, file) if key else rows
    target = numbers(rows, config.target, file, (0, 1)).to_numpy() == 1
    if target.all() or not target.any():
        raise UserError(f"{file}, column {config.target}: all {len(rows):,} rows are of one class: give both")
    for name in (config.diagnosis, config.lesion):
        if name and name not in rows.columns:
            raise UserError(f"{file} has no column {name!r}; it has {', '.join(rows.columns)}")
    group = column(rows, config.group, file).to_numpy(dtype=str) if config.group else np.arange(len(rows))
    source = column(rows, config.source, file).to_numpy(dtype=str) if config.source else np.full(len(rows), "all")
    return Scored(
        target=target,
        score=numbers(rows, config.score, file, bounded=False).to_numpy(),
        group=group_numbers(group)[0],
        source=source,
        diagnosis=rows[config.diagnosis].fillna("").to_numpy(dtype=str) if config.diagnosis else None,
        lesion=rows[config.lesion].fillna("").to_numpy(dtype=object) if config.lesion else None,
    )


def lines(config: MetricsConfig, scored: Scored, found: Sequence[Figure]) -> Iterator[str]:
    """The figures for the terminal."""
    rows, positives, groups = len(scored.target), int(scored.target.sum()), int(scored.group.max()) + 1
    yield f"{config.file}: {rows:,} rows, {positives:,} melanomas ({positives / rows:.2%}), {groups:,} groups"
    yield f"95 % intervals over groups are from {config.draws:,} draws of whole groups"
    if not config.group:
        yield "note: --group names no column: intervals are too narrow where patients or lesions have several rows"
    about = part = ""
    for each in found:
        if each.about != about:
            yield ""
            yield each.about.capitalize() + _remark(each.about)
        if (each.about, each.part) != (about, part):
            yield f"  {each.part}"
        about, part = each.about, each.part
        yield f"    {each.name:<45} {_written(each)}".rstrip()
    if reason := why_no_probability(scored):
        yield ""
        yield f"Calibration: not judged, {reason}"


def _remark(about: str) -> str:
    if about == "operating point":
        return "s, each the highest threshold that reaches its sensitivity on these rows"
    return ""


def _written(figure: Figure) -> str:
    if figure.name in ("rows", "positives"):
        return f"{figure.value:,.0f}"
    text = f"{figure.value:.4f}"
    if not np.isnan(figure.low):
        text += f" ({figure.low:.4f} to {figure.high:.4f})"
    return text + (f"  {figure.interval}" if figure.name == "AUC" else "")


def write(found: Sequence[Figure], path: Path) -> None:
    """The figures as JSON or CSV, by the ending of `path`; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(figure) for figure in found]
    if path.suffix == ".json":
        text = json.dumps(plain(rows), indent=1, allow_nan=False) + "\n"
    else:
        text = pd.DataFrame(rows).to_csv(index=False)
    with written_whole(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    run_command(main)
