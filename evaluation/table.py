"""The out-of-fold predictions of every model as one checked table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from configs.errors import UserError
from evaluation.discrimination import Bools, Floats

Strings = NDArray[np.str_]
Whole = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class OutOfFold:
    """N samples, each predicted by M models of which none was trained on it.

    Fields may be given as any sequence. Raises UserError that names the first bad row, ValueError for wrong shapes.
    """

    key: Strings
    """Names of the samples [N], each once."""
    fold: Whole
    """Fold that each sample belongs to [N], 0 or more."""
    source: Whole
    """2019, 2020, or 0 for any other source [N]."""
    target: Bools
    """True for melanoma [N]; 0 and 1 will do."""
    group: Whole
    """Patient, lesion or whatever else must be drawn together [N]; any names will do, numbers stand for them."""
    models: tuple[str, ...]
    """Names of the models, each once."""
    scores: Floats
    """Probabilities [M, N]; NaN where a model has no member for the sample's fold. Each sample has one at least."""
    views: Floats | None = None
    """Mean probability over the models for each of V views of the picture [V, N], if they are known."""

    def __post_init__(self) -> None:
        target = np.asarray(self.target, dtype=np.float64)
        self._convert(target == 1)
        samples, models = len(self.key), len(self.models)
        shapes: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {"scores": (self.scores, (models, samples))}
        shapes |= {name: (getattr(self, name), (samples,)) for name in ("key", "fold", "source", "target", "group")}
        if self.views is not None:
            shapes["views"] = (self.views, (len(self.views), samples))
        for name, (array, wanted) in shapes.items():
            if array.shape != wanted:
                raise ValueError(f"{name} has shape {array.shape}: expected {wanted}")
        if not samples or not models or len(set(self.models)) < models:
            raise ValueError(f"{samples} samples of the models {self.models}: expected one or more, each named once")
        self._require(np.isin(np.arange(samples), np.unique(self.key, return_index=True)[1]), "its key is not unique")
        self._require(np.isin(target, (0, 1)), "its target is neither 0 nor 1")
        self._require(self.fold >= 0, "its fold is negative")
        self._require(np.isin(self.source, (0, 2019, 2020)), "its source is none of 2019, 2020 and 0 (other)")
        for model, row in zip(self.models, self.scores, strict=True):
            self._require(np.isnan(row) | ((row >= 0) & (row <= 1)), f"{model} predicts no probability of 0 to 1")
        self._require((~np.isnan(self.scores)).any(axis=0), "no model predicts it")
        if self.views is not None:
            self._require(
                ((self.views >= 0) & (self.views <= 1)).all(axis=0), "a view predicts no probability of 0 to 1"
            )

    def _convert(self, target: Bools) -> None:
        converted = {
            "key": np.asarray(self.key).astype(str),
            "fold": np.asarray(self.fold, dtype=np.int64),
            "source": np.asarray(self.source, dtype=np.int64),
            "target": target,
            "group": np.unique(np.asarray(self.group).astype(str), return_inverse=True)[1],
            "models": tuple(self.models),
            "scores": np.asarray(self.scores, dtype=np.float64),
            "views": None if self.views is None else np.asarray(self.views, dtype=np.float64),
        }
        for name, value in converted.items():
            object.__setattr__(self, name, value)

    def _require(self, good: ArrayLike, what: str) -> None:
        bad = np.flatnonzero(~np.asarray(good))
        if len(bad):
            raise UserError(f"row {bad[0]} ({self.key[bad[0]]}): {what} ({len(bad)} such rows)")


def left_out(fold: Whole) -> Iterator[tuple[Bools, Bools]]:
    """For each fold in turn, the rows of the others and the rows of the fold itself, as masks [N]."""
    for number in np.unique(fold):
        yield fold != number, fold == number


def obstacle(target: Bools, fold: Whole) -> str:
    """Why nothing can be fitted on the folds but one and scored on that one; empty where it can be."""
    if len(np.unique(fold)) < 2:
        return "there is one fold only: nothing fitted on it can be scored on another"
    for others, fold_itself in left_out(fold):
        if target[others].all() or not target[others].any():
            return f"without fold {fold[fold_itself][0]}, one class has no samples left to fit on"
    return ""
