"""Artefacts looked for in a dermoscopic picture, each by a plain rule: a score of its pixels, and a limit.

Rules and limits were set by looking at what they flag among 4,428 real pictures of 128 px (ISIC 2019 and 2020). No rule
is a measurement: `Detector.right` and `Detector.missed` say how often 40 pictures that it flagged, and 40 that it did
not, were judged otherwise by eye. Gel bubbles are not looked for: at this size no rule that was tried (circles of
Hough's transform, correlation with rings) was right in more than one of five pictures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from report.artefacts.parts import Floats, Mask, Parts

Pixels = npt.NDArray[np.uint8]

EDGE = 128  # pictures are looked at in this size, in pixels
_AXIS = (np.arange(EDGE) + 0.5) * (2 / EDGE) - 1
_RADIUS = np.hypot(_AXIS, _AXIS[:, None])  # from the centre, in half edges
_RING = np.flatnonzero((_RADIUS > 0.7) & (_RADIUS < 1.0))  # where skin is expected
_INSIDE = _RADIUS < 1.25  # without the corners
_CORNERS = [
    np.flatnonzero((_RADIUS > 1.25) & ((_AXIS > 0) == right) & ((_AXIS > 0)[:, None] == low))
    for right in (False, True)
    for low in (False, True)
]
_SHARP = 11.0  # a patch's edge, in units of CIELAB from one pixel to the next but one
_NEXT = np.ones((3, 3), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A rule for one artefact, and how good it is."""

    name: str
    """What it looks for, as the page says it."""
    score: Callable[[Pixels], float]
    """Of a square picture, uint8 RGB [H, W, 3], any size; higher is more likely."""
    limit: float
    """A score of this or more flags the picture."""
    rule: str
    """The rule in words."""
    right: int
    """Of 40 flagged pictures, drawn at random, those that showed it by eye."""
    missed: int
    """Of 40 pictures not flagged, drawn at random, those that showed it by eye."""

    def __call__(self, pixels: Pixels) -> bool:
        """Whether the picture is flagged."""
        return self.score(pixels) >= self.limit


def dark_corners(pixels: Pixels) -> float:
    """How much darker than the skin the second darkest corner is: 0 as bright, 1 black."""
    red, green, blue = cv2.split(_small(pixels))
    brightness = cv2.max(cv2.max(red, green), blue).ravel()
    skin, corners = _median(brightness[_RING]), sorted(_median(brightness[corner]) for corner in _CORNERS)
    return 1 - corners[1] / skin if skin else 0.0


def ruler_marks(pixels: Pixels) -> float:
    """The longest row of short, dark, parallel strokes at even distances, in strokes; one in a row may be missing."""
    grey = cv2.cvtColor(_small(pixels), cv2.COLOR_RGB2GRAY)
    hat = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, _disc(7))
    parts = Parts(hat > max(7.0, 3.5 * float(np.median(hat)) + 3))
    length, width, angle = parts.axes()
    strokes = np.flatnonzero((length >= 3) & (length <= 16) & (length > 1.5 * width) & (width <= 7))
    strokes = strokes[np.argsort(-length[strokes], kind="stable")[:100]]
    return _longest_row(parts.centre[strokes], angle[strokes])


def ink(pixels: Pixels) -> float:
    """Share of the picture covered by thin blue or violet strokes away from its centre, less those in its centre.

    The colour is judged against the skin's, so that a bluish picture has no ink for that alone.
    """
    small = _small(pixels)
    light, red, yellow = _lab(small)
    skin = [_median(channel.ravel()[_RING]) for channel in (light, yellow)]
    blue = (yellow < min(skin[1] - 16, -6)) & (light < skin[0] - 6) & (light > 60) & _INSIDE
    if not blue.any():
        return 0.0
    blue &= (red * red + yellow * yellow > 13 * 13) & (cv2.dilate(_patches(small)[1], _disc(9)) == 0)
    thick = cv2.morphologyEx(blue.astype(np.uint8), cv2.MORPH_OPEN, _disc(15))
    parts = Parts(blue & ~cv2.dilate(thick, np.ones((25, 25), dtype=np.uint8)).astype(bool))
    bluer = parts.mean(yellow) < skin[1] - 19
    centred = np.hypot(*((parts.centre + 0.5) * (2 / EDGE) - 1).T) < 0.5  # a bluish lesion
    large = parts.area >= 8
    return float(parts.area[large & bluer & ~centred].sum() - parts.area[large & centred].sum()) / EDGE**2


def patch(pixels: Pixels) -> float:
    """How sharply an even area of another colour that reaches the picture's edge ends, in units of CIELAB."""
    return _patches(_small(pixels))[0]


def hair(pixels: Pixels) -> float:
    """Length of the long, thin, dark lines on the skin, in edges of the picture.

    A line is where one of the two curvatures of the smoothed picture is high and the other low (A. F. Frangi et al.,
    "Multiscale Vessel Enhancement Filtering", MICCAI 1998).
    """
    grey = cv2.cvtColor(_small(pixels), cv2.COLOR_RGB2GRAY)
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    xx, yy, xy = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3) for order in ((2, 0), (0, 2), (1, 1)))
    spread, mean = np.sqrt(((xx - yy) / 2) ** 2 + xy**2), (xx + yy) / 2
    across, along = mean + spread, mean - spread
    line = (across > 14) & (np.abs(along) < 0.45 * across) & _skin(grey)
    line[:3] = line[-3:] = line[:, :3] = line[:, -3:] = False  # the picture's own edge may be a line
    parts = Parts(line)
    return float(parts.extent[(parts.extent >= 16) & (parts.area < 2.6 * parts.extent)].sum()) / EDGE


