"""What embedding a list of images gives: vectors, which images they are of, and which images failed and why.

Plain data with NumPy; validated when made. Knows nothing of how the vectors came about.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One image that could not be embedded: its place in the list, its name, and the reason in one sentence."""

    index: int
    source: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"index": self.index, "source": self.source, "reason": self.reason}


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """`vectors` (N, D) float32; `indices` (N,) int64, each row's place in the list that was given, ascending."""

    vectors: NDArray[np.float32]
    indices: NDArray[np.int64]
    failures: tuple[Failure, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.indices.shape != (len(self.vectors),):
            raise InputError(
                f"vectors {self.vectors.shape} and indices {self.indices.shape} do not fit; expected (N, D) and (N,)."
            )

    def __len__(self) -> int:
        return len(self.vectors)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "vectors": self.vectors.tolist(),
            "indices": self.indices.tolist(),
            "failures": [failure.to_dict() for failure in self.failures],
        }


def concatenate(batches: Iterable[Embeddings], *, dim: int) -> Embeddings:
    """Join batches in order; no batch gives (0, `dim`)."""
    collected = list(batches)
    return Embeddings(
        vectors=np.concatenate([np.empty((0, dim), np.float32), *(batch.vectors for batch in collected)]),
        indices=np.concatenate([np.empty(0, np.int64), *(batch.indices for batch in collected)]),
        failures=tuple(failure for batch in collected for failure in batch.failures),
    )
