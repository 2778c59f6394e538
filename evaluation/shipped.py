"""The ensemble that is shipped: how its members' scores become one score and one probability (ensemble.json)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from configs.errors import UserError
from configs.schema import Combine
from evaluation.calibration import Calibrator, calibrated
from evaluation.combination import WAYS, rank_against, weighted_mean
from evaluation.discrimination import Floats
from evaluation.operating import OperatingPoint
from evaluation.table import OutOfFold

SCHEMA = 1
"""Version of the ensemble's part of ensemble.json."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One trained network."""

    name: str
    """Its own name, such as tiny_fold0."""
    model: str
    """The name it shares with the members that differ in the fold only."""
    fold: int | None
    """The fold it was not trained on; None if it was trained on all rows."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Members, how they are combined, and what was fitted on all of their out-of-fold predictions."""

    combine: Combine
    """What is averaged over the models: probabilities, ranks, or probabilities with fitted weights."""
    members: tuple[Member, ...]
    """Whose scores are combined, in the order of the rows that `raw` takes."""
    models: tuple[str, ...]
    """Their models, each once."""
    weights: tuple[float, ...]
    """One for each model, summing to one."""
    calibrators: dict[str, Calibrator]
    """By source, and "all"."""
    operating_points: tuple[OperatingPoint, ...] = ()
    """Thresholds of the combined score."""

    def __post_init__(self) -> None:
        if self.combine not in WAYS:
            raise UserError(f"combine={self.combine!r} is unknown: give {', '.join(WAYS)}")
        if set(self.models) != {member.model for member in self.members} or len(self.models) != len(self.weights):
            raise UserError(f"{len(self.weights)} weights of the models {self.models} do not fit the members")
        if min(self.weights) < 0 or not math.isclose(sum(self.weights), 1, abs_tol=1e-6):
            raise UserError(f"the weights {self.weights} are not 0 or more with sum 1")
        if "all" not in self.calibrators:
            raise UserError("no calibrator is for all sources")

    def raw(self, scores: ArrayLike, references: Mapping[str, ArrayLike] | None = None) -> Floats:
        """The combined score [N] of the members' probabilities [K, N].

        Mean over the members of a model, then weighted over the models. For "rank", each member's probabilities are
        first ranked against its own `references`, by its name, as `rank_references` gives them. Raises ValueError for
        another shape, or NaN.
        """
        table = np.asarray(scores, dtype=np.float64)
        if table.ndim != 2 or len(table) != len(self.members) or np.isnan(table).any():
            raise ValueError(f"scores have shape {table.shape}: expected {len(self.members)} members, without NaN")
        if self.combine == "rank":
            if references is None:
                raise ValueError("ranks need the references of the members")
            ranked = [
                rank_against(references[member.name], row) for member, row in zip(self.members, table, strict=True)
            ]
            table = np.stack(ranked)
        of_model = np.array([member.model for member in self.members])
        means = np.stack([table[of_model == model].mean(axis=0) for model in self.models])
        return weighted_mean(means, np.array(self.weights))

    def calibrated(self, raw: ArrayLike, source: ArrayLike | None = None, prevalence: float | None = None) -> Floats:
        """Probabilities [N] of combined scores [N]: see `calibration.calibrated`."""
        return calibrated(self.calibrators, raw, source, prevalence)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` takes and JSON can hold."""
        prevalence = self.calibrators["all"].prevalence
        found: dict[str, Any] = plain({"schema": SCHEMA, "prevalence": prevalence, **asdict(self)})
        return found

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Ensemble":
        """The ensemble that `to_dict` saved. Raises UserError for another version or missing parts."""
        if saved.get("schema") != SCHEMA:
            raise UserError(
                f"this ensemble has schema {saved.get('schema')}, not {SCHEMA}: run infer.py --ensemble again"
            )
        try:
            return cls(
                combine=saved["combine"],
                members=tuple(Member(**member) for member in saved["members"]),
                models=tuple(saved["models"]),
                weights=tuple(saved["weights"]),
                calibrators={name: Calibrator.from_dict(each) for name, each in saved["calibrators"].items()},
                operating_points=tuple(OperatingPoint.from_dict(each) for each in saved["operating_points"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"this ensemble is damaged ({error!r}): run infer.py --ensemble again") from error


def ensemble_of(
    members: Iterable[Member],
    *,
    combine: Combine = "mean",
    known: Mapping[str, float] | None = None,
    calibrators: Mapping[str, Calibrator] | None = None,
    operating_points: Sequence[OperatingPoint] = (),
) -> Ensemble:
    """The ensemble of `members`, `known` being the weights of the models that have out-of-fold predictions.

    Each of the M models without them gets 1/M, and the others share the rest as their weights say. Without calibrators
    the score is taken for the probability.
    """
    members, known = tuple(members), known or {}
    models = tuple(dict.fromkeys(member.model for member in members))
    if not models:
        raise UserError("an ensemble needs one member at least")
    judged = [model for model in models if model in known]
    total = sum(known[model] for model in judged)

    def weight(model: str) -> float:
        if model not in known:
            return 1 / len(models)
        share = known[model] / total if total else 1 / len(judged)
        return share * len(judged) / len(models)

    return Ensemble(
        combine=combine,
        members=members,
        models=models,
        weights=tuple(weight(model) for model in models),
        calibrators=dict(calibrators or {"all": Calibrator(kind="none")}),
        operating_points=tuple(operating_points),
    )


def rank_references(oof: OutOfFold, members: Iterable[Member]) -> dict[str, Floats]:
    """The sorted out-of-fold scores that each member's scores are ranked against, by its name.

    Those of its own fold; for a member without any, such as one trained on all rows, those of all its model's folds;
    for a model without any, those of all models.
    """
    found = {}
    for member in members:
        of_model = oof.scores[[model == member.model for model in oof.models]]
        fold = -1 if member.fold is None else member.fold
        for candidate in (of_model[:, oof.fold == fold], of_model, oof.scores):
            known = candidate[~np.isnan(candidate)]
            if len(known):
                found[member.name] = np.sort(known)
                break
    return found


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: lists and dicts of Python's own types, None for NaN."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and math.isnan(value) else value
