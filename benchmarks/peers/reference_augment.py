"""The reference recipe's augmentation, in albumentations 1.3.1, for benchmarks/recipe.py.

    PYTHON benchmarks/peers/reference_augment.py WORK

PYTHON is an interpreter with that release, which needs an older numpy than ours. Reads WORK/asked.npz and writes
WORK/found.npz: for every operation its drawn parameters, how much it changes the pictures, and its pixels for the
parameters that are asked for.
"""

import json
import platform
import random
import sys
from importlib.metadata import version
from pathlib import Path

import albumentations as A
import numpy as np

LIMITS = {
    "shift_scale_rotate": (A.ShiftScaleRotate, {"shift_limit": 0.0625, "scale_limit": 0.1, "rotate_limit": 45}),
    "hue": (A.HueSaturationValue, {"hue_shift_limit": 20, "sat_shift_limit": 0, "val_shift_limit": 0}),
    "saturation": (A.HueSaturationValue, {"hue_shift_limit": 0, "sat_shift_limit": 30, "val_shift_limit": 0}),
    "value": (A.HueSaturationValue, {"hue_shift_limit": 0, "sat_shift_limit": 0, "val_shift_limit": 20}),
    "hue_saturation_value": (A.HueSaturationValue, {}),
    "brightness_contrast": (A.RandomBrightnessContrast, {"brightness_limit": 0.2, "contrast_limit": 0.2}),
}
HOLES = {"max_holes": 8, "min_holes": 1, "min_height": 0.05, "max_height": 0.1, "min_width": 0.05, "max_width": 0.1}
PACKAGES = ("albumentations", "opencv-python-headless", "numpy", "scikit-image")


def main(work: Path) -> None:
    """Draw, apply, write."""
    asked = np.load(work / "asked.npz")
    pictures, small, draws = asked["pictures"], asked["small"], int(asked["draws"])
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what albumentations draws from
    found = {}
    for name, (kind, limits) in LIMITS.items():
        operation = kind(p=0.5, **limits)
        drawn = [operation.get_params() for _ in range(draws)]
        found |= {f"{name}.{field}": [each[field] for each in drawn] for field in drawn[0]}
        found[f"{name}.share"] = share(operation, small[0], draws)
        changed = [
            np.abs(operation.apply(picture, **drawn[number]).astype(int) - picture).mean()
            for number, picture in enumerate(small[np.arange(asked["changes"]) % len(small)])
        ]
        found[f"{name}.change"] = np.mean(changed)
        wanted = [key.partition(".")[2] for key in asked if key.startswith(f"{name}.")]
        rows = zip(*(asked[f"{name}.{field}"].tolist() for field in wanted), strict=True)
        found[f"{name}.pixels"] = [
            operation.apply(pictures[number % len(pictures)], **dict(zip(wanted, row, strict=True)))
            for number, row in enumerate(rows)
        ]
    found |= symmetries(draws) | holes(pictures, asked["holes"], draws)
    np.savez(work / "found.npz", **found)
    about = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    (work / "about.json").write_text(json.dumps(about))


def share(operation, picture, draws):
    """How often the operation is applied when it is called."""
    applied = []
    name = "get_params_dependent_on_targets" if operation.targets_as_params else "get_params"
    draw = getattr(operation, name)
    setattr(operation, name, lambda *given: (applied.append(1), draw(*given))[1])
    for _ in range(draws):
        operation(image=picture)
    return len(applied) / draws


def symmetries(draws):
    """How often each of the eight flips and turns comes out: the corners' numbers as they then stand, and shares."""
    corners = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    steps = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=0.5)])
    seen = [tuple(steps(image=corners)["image"].ravel().tolist()) for _ in range(draws)]
    orders = sorted(set(seen))
    return {"symmetry.orders": orders, "symmetry.shares": [seen.count(order) / draws for order in orders]}


def holes(pictures, boxes, draws):
    """The boxes of CoarseDropout as the recipe has it and as the library has it by default; pixels for `boxes`."""
    recipe, default = A.CoarseDropout(p=0.5, **HOLES), A.CoarseDropout()
    drawn = np.zeros((2, draws, 8, 4), dtype=int)
    for operation, out in zip((recipe, default), drawn, strict=True):
        for row in out:
            made = operation.get_params_dependent_on_targets({"image": pictures[0]})["holes"]
            row[: len(made)] = made
    pixels = [
        recipe.apply(pictures[number % len(pictures)], holes=[hole for hole in made.tolist() if hole[2]])
        for number, made in enumerate(boxes)
    ]
    return {
        "coarse_dropout.boxes": drawn[0],
        "coarse_dropout.default": drawn[1],
        "coarse_dropout.share": share(recipe, pictures[0], draws),
        "coarse_dropout.pixels": pixels,
    }


if __name__ == "__main__":
    if A.__version__ != "1.3.1":
        sys.exit(f"its albumentations is {A.__version__}")
    main(Path(sys.argv[1]))
