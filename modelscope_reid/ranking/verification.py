"""Whether two images show the same person: how well similarities tell it, and where to draw the line.

In: similarities of pairs, larger = closer, and whether each pair is the same person. Out: ROC, EER, TAR at FAR, and
thresholds. Knows nothing of embeddings' origin or of files; calibration.py turns similarities into probabilities.

FAR: the share of different pairs that are accepted, TAR: the share of same pairs that are; a pair is accepted when
its similarity is at least the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.labelled import LabelledEmbeddings
from modelscope_reid.ranking.matches import Truth
from modelscope_reid.ranking.metrics import without_junk
from modelscope_reid.ranking.report import SameCamera
from modelscope_reid.ranking.similarity import pair_similarities

Decision: TypeAlias = Literal["same", "different", "unsure"]

FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)
"""The FARs at which TAR is reported."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """`similarities` (P,) float64 of pairs of images, and whether each is the `same` person (P,).

    Raises:
        InputError: lengths that differ, similarities that are not finite, or only one kind of pair.
    """

    similarities: NDArray[np.float64]
    same: NDArray[np.bool_]

    def __post_init__(self) -> None:
        similarities, same = np.asarray(self.similarities, np.float64), np.asarray(self.same)
        if similarities.ndim != 1 or same.shape != similarities.shape or same.dtype != np.bool_:
            raise InputError(
                f"similarities {similarities.shape} and same {same.shape} {same.dtype}; expected (P,) and (P,) bool."
            )
        bad = np.flatnonzero(~np.isfinite(similarities))
        if bad.size:
            raise InputError(f"the similarity of pair {bad[0]} is {similarities[bad[0]]}; expected a number.")
        if same.all() or not same.any():
            raise InputError(
                f"{int(same.sum())} same pairs and {int((~same).sum())} different pairs; expected at least one of each."
            )
        object.__setattr__(self, "similarities", similarities)
        object.__setattr__(self, "same", same)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"similarities": self.similarities.tolist(), "same": self.same.tolist()}


def sample_pairs(
    query: LabelledEmbeddings,
    gallery: LabelledEmbeddings,
    *,
    different_per_query: int = 100,
    seed: int = 0,
    same_camera: SameCamera = "remove",
) -> Pairs:
    """Return every same pair of queries and gallery, and randomly drawn different ones (with repeats).

    Same pairs from one camera are left out as in ranking; distractors make different pairs, junk makes none.

    Raises:
        InputError: no same or no different pair is to be had, or embeddings of different size.
    """
    gallery = without_junk(gallery)
    if query.vectors.shape[1] != gallery.vectors.shape[1] or different_per_query < 1 or not len(gallery):
        raise InputError(
            f"query {query.vectors.shape}, gallery {gallery.vectors.shape}, different_per_query {different_per_query}; "
            "expected equal sizes, a gallery that is not empty, and 1 or more."
        )
    own = Truth(query, gallery, same_camera).own_images(slice(0, len(query)))
    generator = np.random.default_rng(seed)
    rows = np.repeat(np.flatnonzero(query.person_ids > 0), different_per_query)
    columns = generator.integers(0, len(gallery), len(rows))
    different = query.person_ids[rows] != gallery.person_ids[columns]
    rows = np.concatenate([own.rows[own.matches], rows[different]])
    columns = np.concatenate([own.columns[own.matches], columns[different]])
    return Pairs(
        similarities=pair_similarities(query.unit, gallery.unit, rows=rows, columns=columns).astype(np.float64),
        same=np.arange(len(rows)) < own.matches.sum(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RocCurve:
    """FAR and TAR (T,) ascending at descending `thresholds` (T,): one point per distinct similarity, after (0, 0)."""

    thresholds: NDArray[np.float64]
    false_accept_rates: NDArray[np.float64]
    true_accept_rates: NDArray[np.float64]

    @property
    def area(self) -> float:
        """The area under the curve: the chance that a same pair is more similar than a different one."""
        return float(np.trapezoid(self.true_accept_rates, self.false_accept_rates))

    @property
    def equal_error_rate(self) -> float:
        """The rate at which as many different pairs are accepted as same pairs are rejected, on the joined points."""
        gap = self.false_accept_rates - (1.0 - self.true_accept_rates)
        after = int(np.argmax(gap >= 0.0))
        share = -gap[after - 1] / (gap[after] - gap[after - 1])
        before = self.false_accept_rates[after - 1]
        return float(before + share * (self.false_accept_rates[after] - before))

    def at_far(self, false_accept_rate: float) -> tuple[float, float]:
        """Return (TAR, threshold) of the last point whose FAR is not above `false_accept_rate`.

        The threshold is infinite where even the most similar pair is a different one.
        """
        place = int(np.searchsorted(self.false_accept_rates, false_accept_rate, side="right")) - 1
        return float(self.true_accept_rates[place]), float(self.thresholds[place])

    def thinned(self, points: int) -> RocCurve:
        """Return at most `points` of the points, evenly spaced, both ends among them: enough for a picture."""
        chosen = np.unique(np.linspace(0, len(self.thresholds) - 1, points).astype(np.int64))
        return RocCurve(
            thresholds=self.thresholds[chosen],
            false_accept_rates=self.false_accept_rates[chosen],
            true_accept_rates=self.true_accept_rates[chosen],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the first threshold, infinite, is None."""
        return {
            "thresholds": [value if np.isfinite(value) else None for value in self.thresholds.tolist()],
            "false_accept_rates": self.false_accept_rates.tolist(),
            "true_accept_rates": self.true_accept_rates.tolist(),
        }


