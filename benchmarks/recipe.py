"""Our augmentation beside the reference recipe's, operation by operation: what is drawn, and what it does to pixels.

    python -m benchmarks.recipe --reference PYTHON

PYTHON is an interpreter with albumentations 1.3.1 (an older numpy than ours; docs/augmentation.md has the commands that
make it).
"""

import json
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from scipy.stats import ks_2samp

from benchmarks.record import ROOT, Record, write
from configs.cli import parse, run_command
from configs.errors import UserError, check
from configs.schema import AugmentConfig, Border
from loaders.augment import AugmentParams, draw_params
from loaders.decode import Pixels, changes, finish, load
from loaders.symmetry import view_of

_WHAT = (
    "Our augmentation beside albumentations 1.3.1 with the limits of benchmarks/peers/reference_augment.py. Drawn: the "
    "median (5 % to 95 %) of every parameter in the reference's units, and the largest gap between the two cumulative "
    "distributions (0.023 is what chance alone exceeds once in a hundred). Pixels: the mean and the largest absolute "
    "difference in levels (0 to 255) for the same parameters. Change: how far an operation moves a picture's levels on "
    "average, each with its own parameters; our limit for as much change is in proportion"
)
_SCRIPT = ROOT / "benchmarks" / "peers" / "reference_augment.py"
_EDGE, _SMALL, _PICTURES = 256, 64, 8  # pixels, pixels, number
_SETS, _CHANGES = 128, 800  # parameter sets whose pixels are compared, and whose changes are averaged
Floats = npt.NDArray[np.float64]
_HSV = ("hue", "saturation", "value")
_OPERATIONS = ("shift_scale_rotate", "hue_saturation_value", "brightness_contrast", "coarse_dropout")
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True, kw_only=True)
class RecipeBenchmarkConfig:
    """What `python -m benchmarks.recipe` is asked for."""

    reference: str
    """An interpreter with albumentations 1.3.1."""
    isic: str = "../shared/data/isic-sample"
    """Folder with images in 2020/jpeg/train, some of which are augmented."""
    draws: int = 10_000
    """Draws of each parameter (1,000 or more)."""
    out: str = "benchmarks/results/recipe.json"
    """Where the record is written."""

    def __post_init__(self) -> None:
        check(self.draws >= 1000, "draws", self.draws, "give 1000 or more")


def main(argv: Sequence[str]) -> None:
    """Draw, have the reference draw, compare, record."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(RecipeBenchmarkConfig, argv, prog="python -m benchmarks.recipe", description=description)
    images = pictures(Path(config.isic) / "2020/jpeg/train")
    found, about = referred(config, images)
    record: Record = {
        "what": _WHAT,
        "reference": about,
        "draws": config.draws,
        "flips": symmetries(found, config.draws),
    }
    record |= {name: compared(name, images, found, config.draws) for name in _OPERATIONS}
    write(Path(config.out), record)


def pictures(folder: Path) -> Pixels:
    """Some of the folder's images, uint8 RGB [P, 256, 256, 3]."""
    paths = sorted(folder.glob("*.jpg"))
    if len(paths) < _PICTURES:
        raise UserError(
            f"{folder} holds {len(paths)} images, {_PICTURES} are needed: give the images' folder by --isic"
        )
    chosen = paths[:: len(paths) // _PICTURES][:_PICTURES]
    return _resized([simplejpeg.decode_jpeg(path.read_bytes()) for path in chosen], _EDGE)


def _resized(images: Iterable[Pixels], edge: int) -> Pixels:
    return np.stack([cv2.resize(image, (edge, edge), interpolation=cv2.INTER_AREA) for image in images])


def drawn(name: str, count: int, *, probability: float = 1.0) -> AugmentParams:
    """Our parameters of one operation, or of one part of it, alone, for `count` samples of 256 px."""
    operation = "hue_saturation_value" if name in _HSV else name
    off: dict[str, Any] = dict.fromkeys(("hflip", "vflip", "quarter_turn", "meta_dropout", *_OPERATIONS), 0.0)
    off |= {part: 0.0 for part in _HSV if name in _HSV and part != name}
    config = replace(AugmentConfig(), **{**off, operation: probability})
    return draw_params(config, seed=0, epoch=0, index=np.arange(count), size=_EDGE)


def as_reference(name: str, params: AugmentParams) -> dict[str, Floats]:
    """The same parameters by the reference's names and in its units, read off our matrices; each [B]."""
    if name == "shift_scale_rotate":
        matrix = params.affine[:, :, :2].astype(np.float64)
        shift = -np.linalg.solve(matrix, params.affine[:, :, 2:].astype(np.float64))[:, :, 0] / _EDGE
        angle = -np.rad2deg(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0]))  # OpenCV's goes from input to output
        return {"angle": angle, "scale": np.linalg.det(matrix) ** -0.5, "dx": shift[:, 0], "dy": shift[:, 1]}
    colour = params.colour.astype(np.float64)
    if name == "brightness_contrast":
        return {"alpha": colour[:, :, :3].sum(axis=2).mean(axis=1), "beta": colour[:, 0, 3] / 255}
    before, after = _YIQ @ [1.0, 0.0, 0.0], colour[:, :, 0] @ _YIQ.T  # of red
    turned = (after[:, 1] + 1j * after[:, 2]) / (before[1] + 1j * before[2])
    # OpenCV counts hue in steps of two degrees, and from red to green, where ours turns to blue. What we multiply the
    # chroma by, the reference adds to the saturation.
    found = {"hue_shift": -np.rad2deg(np.angle(turned)) / 2, "sat_shift": 255 * (np.abs(turned) - 1)}
    # The reference rounds down: a hair below zero must be zero.
    return {field: values.round(3) for field, values in {**found, "val_shift": colour[:, 0, 3]}.items()}


