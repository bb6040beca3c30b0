"""The report: its numbers on vectors whose angles are known, and what it says."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from modelscope_reid.errors import ConfigError, InputError
from modelscope_reid.fields import dataclass_from_dict
from modelscope_reid.runtimes.parity_report import (
    TOLERANCES,
    Cosines,
    ParityReport,
    RankingFigures,
    compare_embeddings,
)

ANGLES = (0.0, 0.3, 0.6)
REFERENCE = np.array([[4.0, 0.0]] * 3, np.float32)
TURNED = np.array([[4 * math.cos(angle), 4 * math.sin(angle)] for angle in ANGLES], np.float32)
REPORT = ParityReport(
    format="openvino",
    precision="int8",
    computed_in="int8",
    crops="held out of crops",
    cosines=Cosines(count=3, cosine_min=0.99, cosine_mean=0.996, centred_mean=0.99, largest_difference=0.1),
    tolerance=TOLERANCES["int8"],
)


def test_cosines_and_the_largest_difference_of_turned_vectors() -> None:
    found = compare_embeddings(REFERENCE, TURNED)
    assert found.count == 3
    assert found.cosine_min == pytest.approx(math.cos(0.6), abs=1e-6)
    assert found.cosine_mean == pytest.approx(sum(map(math.cos, ANGLES)) / 3, abs=1e-6)
    assert found.largest_difference == pytest.approx(math.sin(0.6), abs=1e-6)  # 4 sin 0.6 of the largest number, 4


def test_length_changes_no_cosine_but_is_a_difference() -> None:
    found = compare_embeddings(REFERENCE, 2 * REFERENCE)
    assert (found.cosine_min, found.largest_difference) == (1.0, 1.0)
    assert compare_embeddings(TURNED, TURNED).centred_mean == pytest.approx(1.0)


def test_a_vector_of_zeros_is_like_nothing() -> None:
    assert compare_embeddings(REFERENCE, 0 * REFERENCE).cosine_mean == 0.0
    assert compare_embeddings(0 * REFERENCE, 0 * REFERENCE).largest_difference == 0.0


@pytest.mark.parametrize(
    ("reference", "embeddings", "message"),
    [
        (REFERENCE, REFERENCE[:2], r"shape \(2, 2\); expected \(3, 2\)"),
        (REFERENCE[:0], REFERENCE[:0], "one row or more"),
        (REFERENCE, REFERENCE * np.float32(np.nan), "NaN or infinite"),
    ],
    ids=["shapes", "no rows", "NaN"],
)
def test_what_cannot_be_compared_is_refused(reference: np.ndarray, embeddings: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_embeddings(reference, embeddings)


def test_it_passes_from_the_tolerance_on() -> None:
    assert REPORT.passed
    assert replace(REPORT, tolerance=0.996).passed
    assert not replace(REPORT, tolerance=0.9961).passed


def test_it_does_not_pass_where_only_what_all_crops_share_is_kept() -> None:
    reference = np.array([[100.0, 1.0], [100.0, -1.0], [100.0, 0.5], [100.0, -0.5]], np.float32)
    constant = np.array([[100.0, 0.0]] * 4, np.float32)
    found = compare_embeddings(reference, constant)
    assert found.cosine_mean > 0.9999 and found.centred_mean == 0.0
    assert not replace(REPORT, cosines=found).passed
    mirrored = compare_embeddings(reference, reference * np.array([1, -1], np.float32))
    assert mirrored.cosine_mean > 0.9995 and mirrored.centred_mean == pytest.approx(-1.0)
    assert mirrored.closeness == pytest.approx(0.5)  # 1 - 2 / 4
    assert REPORT.centred_tolerance == pytest.approx(0.98)
    assert replace(REPORT, cosines=replace(REPORT.cosines, centred_mean=0.9801)).passed
    assert not replace(REPORT, cosines=replace(REPORT.cosines, centred_mean=0.9799)).passed


def test_it_goes_to_json_and_back() -> None:
    full = replace(
        REPORT,
        left_in_float=("conv1",),
        dataset="market1501",
        torch=RankingFigures(mAP=0.9, rank1=0.96),
        exported=RankingFigures(mAP=0.89, rank1=0.95),
    )
    for report in (REPORT, full):
        values = json.loads(json.dumps(report.to_dict()))
        assert dataclass_from_dict(ParityReport, values, where="parity") == report


def test_it_tells_people_what_was_compared() -> None:
    text = str(replace(REPORT, computed_in="fp32", left_in_float=("a", "b")))
    assert "openvino int8, computed in fp32 here, beside PyTorch fp32 on 3 crops (held out of crops)" in text
    assert "cosine mean 0.996000 (at least 0.995), least 0.990000;" in text
    assert "mean without what all crops share 0.990000 (at least 0.98)" in text
    assert "2 places left in float" in text
    ranked = replace(
        REPORT,
        dataset="market1501",
        torch=RankingFigures(mAP=0.9, rank1=0.96),
        exported=RankingFigures(mAP=0.89, rank1=0.95),
    )
    assert "market1501: mAP 89.00 (PyTorch 90.00), Rank-1 95.00 (PyTorch 96.00)" in str(ranked)


def test_figures_are_shares() -> None:
    with pytest.raises(ConfigError, match=r"mAP is 90.0; expected 0 to 1"):
        RankingFigures(mAP=90.0, rank1=0.5)
