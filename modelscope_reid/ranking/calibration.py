"""From a similarity to the probability that two images show the same person, and to a judgement.

In: labelled similarities to fit on; then any similarity. Out: probabilities 0..1, judgements; all of it as plain JSON
values and back. Knows nothing of embeddings or files.

Platt, "Probabilistic Outputs for SVMs" (1999), fitted by Newton's method with the targets of Lin et al. (2007);
isotonic: Zadrozny and Elkan (KDD 2002), by pooling adjacent violators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.verification import Decision, DecisionThresholds, Pairs

Method: TypeAlias = Literal["platt", "isotonic"]


@dataclass(frozen=True, kw_only=True)
class PlattCalibration:
    """Probability = 1 / (1 + exp(-(slope * similarity + intercept))).

    Raises:
        InputError: a number that is not finite, or a negative slope: a closer pair would be less likely the same.
    """

    kind: ClassVar[Method] = "platt"
    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.slope) and np.isfinite(self.intercept)) or self.slope < 0.0:
            raise InputError(f"slope is {self.slope}, intercept {self.intercept}; expected numbers, a slope from 0 up.")

    def probabilities(self, similarities: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities of similarities of any shape."""
        return _sigmoid(self.slope * np.asarray(similarities, np.float64) + self.intercept)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"kind": self.kind, "slope": self.slope, "intercept": self.intercept}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlattCalibration:
        """Return the calibration that `to_dict` wrote."""
        return cls(slope=values["slope"], intercept=values["intercept"])


