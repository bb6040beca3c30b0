"""Cosine similarity of embeddings.

In: embeddings (N, D), of any length. Out: similarities, larger = closer. Knows nothing of where they came from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.blocks import row_blocks

BLOCK_VALUES = 2**17
"""How many numbers are scaled at a time: in float64 they fit in a core's cache."""

PAIR_VALUES = 2**20
"""How many numbers of gathered vectors are multiplied at a time."""


def normalize(embeddings: ArrayLike) -> NDArray[np.float32]:
    """Return embeddings (N, D) scaled to unit length, float32.

    Raises:
        InputError: not two-dimensional, or a row that is not finite or has length zero (it names the row).
    """
    vectors = np.asarray(embeddings, dtype=np.float32)
    if vectors.ndim != 2:
        raise InputError(f"embeddings have shape {vectors.shape}; expected (N, D): one row per image.")
    unit = np.empty(vectors.shape, dtype=np.float32)
    for block in row_blocks(*vectors.shape, values=BLOCK_VALUES):
        lengths = np.linalg.norm(vectors[block].astype(np.float64), axis=1, keepdims=True)
        bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0.0))
        if bad.size:
            row, kind = block.start + bad[0], "not finite (NaN or infinite)"
            if lengths[bad[0], 0] == 0.0:
                kind = "of length zero"
            raise InputError(f"embedding {row} is {kind}, so it has no direction; embed that image again or drop it.")
        unit[block] = vectors[block] / lengths
    return unit


def cosine_similarity(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the cosine similarities (N, M) float32 in -1..1 of embeddings a (N, D) and b (M, D).

    Raises:
        InputError: shapes that do not fit, or a row that is zero or not finite.
    """
    left, right = normalize(a), normalize(b)
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"embeddings of {left.shape[1]} and {right.shape[1]} numbers cannot be compared; use one model for both."
        )
    similarities: NDArray[np.float32] = np.clip(left @ right.T, -1.0, 1.0)
    return similarities


def pair_similarities(
    first: NDArray[np.float32], second: NDArray[np.float32], *, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the similarities (P,) of `first[rows]` and `second[columns]`, unit vectors both, a few pairs at a time."""
    similarities = np.empty(len(rows), np.float32)
    for part in row_blocks(len(rows), first.shape[1], values=PAIR_VALUES):
        similarities[part] = np.einsum("pd,pd->p", first[rows[part]], second[columns[part]])
    return similarities
