"""overview.png: the first images of a shard set by split, source and target."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import simplejpeg
from PIL import Image, ImageDraw, ImageFont

_EACH = 8  # images of a line
_EDGE, _GAP, _MARGIN = 120, 14, 130  # pixels of an image, above each, and left of all
_TARGETS = {1: "melanoma", 0: "no melanoma", -1: "label unknown"}
_SPLITS = ("train", "test", "extra")
_READ = ["key", "split", "source", "subsource", "target", "shard", "offset", "length"]


def draw_overview(rows: pd.DataFrame, folder: Path, out: BinaryIO) -> None:
    """Draw the first images of each split, sub-source and target, one line each, as a PNG.

    Reads what `_READ` and left_out say of the rows, and the shards in `folder`.
    """
    by_kind = rows.loc[rows["left_out"].isna(), _READ].groupby(["split", "subsource", "target"])
    sizes = by_kind["key"].transform("size")
    shown = by_kind.head(_EACH)
    lines = [(part, sizes[part.index[0]]) for _, part in shown.groupby(["split", "subsource", "target"])]
    lines.sort(key=lambda line: _place(line[0].iloc[0]))
    step = _EDGE + _GAP
    sheet = Image.new("RGB", (_MARGIN + (_EDGE + 4) * _EACH, step * len(lines)), "white")
    draw = ImageDraw.Draw(sheet)
    small, normal = ImageFont.load_default(8), ImageFont.load_default(11)
    for line, (part, count) in enumerate(lines):
        top = line * step + _GAP
        draw.multiline_text((6, top + _EDGE / 3), _label(part.iloc[0], count), fill="black", font=normal)
        for place, row in enumerate(part.to_dict("records")):
            left = _MARGIN + place * (_EDGE + 4)
            sheet.paste(_picture(folder / row["shard"], row["offset"], row["length"]), (left, top))
            draw.text((left, top - 11), row["key"], fill="black", font=small)
    sheet.save(out, "PNG")


def _place(row: Any) -> tuple[int, str, int]:
    return _SPLITS.index(row["split"]), row["subsource"], -row["target"]


def _label(row: Any, count: int) -> str:
    source = f"2019 {row['subsource']}" if row["source"] == 2019 else row["subsource"]
    return f"{row['split']} {source}\n{_TARGETS[row['target']]}\n{count:,} images"


def _picture(shard: Path, offset: int, length: int) -> Image.Image:
    with shard.open("rb") as file:
        file.seek(offset)
        pixels = np.asarray(simplejpeg.decode_jpeg(file.read(length)))
    return Image.fromarray(pixels).resize((_EDGE, _EDGE), Image.Resampling.LANCZOS)
