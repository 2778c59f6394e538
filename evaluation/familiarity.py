"""Does a picture look like those a model was trained on? A density of a few statistics, with measured false alarms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from scipy.stats import binomtest
from sklearn.mixture import GaussianMixture

from evaluation.discrimination import Bools, Estimate, Floats


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """K normal distributions of F statistics: log_weight [K], centre [K, F] and whitening [K, F, F], a matrix by which
    deviations from the centre become uncorrelated and of variance 1."""

    log_weight: Floats
    centre: Floats
    whitening: Floats

    @classmethod
    def fit(cls, values: Floats, clusters: int) -> Self:
        """By expectation and maximisation, always from the same start."""
        if len(values) < clusters * (values.shape[1] + 2):
            raise ValueError(f"{len(values)} pictures are too few for {clusters} x {values.shape[1]} statistics")
        scale = values.std(axis=0)
        scale[scale == 0] = 1.0
        # The floor of the variance keeps statistics that never vary, or are sums of others, from infinite densities.
        found = GaussianMixture(clusters, reg_covar=1e-3, max_iter=1000, random_state=0).fit(values / scale)
        whitening = found.precisions_cholesky_ / scale[:, None]
        return cls(log_weight=np.log(found.weights_), centre=found.means_ * scale, whitening=whitening)

    def surprise(self, values: Floats) -> Floats:
        """Minus the log density at values [N, F], in nats, [N]."""
        white = np.einsum("nkf,kfg->nkg", values[:, None] - self.centre, self.whitening)
        scale = np.log(np.abs(np.linalg.det(self.whitening))) - values.shape[1] / 2 * math.log(2 * math.pi)
        return -np.asarray(logsumexp(self.log_weight + scale - np.square(white).sum(axis=2) / 2, axis=1))


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """The training pictures' statistics as a density, and the surprise that few of them exceed.

    Surprise is minus the log of the density, in nats. The density is a mixture of normal distributions, since the
    pictures come from several clinics and cameras: one alone is so wide that it holds inverted lesions.

    names: the F statistics, whose definition is the caller's; mixture: the density; threshold: the surprise above which
    a picture is unusual; false_alarms: the share of training pictures above it, with a 95 % interval (see `fit`);
    pictures: how many there were.
    """

    names: tuple[str, ...]
    mixture: Mixture
    threshold: float
    false_alarms: Estimate
    pictures: int

    @classmethod
    def fit(
        cls,
        statistics: ArrayLike,
        fold: ArrayLike,
        names: Sequence[str],
        *,
        false_alarm_rate: float = 0.01,
        clusters: int = 3,
    ) -> Self:
        """Fit to statistics [N, F] of training pictures in folds [N]: the threshold leaves `false_alarm_rate` above it.

        The false alarms are counted in each fold with a density and a threshold of the other folds alone, and their
        interval is Wilson's. Raises ValueError for fewer than two folds, statistics that are not finite or not of
        `names`, fewer than clusters x (F + 2) pictures outside some fold, and a rate outside 0 to 1.
        """
        values, folds = _checked(statistics, names), np.asarray(fold)
        if folds.shape != values.shape[:1] or len(np.unique(folds)) < 2:
            raise ValueError(f"fold has shape {folds.shape}: give one a row, of two or more folds")
        if not 0 < false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate={false_alarm_rate} is out of range: give a share between 0 and 1")
        alarms = 0
        for held_out in (folds == one for one in np.unique(folds)):
            mixture, threshold = _fitted(values[~held_out], clusters, false_alarm_rate)
            alarms += int((mixture.surprise(values[held_out]) > threshold).sum())
        interval = binomtest(alarms, len(values)).proportion_ci(method="wilson")
        mixture, threshold = _fitted(values, clusters, false_alarm_rate)
        return cls(
            names=tuple(names),
            mixture=mixture,
            threshold=threshold,
            false_alarms=Estimate(alarms / len(values), float(interval.low), float(interval.high)),
            pictures=len(values),
        )

    def surprise(self, statistics: ArrayLike) -> Floats:
        """How unlike the training pictures those with statistics [N, F] are, in nats, float64 [N].

        Raises ValueError as `fit` does.
        """
        return self.mixture.surprise(_checked(statistics, self.names))

    def unusual(self, statistics: ArrayLike) -> Bools:
        """Whether pictures with statistics [N, F] are unlike the training pictures, bool [N]."""
        return self.surprise(statistics) > self.threshold

    def to_dict(self) -> dict[str, Any]:
        """The same in types that JSON knows."""
        mixture = {name: values.tolist() for name, values in vars(self.mixture).items()}
        return {**asdict(self), "names": list(self.names), "mixture": mixture}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """What `to_dict` returned, also after a detour through JSON."""
        mixture = Mixture(**{name: np.asarray(values, dtype=np.float64) for name, values in record["mixture"].items()})
        alarms = Estimate(**record["false_alarms"])
        return cls(**{**record, "names": tuple(record["names"]), "mixture": mixture, "false_alarms": alarms})


def _fitted(values: Floats, clusters: int, rate: float) -> tuple[Mixture, float]:
    """The density of the pictures, and the surprise that the share `rate` of them exceeds."""
    mixture = Mixture.fit(values, clusters)
    return mixture, float(np.quantile(mixture.surprise(values), 1 - rate))


def _checked(statistics: ArrayLike, names: Sequence[str]) -> NDArray[np.float64]:
    values = np.asarray(statistics, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"statistics have shape {values.shape}: wanted [N, {len(names)}]")
    if not np.isfinite(values).all():
        raise ValueError(f"statistics are not finite, first in row {int((~np.isfinite(values)).any(axis=1).argmax())}")
    return values
