"""overview.png: what the images of a shard set look like, by source and target."""

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


def draw_overview(rows: pd.DataFrame, folder: Path, out: BinaryIO) -> None:
    """Draw the first images of each split, sub-source and target, one line each, as a PNG.

    Reads the kept rows' key, split, source, subsource, target, shard, offset and length, and the shards in `folder`.
    """
    kept = rows[rows["left_out"].isna()]
    lines = [part for _, part in kept.groupby(["split", "subsource", "target"])]
    lines.sort(key=lambda part: _place(part.iloc[0]))
    step = _EDGE + _GAP
    sheet = Image.new("RGB", (_MARGIN + (_EDGE + 4) * _EACH, step * len(lines)), "white")
    draw = ImageDraw.Draw(sheet)
    small, normal = ImageFont.load_default(8), ImageFont.load_default(11)
    for line, part in enumerate(lines):
        top = line * step + _GAP
        draw.multiline_text((6, top + _EDGE / 3), _label(part), fill="black", font=normal)
        for place, row in enumerate(part.head(_EACH).to_dict("records")):
            left = _MARGIN + place * (_EDGE + 4)
            sheet.paste(_picture(folder / row["shard"], row["offset"], row["length"]), (left, top))
            draw.text((left, top - 11), row["key"], fill="black", font=small)
    sheet.save(out, "PNG")


def _place(row: Any) -> tuple[int, str, int]:
    return _SPLITS.index(row["split"]), row["subsource"], -row["target"]


def _label(part: pd.DataFrame) -> str:
    row = part.iloc[0]
    source = f"2019 {row['subsource']}" if row["source"] == 2019 else row["subsource"]
    return f"{row['split']} {source}\n{_TARGETS[row['target']]}\n{len(part):,} images"


def _picture(shard: Path, offset: int, length: int) -> Image.Image:
    with shard.open("rb") as file:
        file.seek(offset)
        pixels = np.asarray(simplejpeg.decode_jpeg(file.read(length)))
    return Image.fromarray(pixels).resize((_EDGE, _EDGE), Image.Resampling.LANCZOS)