def referred(config: RecipeBenchmarkConfig, images: Pixels) -> tuple[dict[str, Any], dict[str, str]]:
    """What the reference draws, and makes of the images with our parameters; and its versions."""
    asked: dict[str, Any] = {"pictures": images, "small": _resized(images, _SMALL)}
    asked |= {"draws": config.draws, "changes": _CHANGES, "holes": drawn("coarse_dropout", _SETS).boxes}
    for name in (*_OPERATIONS[:-1], *_HSV):
        asked |= {f"{name}.{field}": values for field, values in as_reference(name, drawn(name, _SETS)).items()}
    with tempfile.TemporaryDirectory(prefix="recipe-") as work:
        np.savez(Path(work) / "asked.npz", **asked)
        try:
            done = subprocess.run([config.reference, str(_SCRIPT), work], capture_output=True, text=True, check=False)
        except OSError as error:
            raise UserError(f"--reference {config.reference}: {error.strerror}: give a Python interpreter") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            raise UserError(f"--reference {config.reference}: {last}: give one with albumentations==1.3.1")
        with np.load(Path(work) / "found.npz") as found:
            return dict(found), json.loads((Path(work) / "about.json").read_text())


def compared(name: str, images: Pixels, found: dict[str, Any], draws: int) -> Record:
    """How often an operation is applied, what it draws, and what becomes of the pixels."""
    usual = getattr(AugmentConfig(), name)
    record: Record = {"probability": {"ours": _share(name, usual, draws), "reference": float(found[f"{name}.share"])}}
    params = drawn(name, draws)
    if name == "coarse_dropout":
        ours, reference, library = (
            holes(boxes) for boxes in (params.boxes, found["coarse_dropout.boxes"], found["coarse_dropout.default"])
        )
        record |= {field: side_by_side(ours[field], reference[field]) for field in ours}
        record["covered_percent"]["with_the_librarys_default"] = round(float(library["covered_percent"].mean()), 2)
    else:
        ours = as_reference(name, params)
        record |= {field: side_by_side(ours[field], found[f"{name}.{field}"]) for field in ours}
    record |= pixels(name, images, found)
    return record | {f"{part}_alone": pixels(part, images, found) for part in _HSV if name == "hue_saturation_value"}


def pixels(name: str, images: Pixels, found: dict[str, Any]) -> Record:
    """The difference with our parameters in both; for colours also how much each changes pictures with its own."""
    params, wanted = drawn(name, _SETS), found[f"{name}.pixels"]
    if name == "shift_scale_rotate":
        return {
            f"pixels_with_border_{border}": difference(rendered(images, params, border), wanted)
            for border in get_args(Border)
        }
    record: Record = {"pixels": difference(rendered(images, params), wanted)}
    if name == "coarse_dropout":
        return record
    small = _resized(images, _SMALL)
    before = small[np.arange(_CHANGES) % len(small)]
    change = difference(rendered(small, drawn(name, _CHANGES)), before)["mean"]
    theirs = round(float(found[f"{name}.change"]), 3)
    record |= {"change": {"ours": change, "reference": theirs}}
    if name in _HSV:
        record["our_limit_for_the_references_change"] = float(f"{getattr(AugmentConfig(), name) * theirs / change:.2g}")
    return record


