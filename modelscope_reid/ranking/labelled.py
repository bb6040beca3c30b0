"""Embeddings that come with the person and the camera of each: what the ranking protocol compares.

In: arrays. Out: the same, checked and frozen, and a view of unit length. Knows nothing of images or files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.similarity import normalize

JUNK_ID = -1
"""The person id of a box that shows no usable person: dropped from every gallery."""

DISTRACTOR_ID = 0
"""The person id of somebody who is nobody's match: stays in the gallery, and is never a true match."""


def _integers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{name} have shape {array.shape} and type {array.dtype}; expected (N,) integers.")
    return array.astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Who is on each image, and which camera took it: `person_ids` and `camera_ids`, both (N,) int64.

    Raises:
        InputError: not (N,) integers, lengths that differ, or a person id below -1.
    """

    person_ids: NDArray[np.int64]
    camera_ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("person_ids", "camera_ids"):
            object.__setattr__(self, name, _integers(getattr(self, name), name))
        if len(self.person_ids) != len(self.camera_ids):
            raise InputError(
                f"{len(self.person_ids)} person_ids and {len(self.camera_ids)} camera_ids; expected as many."
            )
        below = np.flatnonzero(self.person_ids < JUNK_ID)
        if below.size:
            raise InputError(
                f"person id of row {below[0]} is {self.person_ids[below[0]]}; expected 1 and up for people, "
                f"{DISTRACTOR_ID} for distractors, {JUNK_ID} for junk."
            )

    def __len__(self) -> int:
        return len(self.person_ids)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"person_ids": self.person_ids.tolist(), "camera_ids": self.camera_ids.tolist()}


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledEmbeddings(Labels):
    """`vectors` (N, D) float32 of any length, with the `person_ids` and `camera_ids` of the same rows.

    `unit`: the vectors at unit length, made from them.

    Raises:
        InputError: shapes or lengths that do not fit, or a vector that is zero or not finite (it names the row).
    """

    vectors: NDArray[np.float32]
    unit: NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        vectors = np.ascontiguousarray(self.vectors, dtype=np.float32)
        object.__setattr__(self, "vectors", vectors)
        if vectors.ndim != 2 or len(vectors) != len(self.person_ids):
            raise InputError(
                f"vectors have shape {vectors.shape} beside {len(self.person_ids)} person_ids; "
                "expected (N, D): one row per image."
            )
        object.__setattr__(self, "unit", normalize(vectors))

    def take(self, rows: ArrayLike) -> LabelledEmbeddings:
        """Return the rows that an index or boolean array picks."""
        chosen = np.asarray(rows)
        return LabelledEmbeddings(
            vectors=self.vectors[chosen], person_ids=self.person_ids[chosen], camera_ids=self.camera_ids[chosen]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"vectors": self.vectors.tolist(), **super().to_dict()}