def roc_curve(pairs: Pairs) -> RocCurve:
    """Return the ROC curve of labelled similarities; equal similarities are one point, whatever their order."""
    order = np.argsort(-pairs.similarities, kind="stable")
    similarities, same = pairs.similarities[order], pairs.same[order]
    last = np.flatnonzero(np.append(similarities[1:] != similarities[:-1], True))
    accepted_same = np.cumsum(same)[last]
    accepted_different = last + 1 - accepted_same
    return RocCurve(
        thresholds=np.concatenate([[np.inf], similarities[last]]),
        false_accept_rates=np.concatenate([[0.0], accepted_different / accepted_different[-1]]),
        true_accept_rates=np.concatenate([[0.0], accepted_same / accepted_same[-1]]),
    )


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """How well similarities tell same pairs from different ones.

    `true_accept_rates` and `thresholds` by FAR; a threshold is None where no pair can be accepted at that FAR. A FAR
    below 1 / `different_pairs` allows no false accept at all.

    Raises:
        InputError: a rate outside 0..1, or no pair of one kind.
    """

    area: float
    equal_error_rate: float
    true_accept_rates: Mapping[float, float]
    thresholds: Mapping[float, float | None]
    same_pairs: int
    different_pairs: int

    def __post_init__(self) -> None:
        rates = (self.area, self.equal_error_rate, *self.true_accept_rates, *self.true_accept_rates.values())
        if not all(0.0 <= rate <= 1.0 for rate in rates) or min(self.same_pairs, self.different_pairs) < 1:
            raise InputError(
                f"rates {rates} over {self.same_pairs} same and {self.different_pairs} different pairs; expected rates "
                "in 0..1 and at least one pair of each kind."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; FARs are written as text."""
        return {
            "area": self.area,
            "equal_error_rate": self.equal_error_rate,
            "true_accept_rates": {f"{far:g}": rate for far, rate in self.true_accept_rates.items()},
            "thresholds": {f"{far:g}": threshold for far, threshold in self.thresholds.items()},
            "same_pairs": self.same_pairs,
            "different_pairs": self.different_pairs,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VerificationReport:
        """Return the report that `to_dict` wrote."""
        return cls(
            **{
                **values,
                "true_accept_rates": {float(far): rate for far, rate in values["true_accept_rates"].items()},
                "thresholds": {float(far): threshold for far, threshold in values["thresholds"].items()},
            }
        )


def verify(pairs: Pairs, *, false_accept_rates: tuple[float, ...] = FALSE_ACCEPT_RATES) -> VerificationReport:
    """Measure ROC area, EER, and TAR with its threshold at each of `false_accept_rates`."""
    curve = roc_curve(pairs)
    points = {far: curve.at_far(far) for far in false_accept_rates}
    return VerificationReport(
        area=curve.area,
        equal_error_rate=curve.equal_error_rate,
        true_accept_rates={far: rate for far, (rate, _) in points.items()},
        thresholds={far: threshold if np.isfinite(threshold) else None for far, (_, threshold) in points.items()},
        same_pairs=int(pairs.same.sum()),
        different_pairs=int((~pairs.same).sum()),
    )


@dataclass(frozen=True, kw_only=True)
class DecisionThresholds:
    """A pair is the same from `same_from` up, different below `different_below`, unsure between.

    Raises:
        InputError: `different_below` above `same_from`, or one that is not finite.
    """

    same_from: float
    different_below: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.same_from) and np.isfinite(self.different_below)):
            raise InputError(f"thresholds {self.different_below} and {self.same_from}; expected finite numbers.")
        if self.different_below > self.same_from:
            raise InputError(
                f"different_below is {self.different_below}, above same_from, {self.same_from}; expected it no higher."
            )

    def decide(self, similarity: float) -> Decision:
        """Return what a pair of this similarity is."""
        if similarity >= self.same_from:
            return "same"
        return "different" if similarity < self.different_below else "unsure"

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON values."""
        return {"same_from": self.same_from, "different_below": self.different_below}

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> DecisionThresholds:
        """Return the thresholds that `to_dict` wrote."""
        return cls(same_from=values["same_from"], different_below=values["different_below"])


def choose_thresholds(
    pairs: Pairs, *, false_accept_rate: float = 1e-3, false_reject_rate: float = 1e-2
) -> DecisionThresholds:
    """Choose thresholds so that at most these shares of different pairs are called same, and of same pairs different.

    Where the two kinds are further apart than that needs, both thresholds stand in the middle and nothing is unsure.
    """
    different = np.sort(pairs.similarities[~pairs.same])[::-1]
    same = np.sort(pairs.similarities[pairs.same])
    allowed = min(int(false_accept_rate * len(different)), len(different) - 1)
    same_from = float(np.nextafter(different[allowed], np.inf))
    different_below = float(same[min(int(false_reject_rate * len(same)), len(same) - 1)])
    if different_below > same_from:
        same_from = different_below = (same_from + different_below) / 2.0
    return DecisionThresholds(same_from=same_from, different_below=different_below)