def rendered(images: Pixels, params: AugmentParams, border: Border = "constant") -> Pixels:
    """Our pixels: the images again and again, one for each set of parameters."""
    places, out = range(len(params.symmetry)), np.empty((len(params.symmetry), *images.shape[1:]), dtype=np.uint8)
    for place, change in zip(places, changes(params, places, images.shape[1], border), strict=True):
        load(images[place % len(images)], change, out[place])
        finish(change, out[place])
    return out


def difference(ours: Pixels, theirs: Pixels) -> Record:
    """Mean and largest absolute difference, in levels."""
    levels = np.abs(ours.astype(np.int16) - theirs)
    return {"mean": round(float(levels.mean()), 3), "largest": int(levels.max())}


def side_by_side(ours: Floats, reference: Floats) -> Record:
    """The median and the range from 5 % to 95 % of both, and the gap between their cumulative distributions."""
    spreads = {}
    for side, values in (("ours", ours), ("reference", reference)):
        low, median, high = (float(f"{value:.4g}") for value in np.quantile(values, (0.05, 0.5, 0.95)))
        spreads[side] = {"median": median, "low": low, "high": high}
    return {**spreads, "gap": round(float(ks_2samp(ours, reference).statistic), 3)}


def holes(boxes: npt.NDArray[Any]) -> dict[str, Floats]:
    """Of boxes [B, holes, 4]: how many, their edges, and how much of the whole, the middle and the rim they cover."""
    filled = boxes[..., 2] > boxes[..., 0]
    edges = (boxes[..., 2:] - boxes[..., :2])[filled].ravel() * (100 / _EDGE)
    black = np.zeros((len(boxes), _EDGE, _EDGE), dtype=bool)
    for image, made in zip(black, boxes.tolist(), strict=True):
        for left, top, right, bottom in made:
            image[top:bottom, left:right] = True
    quarter, twentieth = _EDGE // 4, _EDGE // 20
    middle = black[:, quarter:-quarter, quarter:-quarter].mean(axis=(1, 2))
    inner = black[:, twentieth:-twentieth, twentieth:-twentieth]
    rim = (black.sum(axis=(1, 2)) - inner.sum(axis=(1, 2))) / (_EDGE**2 - inner[0].size)
    covered = {"covered_percent": black.mean(axis=(1, 2)), "covered_percent_of_the_middle": middle}
    covered["covered_percent_of_the_rim"] = rim
    parts = {field: 100 * values for field, values in covered.items()}
    return {"number": filled.sum(axis=1).astype(float), "edge_percent": edges, **parts}


def symmetries(found: dict[str, Any], draws: int) -> Record:
    """How many of the eight flips and turns come out, and how far the share of one differs at most."""
    off: dict[str, Any] = dict.fromkeys(_OPERATIONS, 0.0)
    codes = draw_params(replace(AugmentConfig(), **off), seed=0, epoch=0, index=np.arange(draws), size=_EDGE).symmetry
    corners = torch.arange(4).reshape(1, 2, 2, 1)
    shares = {tuple(view_of(corners, code).ravel().tolist()): float((codes == code).mean()) for code in range(8)}
    pairs = zip(found["symmetry.orders"].tolist(), found["symmetry.shares"].tolist(), strict=True)
    theirs = {tuple(order): share for order, share in pairs}
    gap = max(abs(share - theirs.get(order, 0.0)) for order, share in shares.items())
    return {"kinds": {"ours": len(shares), "reference": len(theirs)}, "largest_gap_of_a_share": round(gap, 3)}


def _share(name: str, probability: float, draws: int) -> float:
    params = drawn(name, draws, probability=probability)
    applied = {"shift_scale_rotate": params.symmetry < 0, "coarse_dropout": params.boxes.any(axis=(1, 2))}
    return round(float(applied.get(name, params.recolour).mean()), 3)


if __name__ == "__main__":
    run_command(main)
