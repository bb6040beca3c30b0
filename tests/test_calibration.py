"""Probabilities from similarities: by hand, against slow twins, and against the truth that made the pairs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import plain_isotonic
from scipy.optimize import minimize

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.calibration import (
    IsotonicCalibration,
    Judgement,
    PlattCalibration,
    Verifier,
    fit_isotonic,
    fit_platt,
    fit_verifier,
)
from modelscope_reid.ranking.verification import DecisionThresholds, Pairs


def sigmoid_pairs(count: int, *, slope: float, intercept: float, seed: int = 0) -> Pairs:
    """Pairs of which a similarity s shows the same person with probability sigmoid(slope * s + intercept)."""
    stream = np.random.default_rng(seed)
    similarities = stream.uniform(-1, 1, count)
    same = stream.random(count) < 1 / (1 + np.exp(-(slope * similarities + intercept)))
    return Pairs(similarities=similarities, same=same)


def test_platt_finds_the_sigmoid_that_made_the_pairs() -> None:
    pairs = sigmoid_pairs(200_000, slope=6.0, intercept=-1.5)
    fitted = fit_platt(pairs, prior=float(pairs.same.mean()))
    assert (fitted.slope, fitted.intercept) == (pytest.approx(6.0, rel=0.02), pytest.approx(-1.5, abs=0.05))
    assert fitted.probabilities(0.25) == pytest.approx(0.5, abs=0.01)  # 6 * 0.25 = 1.5


def test_platt_is_the_least_loss() -> None:
    pairs = sigmoid_pairs(300, slope=4.0, intercept=0.5)
    same, different = pairs.same.sum(), (~pairs.same).sum()
    targets = np.where(pairs.same, (same + 1) / (same + 2), 1 / (different + 2))

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[0] * pairs.similarities + parameters[1]
        return float((np.logaddexp(0, logits) - targets * logits).sum())

    fitted = fit_platt(pairs, prior=float(pairs.same.mean()))
    best = minimize(loss, np.zeros(2), method="BFGS").x
    assert [fitted.slope, fitted.intercept] == pytest.approx(best, rel=1e-4)


def test_the_prior_moves_the_odds() -> None:
    # 20 times rarer same pairs: the odds of a pair are divided by 20, so the intercept falls by about log 20.
    pairs = sigmoid_pairs(100_000, slope=5.0, intercept=0.0)
    half, rare = fit_platt(pairs, prior=0.5), fit_platt(pairs, prior=1 / 21)
    assert half.intercept - rare.intercept == pytest.approx(np.log(20), abs=0.15)
    for fit in (fit_platt, fit_isotonic):
        with pytest.raises(InputError, match="prior is 1"):
            fit(pairs, prior=1)


def test_separable_useless_and_reversed_similarities() -> None:
    sure = fit_platt(Pairs(similarities=np.array([0.1, 0.2, 0.8, 0.9]), same=np.array([False, False, True, True])))
    # Lin's targets keep separable pairs from an infinite slope: towards 3/4 and 1/4 with two of each.
    assert sure.slope > 0 and sure.probabilities([0.15, 0.5, 0.85]) == pytest.approx([0.25, 0.5, 0.75], abs=0.02)
    nothing = fit_platt(Pairs(similarities=np.full(4, 0.3), same=np.array([False, True, True, True])), prior=0.2)
    assert nothing.probabilities([0.0, 0.3, 1.0]) == pytest.approx([0.2] * 3)
    reverse = fit_platt(Pairs(similarities=np.array([0.1, 0.2, 0.8, 0.9]), same=np.array([True, True, False, False])))
    assert reverse.slope == 0.0


def test_isotonic_by_hand() -> None:
    # D at 0.1, S at 0.2, D at 0.3, S at 0.4: the two in the middle violate and are pooled to 1/2.
    pairs = Pairs(similarities=np.array([0.1, 0.2, 0.3, 0.4]), same=np.array([False, True, False, True]))
    fitted = fit_isotonic(pairs)
    assert fitted.similarities == (0.1, 0.2, 0.3, 0.4) and fitted.knots == pytest.approx((0, 0.5, 0.5, 1))
    assert fitted.probabilities([-1, 0.15, 0.25, 0.4, 1]) == pytest.approx([0, 0.25, 0.5, 1, 1])


@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=40).filter(
        lambda drawn: len({kind for _, kind in drawn}) == 2
    )
)
def test_isotonic_like_the_min_max_formula(drawn: list[tuple[int, bool]]) -> None:
    similarities, same = np.array([value / 12 for value, _ in drawn]), np.array([kind for _, kind in drawn])
    pairs = Pairs(similarities=similarities, same=same)
    fitted = fit_isotonic(pairs, prior=float(same.mean()))  # all weights 1
    points = sorted(set(similarities.tolist()))
    groups = [same[similarities == point] for point in points]
    expected = plain_isotonic([group.mean() for group in groups], [len(group) for group in groups])
    assert fitted.probabilities(points) == pytest.approx(expected)
    backwards = fit_isotonic(Pairs(similarities=similarities[::-1], same=same[::-1]), prior=float(same.mean()))
    assert backwards.similarities == fitted.similarities and backwards.knots == pytest.approx(fitted.knots)


def test_both_fits_are_calibrated() -> None:
    pairs, fresh = (sigmoid_pairs(50_000, slope=6.0, intercept=-1.0, seed=seed) for seed in (0, 1))
    prior = float(pairs.same.mean())
    for fitted in (fit_platt(pairs, prior=prior), fit_isotonic(pairs, prior=prior)):
        told = fitted.probabilities(fresh.similarities)
        for low in np.arange(0, 1, 0.2):
            within = (told >= low) & (told < low + 0.2)
            assert told[within].mean() == pytest.approx(fresh.same[within].mean(), abs=0.03)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_verifier_goes_to_json_and_back_and_judges(method: Any) -> None:
    thresholds = DecisionThresholds(same_from=0.6, different_below=0.2)
    verifier = fit_verifier(sigmoid_pairs(2000, slope=8.0, intercept=-3.0), thresholds, method=method)
    read = Verifier.from_dict(json.loads(json.dumps(verifier.to_dict())))
    assert read == verifier
    judgements = [read.judge(similarity) for similarity in (-0.5, 0.4, 0.9)]
    assert [judgement.decision for judgement in judgements] == ["different", "unsure", "same"]
    assert judgements[0].probability < judgements[1].probability < judgements[2].probability
    assert judgements[2].to_dict() == {
        "decision": "same",
        "probability": judgements[2].probability,
        "similarity": 0.9,
    }
    with pytest.raises(InputError, match="the similarity is nan"):
        read.judge(float("nan"))


def test_what_is_not_a_calibration_is_refused() -> None:
    thresholds = DecisionThresholds(same_from=0.6, different_below=0.2)
    pairs = sigmoid_pairs(50, slope=8.0, intercept=0.0)
    with pytest.raises(InputError, match="method is 'beta'; expected one of 'platt', 'isotonic'"):
        fit_verifier(pairs, thresholds, method="beta")  # type: ignore[arg-type]
    saved = fit_verifier(pairs, thresholds).to_dict()
    with pytest.raises(InputError, match="calibration kind is 'beta'"):
        Verifier.from_dict({**saved, "calibration": {"kind": "beta"}})
    with pytest.raises(InputError, match="the verifier has no 'thresholds'"):
        Verifier.from_dict({"calibration": saved["calibration"]})
    with pytest.raises(InputError, match="slope is -1"):
        PlattCalibration(slope=-1.0, intercept=0.0)
    with pytest.raises(InputError, match=r"probability is 1\.5"):
        Judgement(decision="same", probability=1.5, similarity=0.0)
    for similarities, knots in (((), ()), ((0.1,), (0.1, 0.2)), ((0.2, 0.1), (0, 1)), ((0.1, 0.2), (1, 0))):
        with pytest.raises(InputError, match="never falling"):
            IsotonicCalibration(similarities=similarities, knots=knots)
