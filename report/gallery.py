"""Pictures of the shard set side by side, with a few words under each."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from configs.colours import INK, MUTED
from loaders.decode import UNCHANGED, decode
from loaders.shards import ShardSet
from report.style import panels, png

_COLUMNS = 6


def pixels(shards: ShardSet, row: int) -> npt.NDArray[np.uint8]:
    """The stored picture of a row, uint8 [H, W, 3]."""
    found = np.empty((shards.size, shards.size, 3), dtype=np.uint8)
    decode(shards.jpeg(row), UNCHANGED, found)
    return found


def gallery(
    pictures: Sequence[npt.NDArray[np.uint8]], words: Sequence[str], titles: Sequence[str] = (), lines: int = 3
) -> bytes:
    """PNG of pictures, uint8 [H, W, 3] each, six in a row, `words` of up to `lines` lines under each.

    `titles` stand above the rows, one for each. Raises ValueError where there is no picture, or not as many words.
    """
    if not pictures or len(pictures) != len(words):
        raise ValueError(f"{len(pictures)} pictures with {len(words)} words: give one or more, and words for each")
    rows = -(-len(pictures) // _COLUMNS)
    height = 1.5 + 0.17 * lines + (0.2 if titles else 0)
    figure, axes = panels(rows * _COLUMNS, rows=rows, width=1.5, height=height)
    for number, axis in enumerate(axes):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        if number >= len(pictures):
            continue
        axis.imshow(pictures[number])
        axis.set_xlabel(words[number], loc="left", fontsize=8, color=MUTED)
        if titles and number % _COLUMNS == 0:
            axis.set_title(titles[number // _COLUMNS], fontsize=9, color=INK, loc="left")
    return png(figure)
