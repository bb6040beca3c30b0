"""Images as directions in the plane, so that every distance can be read off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelscope_reid.ranking.labelled import LabelledEmbeddings

Image = tuple[float, int, int]
"""(degrees, person, camera): the larger the angle to the query, the farther."""


def embeddings(images: Sequence[Image]) -> LabelledEmbeddings:
    angles = np.deg2rad([angle for angle, _, _ in images])
    return LabelledEmbeddings(
        vectors=np.stack([np.cos(angles), np.sin(angles)], axis=1).reshape(-1, 2),
        person_ids=np.array([person for _, person, _ in images], dtype=np.int64),
        camera_ids=np.array([camera for _, _, camera in images], dtype=np.int64),
    )


def random_embeddings(
    seed: int, count: int, *, people: int, cameras: int = 3, dim: int = 4, distinct: int | None = None
) -> LabelledEmbeddings:
    """Random vectors, people from -1 (junk) and 0 (distractors) up; only `distinct` different vectors where given."""
    stream = np.random.default_rng(seed)
    vectors = stream.standard_normal((count if distinct is None else distinct, dim))
    if distinct is not None:
        vectors = vectors[stream.integers(0, distinct, count)]
    return LabelledEmbeddings(
        vectors=vectors.astype(np.float32),
        person_ids=stream.integers(-1, people + 1, count),
        camera_ids=stream.integers(0, cameras, count),
    )
