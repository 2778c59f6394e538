"""Submissions in the challenge's format, checked against the rows that it expects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.csvtext import read_text
from configs.errors import UserError
from configs.files import written_whole
from loaders.shards import ShardSet
from prep.manifest import SAMPLES

COLUMNS = ("image_name", "target")


@dataclass(frozen=True, kw_only=True)
class Form:
    """The rows that a submission must have, in their order.

    fill: the probability of images without a prediction, None to leave them out.
    """

    keys: tuple[str, ...]
    fill: float | None

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The images that are not among `keys`, those with a prediction."""
        known = set(keys)
        return [key for key in self.keys if key not in known]

    def shortage(self, keys: Sequence[str]) -> str | None:
        """What is wrong with submissions that have predictions of `keys` alone, None where nothing is."""
        missing = self.missing(keys)
        if not missing:
            return None
        without = f"{len(missing):,} of {len(self.keys):,} images have no prediction, first {missing[0]}"
        if self.fill is not None:
            return f"{without}; they have the prior {self.fill:.4f}"
        return f"{without}; Kaggle refuses a file in which rows are missing: add --fill prior, or complete the images"


def expected_rows(shards: ShardSet, split: str, sample: Path | None, fill: float | None) -> Form:
    """The rows of sample_submission.csv where it is given, else every image of the split, also what prep left out.

    Raises UserError if the CSV has other columns, repeats an image, or does not name the split's images.
    """
    columns = pq.read_table(shards.folder / SAMPLES, columns=["key", "split"])
    known = columns["key"].filter(pc.equal(columns["split"], split)).to_pylist()
    if sample is None:
        return Form(keys=tuple(sorted(known)), fill=fill)
    table = read_text(sample, "give the sample_submission.csv of the challenge")
    if tuple(table.columns) != COLUMNS:
        raise UserError(f"{sample} has the columns {', '.join(table.columns)}: expected {', '.join(COLUMNS)}")
    if table.empty:
        raise UserError(f"{sample} has no rows below its header: download it again")
    keys = table[COLUMNS[0]].tolist()
    twice = table[COLUMNS[0]][table[COLUMNS[0]].duplicated()]
    if len(twice):
        raise UserError(f"{sample} names {len(twice)} images twice, first {twice.iloc[0]}: download it again")
    strange = sorted(set(known) - set(keys))
    if strange:
        raise UserError(
            f"{sample} does not name {len(strange)} of the {len(known)} {split} images of {shards.folder}, first "
            f"{strange[0]}: pass the sample_submission.csv of the same test set"
        )
    return Form(keys=tuple(keys), fill=fill)


def write_submission(path: Path, form: Form, keys: Sequence[str], probability: npt.NDArray[np.float64]) -> str:
    """Write image_name,target in the order of `form`, whole or not at all; returns what the user should know."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = dict(zip(keys, probability.tolist(), strict=True))
    shortage = form.shortage(keys)
    if form.fill is not None:
        values |= dict.fromkeys(form.missing(keys), form.fill)
    lines = [f"{key},{values[key]:.9f}" for key in form.keys if key in values]
    with written_whole(path) as file:
        file.write("\n".join([",".join(COLUMNS), *lines, ""]).encode())
    return f"{path}: {len(lines):,} images" + (f"; warning: {shortage}" if shortage else "")
