"""Which identities are described by a caption for a while, instead of by their learned prompt.

In: the captions of each label. Out: one caption or none for each. Pure: the caller holds the generator, and draws
anew every 10 epochs. Knows nothing of tokens, models or files.

Source: reid-task (facts only): one random caption per identity, with probability 0.7.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelscope_reid.errors import InputError

PROBABILITY = 0.7


def drawn_captions(
    captions_by_label: Sequence[Sequence[str]],
    *,
    probability: float = PROBABILITY,
    generator: np.random.Generator,
) -> list[str | None]:
    """Draw one caption per identity with `probability`; None keeps the learned prompt, as where there is no caption.

    Raises:
        InputError: a probability out of 0..1.
    """
    if not 0 <= probability <= 1:
        raise InputError(f"probability is {probability}; expected 0 (prompts only) to 1 (captions wherever there are).")
    described = generator.random(len(captions_by_label)) < probability
    counts = np.array([max(1, len(captions)) for captions in captions_by_label], dtype=np.int64)
    choices = generator.integers(counts)
    return [
        captions[choice] if drawn and captions else None
        for captions, drawn, choice in zip(captions_by_label, described, choices, strict=True)
    ]