@dataclass(frozen=True, kw_only=True)
class IsotonicCalibration:
    """Probabilities that never fall as similarity rises: straight lines between knots, flat outside them.

    Raises:
        InputError: knots that do not match or do not ascend, or a probability outside 0..1.
    """

    kind: ClassVar[Method] = "isotonic"
    similarities: tuple[float, ...]
    knots: tuple[float, ...]

    def __post_init__(self) -> None:
        places, values = np.array(self.similarities), np.array(self.knots)
        fits = len(places) == len(values) > 0 and np.isfinite(places).all() and (np.diff(places) > 0).all()
        if not fits or not (np.diff(values) >= 0).all() or not ((values >= 0) & (values <= 1)).all():
            raise InputError(
                f"{len(places)} similarities and {len(values)} knots; expected as many, similarities ascending, knots "
                "in 0..1 and never falling."
            )

    def probabilities(self, similarities: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities of similarities of any shape."""
        places = np.asarray(similarities, np.float64)
        return np.asarray(np.interp(places, self.similarities, self.knots), np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"kind": self.kind, "similarities": list(self.similarities), "knots": list(self.knots)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IsotonicCalibration:
        """Return the calibration that `to_dict` wrote."""
        return cls(similarities=tuple(values["similarities"]), knots=tuple(values["knots"]))


Calibration: TypeAlias = PlattCalibration | IsotonicCalibration

CALIBRATIONS: dict[str, Callable[[Mapping[str, Any]], Calibration]] = {
    PlattCalibration.kind: PlattCalibration.from_dict,
    IsotonicCalibration.kind: IsotonicCalibration.from_dict,
}
"""How each kind of calibration is read back."""


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -values))
    return probabilities


def _weights(pairs: Pairs, prior: float) -> NDArray[np.float64]:
    """Return one weight per pair, of sum P, that make same pairs the share `prior` of all."""
    if not 0.0 < prior < 1.0:
        raise InputError(f"prior is {prior}; expected a share between 0 and 1.")
    same = pairs.same.mean()
    weights: NDArray[np.float64] = np.where(pairs.same, prior / same, (1.0 - prior) / (1.0 - same))
    return weights


def fit_platt(pairs: Pairs, *, prior: float = 0.5) -> PlattCalibration:
    """Fit a sigmoid; `prior` is the share of same pairs to expect in use, whatever it is among `pairs`.

    Where similarities tell nothing, or the wrong way round, the slope is 0.
    """
    weights = _weights(pairs, prior)
    same, different = int(pairs.same.sum()), int((~pairs.same).sum())
    targets = np.where(pairs.same, (same + 1.0) / (same + 2.0), 1.0 / (different + 2.0))
    centre, scale = pairs.similarities.mean(), pairs.similarities.std() or 1.0
    inputs = np.stack([(pairs.similarities - centre) / scale, np.ones(len(targets))], axis=1)
    base = float(np.log(prior / (1.0 - prior)))
    slope, offset = _newton(inputs, targets, weights=weights, start=np.array([0.0, base]))
    if slope <= 0.0:
        return PlattCalibration(slope=0.0, intercept=base)
    return PlattCalibration(slope=float(slope / scale), intercept=float(offset - slope * centre / scale))


def _newton(
    inputs: NDArray[np.float64],
    targets: NDArray[np.float64],
    *,
    weights: NDArray[np.float64],
    start: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the parameters (2,) of the least weighted log loss, by Newton's method with halved steps."""

    def loss(parameters: NDArray[np.float64]) -> float:
        logits = inputs @ parameters
        return float(weights @ (np.logaddexp(0.0, logits) - targets * logits))

    parameters = start
    for _ in range(100):
        probabilities = _sigmoid(inputs @ parameters)
        gradient = inputs.T @ (weights * (probabilities - targets))
        curvature = weights * probabilities * (1.0 - probabilities)
        step = np.linalg.solve((inputs * curvature[:, None]).T @ inputs + 1e-12 * np.eye(2), gradient)
        size = 1.0
        while loss(parameters - size * step) > loss(parameters) and size > 1e-10:
            size /= 2.0
        parameters = parameters - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return parameters


def fit_isotonic(pairs: Pairs, *, prior: float = 0.5) -> IsotonicCalibration:
    """Fit a never-falling step function; `prior` is the share of same pairs to expect in use.

    Equal similarities are one point, whatever their order. With few pairs, its ends are 0 and 1: prefer Platt there.
    """
    similarities, place = np.unique(pairs.similarities, return_inverse=True)
    weights = _weights(pairs, prior)
    totals = np.bincount(place, weights=weights)
    means = np.bincount(place, weights=weights * pairs.same) / totals
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many points
    for mean, weight in zip(means.tolist(), totals.tolist(), strict=True):
        pool = (mean, weight, 1)
        while pools and pools[-1][0] >= pool[0]:
            left = pools.pop()
            both = left[1] + pool[1]
            pool = ((left[0] * left[1] + pool[0] * pool[1]) / both, both, left[2] + pool[2])
        pools.append(pool)
    ends = np.cumsum([points for _, _, points in pools])
    starts = np.concatenate([[0], ends[:-1]])
    edges = np.unique(np.concatenate([starts, ends - 1]))
    values = np.repeat([min(mean, 1.0) for mean, _, _ in pools], np.diff(np.append(starts, len(means))))
    return IsotonicCalibration(similarities=tuple(similarities[edges].tolist()), knots=tuple(values[edges].tolist()))


FITS: dict[Method, Callable[..., Calibration]] = {"platt": fit_platt, "isotonic": fit_isotonic}
"""How each kind of calibration is fitted."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What two images are to each other: the decision, the probability that they show the same person, the similarity.

    Raises:
        InputError: a probability outside 0..1.
    """

    decision: Decision
    probability: float
    similarity: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise InputError(f"probability is {self.probability}; expected 0..1.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"decision": self.decision, "probability": self.probability, "similarity": self.similarity}


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """A calibration and thresholds: all that a model needs to judge a pair, to be saved beside it."""

    calibration: Calibration
    thresholds: DecisionThresholds

    def judge(self, similarity: float) -> Judgement:
        """Return the judgement on a pair of this cosine similarity.

        Raises:
            InputError: a similarity that is not finite.
        """
        if not np.isfinite(similarity):
            raise InputError(f"the similarity is {similarity}; expected a number.")
        return Judgement(
            decision=self.thresholds.decide(similarity),
            probability=float(self.calibration.probabilities(similarity)),
            similarity=float(similarity),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"calibration": self.calibration.to_dict(), "thresholds": self.thresholds.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verifier:
        """Return the verifier that `to_dict` wrote.

        Raises:
            InputError: a kind of calibration that is not known, or values missing or out of range.
        """
        try:
            kind = values["calibration"]["kind"]
            if kind not in CALIBRATIONS:
                raise InputError(f"calibration kind is {kind!r}; expected one of {', '.join(map(repr, CALIBRATIONS))}.")
            return cls(
                calibration=CALIBRATIONS[kind](values["calibration"]),
                thresholds=DecisionThresholds.from_dict(values["thresholds"]),
            )
        except KeyError as error:
            raise InputError(f"the verifier has no {error}; expected what Verifier.to_dict writes.") from error


def fit_verifier(
    pairs: Pairs, thresholds: DecisionThresholds, *, method: Method = "platt", prior: float = 0.5
) -> Verifier:
    """Fit the calibration and put it together with chosen thresholds.

    Raises:
        InputError: an unknown method, or a prior that is not between 0 and 1.
    """
    if method not in FITS:
        raise InputError(f"method is {method!r}; expected one of {', '.join(map(repr, FITS))}.")
    return Verifier(calibration=FITS[method](pairs, prior=prior), thresholds=thresholds)
