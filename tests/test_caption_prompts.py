"""Captions drawn in place of prompts."""

from __future__ import annotations

import numpy as np
import pytest

from modelscope_reid.errors import InputError
from modelscope_reid.training.caption_prompts import PROBABILITY, drawn_captions

CAPTIONS: list[tuple[str, ...]] = [("a0", "a1", "a2"), (), ("c0",)]


def test_without_chance_prompts_stay_and_with_certainty_every_caption_is_taken() -> None:
    assert drawn_captions(CAPTIONS, probability=0, generator=np.random.default_rng(0)) == [None, None, None]
    first, second, third = drawn_captions(CAPTIONS, probability=1, generator=np.random.default_rng(0))
    assert first in CAPTIONS[0] and second is None and third == "c0"
    assert drawn_captions([], generator=np.random.default_rng(0)) == []


def test_seven_of_ten_identities_are_described_each_caption_as_often() -> None:
    count = 9000
    drawn = drawn_captions([("a", "b", "c")] * count, generator=np.random.default_rng(1))
    shares = {text: drawn.count(text) / count for text in ("a", "b", "c", None)}
    # Standard errors are 0.0045 (of 0.233) and 0.0048 (of 0.3).
    assert shares[None] == pytest.approx(1 - PROBABILITY, abs=0.02)
    for text in ("a", "b", "c"):
        assert shares[text] == pytest.approx(PROBABILITY / 3, abs=0.02)


def test_one_generator_redraws_and_one_seed_repeats() -> None:
    captions = [tuple(f"{label} {number}" for number in range(5)) for label in range(50)]
    generator = np.random.default_rng(2)
    first, second = (drawn_captions(captions, generator=generator) for _ in range(2))
    assert first != second
    assert first == drawn_captions(captions, generator=np.random.default_rng(2))
    # A caption is always its own identity's.
    assert all(text is None or text in captions[label] for label, text in enumerate(first))


@pytest.mark.parametrize("probability", [-0.1, 1.01, float("nan")])
def test_no_probability(probability: float) -> None:
    with pytest.raises(InputError, match=r"probability is .*; expected 0"):
        drawn_captions(CAPTIONS, probability=probability, generator=np.random.default_rng(0))
