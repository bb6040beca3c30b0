"""Cosine similarity of embeddings.

In: embeddings (N, D), of any length. Out: similarities, larger = closer. Knows nothing of where they came from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelscope_reid.errors import InputError


def normalize(embeddings: ArrayLike) -> NDArray[np.float32]:
    """Return embeddings (N, D) scaled to unit length, float32.

    Raises:
        InputError: not two-dimensional, or a row that is not finite or has length zero (it names the row).
    """
    vectors = np.asarray(embeddings, dtype=np.float32)
    if vectors.ndim != 2:
        raise InputError(f"embeddings have shape {vectors.shape}; expected (N, D): one row per image.")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0.0))
    if bad.size:
        kind = "of length zero" if lengths[bad[0], 0] == 0.0 else "not finite (NaN or infinite)"
        raise InputError(f"embedding {bad[0]} is {kind}, so it has no direction; embed that image again or drop it.")
    unit: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
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
