"""The verdict on an ensemble, from its out-of-fold predictions alone.

    judgement = judge(oof, combine="mean")
    ensemble = judgement.ensemble(members)  # what is shipped: fitted on all folds

Every figure of the ensemble is cross-fitted: what is fitted (weights, calibrators, thresholds) is fitted on the other
folds and scored on the fold left out.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from configs.errors import UserError
from configs.schema import Combine
from evaluation.combination import WAYS, out_of_fold_scores
from evaluation.comparison import Gain, Row, compare, parts_of
from evaluation.discrimination import Floats
from evaluation.fitting import CrossFitted, Fitted, cross_fit, fit
from evaluation.operating import WANTED, OperatingPoint, operating_point, threshold_for
from evaluation.reliability import Reliability, reliability
from evaluation.shipped import Ensemble, Member, ensemble_of, plain
from evaluation.stability import Stability, stability
from evaluation.table import OutOfFold, obstacle

_DECIDING = WANTED.index(0.90)  # the operating point that stability is judged at


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """Everything that the out-of-fold predictions say about the ensemble."""

    oof: OutOfFold
    """What was judged."""
    combine: Combine
    """How the models are combined."""
    raw: Floats
    """Combined score [N], cross-fitted."""
    rank: Floats
    """Mean over the models of the rank within the fold [N]."""
    calibrated: Floats | None
    """Probability [N], cross-fitted; None where that was impossible."""
    not_cross_fitted: str
    """Why it was impossible; empty if it was not."""
    fitted: Fitted
    """What is shipped: fitted on all rows."""
    table: tuple[Row, ...]
    """The models, then the ensemble."""
    gains: tuple[Gain, ...]
    """Empty for a single model."""
    before: dict[str, Reliability]
    """Of the combined score, over all rows ("merged") and within each source that has both classes."""
    after: dict[str, Reliability]
    """Of the calibrated probability, likewise; empty where there is none."""
    operating_points: tuple[OperatingPoint, ...]
    """Of the combined score."""
    stability: dict[str, Stability]
    """Between "views" and between "models", at the point of 90 % sensitivity; as far as there are two of them."""

    def ensemble(self, members: Iterable[Member]) -> Ensemble:
        """What is shipped for these members; a model without out-of-fold rows may be among them."""
        return ensemble_of(
            members,
            combine=self.combine,
            known=dict(zip(self.oof.models, self.fitted.weights.tolist(), strict=True)),
            calibrators=self.fitted.calibrators,
            operating_points=self.operating_points,
        )

    def to_dict(self) -> dict[str, Any]:
        """All but the columns of the rows, as JSON can hold it."""
        facts: dict[str, Any] = plain(
            {
                "models": self.oof.models,
                "combine": self.combine,
                "not_cross_fitted": self.not_cross_fitted,
                "weights": self.fitted.weights,
                "calibrators": {name: asdict(each) for name, each in self.fitted.calibrators.items()},
                "table": [asdict(row) for row in self.table],
                "gains": [asdict(gain) for gain in self.gains],
                "before": {part: asdict(each) for part, each in self.before.items()},
                "after": {part: asdict(each) for part, each in self.after.items()},
                "operating_points": [asdict(point) for point in self.operating_points],
                "stability": {between: asdict(each) for between, each in self.stability.items()},
            }
        )
        return facts


def judge(
    oof: OutOfFold, *, combine: Combine = "mean", per_source: bool = False, draws: int = 1000, seed: int = 0
) -> Judgement:
    """Combine, calibrate and score; `draws` and `seed` are those of every bootstrap over groups.

    With `per_source`, each source gets a calibrator of its own, if it has 20 melanomas and 20 others. Raises UserError
    where a class is missing, or where weights are asked for that cannot be cross-fitted.
    """
    if oof.target.all() or not oof.target.any():
        raise UserError(f"all {len(oof.key)} rows are of one class: an ensemble is judged on melanomas and others")
    reason = obstacle(oof.target, oof.fold)
    if reason and combine == "weighted":
        raise UserError(f"weights cannot be judged: {reason}; combine by mean or rank")
    fitted = fit(oof, combine, np.ones(len(oof.key), dtype=np.bool_), per_source=per_source)
    crossed = None if reason else cross_fit(oof, combine, per_source=per_source)
    ways = {way: out_of_fold_scores(oof, way) for way in WAYS if way != "weighted" or not reason}
    raw = ways[combine]
    table, gains = compare(oof, raw, ways, draws=draws, seed=seed)
    return Judgement(
        oof=oof,
        combine=combine,
        raw=raw,
        rank=ways["rank"],
        calibrated=crossed.calibrated if crossed else None,
        not_cross_fitted=reason,
        fitted=fitted,
        table=table,
        gains=gains,
        before=_reliabilities(oof, raw, draws, seed),
        after=_reliabilities(oof, crossed.calibrated, draws, seed) if crossed else {},
        operating_points=_operating_points(oof, fitted, crossed),
        stability=_stabilities(oof, fitted),
    )


def _reliabilities(oof: OutOfFold, probability: Floats, draws: int, seed: int) -> dict[str, Reliability]:
    return {
        part: reliability(oof.target[rows], probability[rows], oof.group[rows], draws=draws, seed=seed)
        for part, rows in parts_of(oof).items()
        if oof.target[rows].any() and not oof.target[rows].all()
    }


def _operating_points(oof: OutOfFold, fitted: Fitted, crossed: CrossFitted | None) -> tuple[OperatingPoint, ...]:
    return tuple(
        operating_point(oof.target, fitted.raw, wanted, threshold, crossed.decisions[number] if crossed else None)
        for number, (wanted, threshold) in enumerate(zip(WANTED, fitted.thresholds, strict=True))
    )


def _stabilities(oof: OutOfFold, fitted: Fitted) -> dict[str, Stability]:
    """Views against their mean, at its own threshold; models each at its own, since their scales may differ."""
    found = {}
    wanted = WANTED[_DECIDING]
    if oof.views is not None and len(oof.views) > 1:
        mean = oof.views.mean(axis=0)
        limit = threshold_for(oof.target, mean, wanted)
        found["views"] = stability(oof.views, limit, mean >= limit)
    known = ~np.isnan(oof.scores)
    judged = np.array([oof.target[row].any() for row in known])
    if judged.sum() > 1:
        limits = [
            threshold_for(oof.target[row], score[row], wanted)
            for row, score in zip(known[judged], oof.scores[judged], strict=True)
        ]
        found["models"] = stability(oof.scores[judged], limits, fitted.raw >= fitted.thresholds[_DECIDING])
    return found