DETECTORS = (
    Detector(
        name="dark corners",
        score=dark_corners,
        limit=0.45,
        rule="two corners or more are darker than the skin by 45 % or more",
        right=36,
        missed=2,
    ),
    Detector(
        name="ruler marks",
        score=ruler_marks,
        limit=5,
        rule="five or more short dark strokes in a row, parallel and evenly spaced",
        right=38,
        missed=4,
    ),
    Detector(
        name="ink",
        score=ink,
        limit=0.0015,
        rule="thin blue or violet strokes away from the centre cover 0.15 % of the picture or more",
        right=31,
        missed=0,
    ),
    Detector(
        name="colour patch",
        score=patch,
        limit=_SHARP,
        rule="an even area of a colour far from the skin's reaches the edge of the picture and ends sharply",
        right=36,
        missed=0,
    ),
    Detector(
        name="hair",
        score=hair,
        limit=1.2,
        rule="long, thin, dark lines on the skin are 1.2 edges of the picture long or more, together",
        right=36,
        missed=4,
    ),
)


def _longest_row(centre: Floats, angle: Floats) -> float:
    """Strokes [n] in the longest row that any two neighbours begin, going on in their step to both sides."""
    if len(centre) < 2:
        return float(len(centre))
    step = centre[None] - centre[:, None]
    distance = np.hypot(step[..., 0], step[..., 1])
    parallel = np.abs(_turned(angle[None] - angle[:, None])) < 0.35
    across = np.abs(_turned(np.arctan2(step[..., 1], step[..., 0]) - angle[:, None])) > 0.9
    first, second = np.nonzero(np.triu((distance > 3.5) & (distance < 16) & parallel & across))
    if not len(first):
        return 1.0
    found = np.ones(len(first))
    for side in (1, -1):
        going, gap = np.ones(len(first), dtype=bool), np.zeros(len(first), dtype=int)
        for times in range(1, 11):
            place = centre[first] + side * times * step[first, second]
            off = np.hypot(*(place[:, None] - centre[None]).transpose(2, 0, 1))
            hit = ((off < min(1 + 0.12 * times, 2)) & parallel[first]).any(axis=1)
            gap = np.where(hit, 0, gap + 1)
            going &= gap < 2
            found += hit & going
            if not going.any():
                break
    return float(found.max())


def _patches(small: Pixels) -> tuple[float, Pixels]:
    """The score of `patch`, and where patches over its limit are, 0 or 1 [EDGE, EDGE]."""
    light, red, yellow = _lab(small)
    skin = [_median(channel.ravel()[_RING]) for channel in (red, yellow)]
    far = cv2.magnitude(red - np.float32(skin[0]), yellow - np.float32(skin[1]))
    other = (far > 20) & (light > 60)
    where, best = np.zeros((EDGE, EDGE), dtype=np.uint8), 0.0
    if other.sum() <= 100:
        return best, where
    parts = Parts(cv2.morphologyEx(other.astype(np.uint8), cv2.MORPH_OPEN, _NEXT) > 0)
    left, top, wide, high = parts.box.T
    outer = (left <= 1) | (top <= 1) | (left + wide >= EDGE - 1) | (top + high >= EDGE - 1)
    even = (parts.area > 100) & (parts.area < 0.4 * EDGE**2) & (parts.area > 0.5 * wide * high)
    for number in np.flatnonzero(outer & even):
        one = (parts.label == number + 1).astype(np.uint8)
        rim = cv2.morphologyEx(one, cv2.MORPH_GRADIENT, _NEXT).astype(bool)
        rim[:2] = rim[-2:] = rim[:, :2] = rim[:, -2:] = False
        if rim.sum() > 10:
            sharp = float(np.quantile(cv2.morphologyEx(far, cv2.MORPH_GRADIENT, _NEXT)[rim], 0.3))
            best = max(best, sharp)
            where |= one * np.uint8(sharp >= _SHARP)
    return best, where


def _small(pixels: Pixels) -> Pixels:
    if pixels.ndim != 3 or pixels.shape[0] != pixels.shape[1] or pixels.shape[2] != 3:
        raise ValueError(f"pixels have shape {pixels.shape}: expected a square picture [H, H, 3]")
    if len(pixels) == EDGE:
        return np.ascontiguousarray(pixels)
    way = cv2.INTER_AREA if len(pixels) > EDGE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (EDGE, EDGE), interpolation=way), dtype=np.uint8)


def _lab(small: Pixels) -> tuple[Floats, Floats, Floats]:
    """CIELAB: lightness from 0 to 255, and red-green and yellow-blue around 0, each [EDGE, EDGE]."""
    light, red, yellow = (part.astype(np.float32) for part in cv2.split(cv2.cvtColor(small, cv2.COLOR_RGB2LAB)))
    return light, red - 128, yellow - 128


def _skin(grey: npt.NDArray[Any]) -> Mask:
    """Where there is no lesion or black rim, bool [EDGE, EDGE]: the brighter side of Otsu's threshold, well inside."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 4)
    _, bright = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    inside = bright.astype(bool)
    if inside.all() or not inside.any() or smooth[inside].mean() - smooth[~inside].mean() < 18:
        return np.ones((EDGE, EDGE), dtype=np.bool_)
    return np.asarray(cv2.erode(bright, np.ones((7, 7), dtype=np.uint8)), dtype=np.bool_)


def _median(values: npt.NDArray[Any]) -> float:
    """The upper median, which np.median would take four times as long for."""
    middle = len(values) // 2
    return float(np.partition(values, middle)[middle])


def _disc(size: int) -> Pixels:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), dtype=np.uint8)


def _turned(angle: Floats) -> Floats:
    """An angle between lines, which have no direction, from -pi/2 to pi/2."""
    between: Floats = (angle + np.pi / 2) % np.pi - np.pi / 2
    return between
