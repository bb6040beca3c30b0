"""ROC, EER, TAR at FAR and thresholds of a handful of pairs, worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import plain_roc
from toy_embeddings import embeddings, random_embeddings

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.verification import (
    DecisionThresholds,
    Pairs,
    VerificationReport,
    choose_thresholds,
    roc_curve,
    sample_pairs,
    verify,
)


def pairs(same: list[float], different: list[float]) -> Pairs:
    return Pairs(similarities=np.array(same + different), same=np.arange(len(same) + len(different)) < len(same))


TOY = pairs([0.9, 0.8, 0.6, 0.3], [0.7, 0.4, 0.2, 0.1])


def test_the_curve_of_eight_pairs() -> None:
    curve = roc_curve(TOY)
    # From the top: S S D S D S D D.
    assert curve.thresholds.tolist() == [np.inf, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1]
    assert curve.true_accept_rates.tolist() == [0, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1, 1]
    assert curve.false_accept_rates.tolist() == [0, 0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 1]
    # Of 16 (same, different) couples 13 are in order: 0.9 and 0.8 beat 4 each, 0.6 beats 3, 0.3 beats 2.
    assert curve.area == pytest.approx(13 / 16)
    # Accepting from 0.6 up: a quarter of the different pairs accepted, a quarter of the same ones rejected.
    assert curve.equal_error_rate == pytest.approx(0.25)


def test_the_equal_error_rate_between_two_points() -> None:
    # S D S: (0, 1/2) -> (1, 1/2): FAR equals 1 - TAR = 1/2 half way along the flat piece.
    assert roc_curve(pairs([0.9, 0.1], [0.5])).equal_error_rate == pytest.approx(0.5)
    # All tied: one step from (0, 0) to (1, 1), which meets the line at 1/2.
    assert roc_curve(pairs([0.5, 0.5], [0.5, 0.5])).equal_error_rate == pytest.approx(0.5)
    assert roc_curve(pairs([0.9, 0.8], [0.2, 0.1])).equal_error_rate == 0.0
    assert roc_curve(pairs([0.2, 0.1], [0.9, 0.8])).equal_error_rate == 1.0


def test_tar_at_far() -> None:
    curve = roc_curve(TOY)
    assert curve.at_far(0.0) == curve.at_far(0.24) == (0.5, 0.8)
    assert curve.at_far(0.25) == (0.75, 0.6)
    # A different pair on top: nothing can be accepted without it.
    assert roc_curve(pairs([0.5], [0.9])).at_far(0.01) == (0.0, np.inf)
    # 1,000 different pairs, one of them above half of the same pairs: FAR 1e-3 accepts it, 1e-4 does not.
    report = verify(pairs([0.9, 0.7], [0.8, *np.linspace(0.0, 0.5, 999)]))
    assert report.true_accept_rates == {1e-2: 1.0, 1e-3: 1.0, 1e-4: 0.5}
    assert report.thresholds == {1e-2: pytest.approx(0.4959, abs=1e-3), 1e-3: 0.7, 1e-4: 0.9}


def test_a_report_goes_to_json_and_back() -> None:
    for report in (verify(TOY), verify(pairs([0.5], [0.9]))):
        values = json.loads(json.dumps(report.to_dict()))
        assert VerificationReport.from_dict(values) == report
    assert values["thresholds"]["0.001"] is None
    with pytest.raises(InputError, match=r"expected rates in 0\.\.1"):
        VerificationReport.from_dict({**values, "area": 1.5})


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40).filter(
        lambda drawn: len({kind for _, kind in drawn}) == 2
    )
)
def test_like_counting_at_every_threshold(drawn: list[tuple[int, bool]]) -> None:
    values, same = [value / 5 for value, _ in drawn], [kind for _, kind in drawn]
    curve = roc_curve(Pairs(similarities=np.array(values), same=np.array(same)))
    assert curve.thresholds[1:].tolist() == sorted(set(values), reverse=True)
    for point, threshold in enumerate(curve.thresholds):
        expected = plain_roc(values, same, threshold)
        assert (curve.false_accept_rates[point], curve.true_accept_rates[point]) == pytest.approx(expected)
    backwards = roc_curve(Pairs(similarities=np.array(values[::-1]), same=np.array(same[::-1])))
    assert backwards.to_dict() == curve.to_dict()
    couples = [(a > b) + (a == b) / 2 for a, s in zip(values, same, strict=True) if s
               for b, t in zip(values, same, strict=True) if not t]  # fmt: skip
    assert curve.area == pytest.approx(np.mean(couples))
    assert 0.0 <= curve.equal_error_rate <= 1.0


def test_a_thinned_curve_keeps_its_ends() -> None:
    curve = roc_curve(pairs(list(np.linspace(0.3, 1, 500)), list(np.linspace(0, 0.7, 500))))
    thin = curve.thinned(20)
    assert len(thin.thresholds) == 20 and thin.thresholds[0] == np.inf and thin.true_accept_rates[-1] == 1.0
    assert json.loads(json.dumps(thin.to_dict()))["thresholds"][0] is None
    assert len(roc_curve(TOY).thinned(100).thresholds) == 9


def test_thresholds_hold_their_error_rates() -> None:
    stream = np.random.default_rng(0)
    toy = pairs(stream.normal(0.6, 0.15, 3000).tolist(), stream.normal(0.1, 0.15, 9000).tolist())
    chosen = choose_thresholds(toy, false_accept_rate=0.001, false_reject_rate=0.01)
    different, same = toy.similarities[~toy.same], toy.similarities[toy.same]
    assert (different >= chosen.same_from).sum() == 9  # 0.001 of 9,000
    assert (same < chosen.different_below).sum() == 30  # 0.01 of 3,000
    assert chosen.different_below < chosen.same_from


def test_between_the_thresholds_is_unsure() -> None:
    thresholds = DecisionThresholds(same_from=0.6, different_below=0.4)
    decisions = [thresholds.decide(similarity) for similarity in (0.39, 0.4, 0.59, 0.6)]
    assert decisions == ["different", "unsure", "unsure", "same"]
    assert DecisionThresholds.from_dict(json.loads(json.dumps(thresholds.to_dict()))) == thresholds
    for values in ((0.4, 0.6), (np.inf, 0.1)):
        with pytest.raises(InputError, match="expected"):
            DecisionThresholds(same_from=values[0], different_below=values[1])


def test_kinds_far_apart_leave_nothing_unsure() -> None:
    # Different up to 0.2, same from 0.8: both thresholds at 0.5.
    thresholds = choose_thresholds(pairs([0.8, 0.9], [0.1, 0.2]))
    assert (thresholds.same_from, thresholds.different_below) == (pytest.approx(0.5), pytest.approx(0.5))


def test_pairs_of_embeddings() -> None:
    query = embeddings([(0, 1, 1), (90, 2, 1), (0, 0, 1)])
    gallery = embeddings([(60, 1, 2), (10, 1, 1), (90, 2, 2), (180, 0, 2), (0, -1, 2)])
    drawn = sample_pairs(query, gallery, different_per_query=200)
    # Same: query 0 with image 0, cos 60; query 1 with image 2, cos 0; image 1 is of query 0's camera.
    assert sorted(drawn.similarities[drawn.same].tolist()) == pytest.approx([0.5, 1.0], abs=1e-6)
    # Different: query 0 with images 2 (cos 90) and 3 (cos 180), query 1 with 0 (cos 30), 1 (cos 80), 3 (cos 90);
    # the distractor asks nothing, and junk is in no pair.
    expected = sorted({0.0, -1.0, round(3**0.5 / 2, 4), round(float(np.cos(np.deg2rad(80))), 4)})
    assert sorted({round(abs(x) if abs(x) < 1e-4 else x, 4) for x in drawn.similarities[~drawn.same]}) == expected
    again = sample_pairs(query, gallery, different_per_query=200)
    assert (again.similarities == drawn.similarities).all()


def test_pairs_that_do_not_fit_are_refused() -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"same": np.array([True])}, "similarities .* and same"),
        ({"same": np.array([1, 0])}, "int64"),
        ({"similarities": np.array([0.1, np.nan])}, "similarity of pair 1 is nan"),
        ({"same": np.array([True, True])}, "2 same pairs and 0 different"),
    ]
    for change, message in changes:
        with pytest.raises(InputError, match=message):
            Pairs(**{"similarities": np.array([0.1, 0.2]), "same": np.array([True, False]), **change})
    with pytest.raises(InputError, match="different_per_query 0"):
        sample_pairs(embeddings([(0, 1, 1)]), embeddings([(0, 1, 2)]), different_per_query=0)
    with pytest.raises(InputError, match="expected equal sizes"):
        sample_pairs(embeddings([(0, 1, 1)]), random_embeddings(0, 3, people=2))
    assert Pairs(similarities=[0.1, 0.2], same=np.array([True, False])).to_dict() == {  # type: ignore[arg-type]
        "similarities": [0.1, 0.2],
        "same": [True, False],
    }
