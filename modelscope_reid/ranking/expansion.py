"""Better embeddings from several: of a query and its neighbours, of an image and its mirror image, of a tracklet.

In: embeddings. Out: embeddings. Knows nothing of identities, cameras or images.

Query expansion: Chum et al., "Total Recall" (ICCV 2007); alpha weights: Radenović et al., TPAMI 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.ranking.neighbours import nearest_in
from modelscope_reid.ranking.similarity import normalize


def expand_queries(
    queries: ArrayLike, gallery: ArrayLike, *, neighbours: int, alpha: float = 0.0
) -> NDArray[np.float32]:
    """Return each query (Q, D) averaged with its nearest gallery images (G, D), at unit length.

    The query weighs 1 and a neighbour its similarity to the power `alpha`, nothing where it is negative; with alpha 0
    all weigh the same. `neighbours` 0 only normalises.

    Raises:
        InputError: a negative `neighbours` or `alpha`, unequal sizes, or a row that is zero or not finite.
    """
    if neighbours < 0 or alpha < 0.0:
        raise InputError(f"neighbours is {neighbours} and alpha {alpha}; expected 0 or more of both.")
    unit, images = normalize(queries), normalize(gallery)
    if unit.shape[1] != images.shape[1]:
        raise InputError(f"queries have {unit.shape[1]} numbers, gallery {images.shape[1]}; use one model for both.")
    if not neighbours or not len(images):
        return unit
    nearest = nearest_in(unit, images, neighbours)
    weights = np.maximum(nearest.similarities, 0.0) ** alpha if alpha else np.ones_like(nearest.similarities)
    expanded = unit.copy()
    for place in range(nearest.indices.shape[1]):
        expanded += weights[:, place, None] * images[nearest.indices[:, place]]
    return normalize(expanded)


def fuse_views(first: ArrayLike, second: ArrayLike) -> NDArray[np.float32]:
    """Return the mean (N, D) of two embeddings of the same images, such as of the crop and of its mirror image.

    Lengths are kept as the model gave them: published code averages first and normalises later.

    Raises:
        InputError: shapes that differ, or are not (N, D).
    """
    left, right = np.asarray(first, np.float32), np.asarray(second, np.float32)
    if left.ndim != 2 or left.shape != right.shape:
        raise InputError(f"embeddings have shapes {left.shape} and {right.shape}; expected (N, D) twice.")
    return (left + right) / np.float32(2.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class FusedTracklets:
    """One unit vector for each tracklet: `tracklet_ids` (T,) ascending, `vectors` (T, D) float32.

    `rows` (T,): an image of each tracklet, the chosen one for the medoid and else the first, to take its labels from.
    """

    tracklet_ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    rows: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "tracklet_ids": self.tracklet_ids.tolist(),
            "vectors": self.vectors.tolist(),
            "rows": self.rows.tolist(),
        }


def fuse_tracklets(
    embeddings: ArrayLike, tracklet_ids: ArrayLike, *, method: Literal["mean", "medoid"] = "mean"
) -> FusedTracklets:
    """Return one vector per tracklet from the embeddings (N, D) of its images, given each image's tracklet (N,).

    "mean": the mean of unit vectors, at unit length. "medoid": the image most similar to the others, which one odd
    crop cannot pull away; of equally similar ones the first.

    Raises:
        InputError: lengths that differ, an unknown method, a row that is zero or not finite, or a mean of length zero.
    """
    if method not in ("mean", "medoid"):
        raise InputError(f"method is {method!r}; expected 'mean' or 'medoid'.")
    unit, tracklets = normalize(embeddings), np.asarray(tracklet_ids)
    if tracklets.shape != (len(unit),) or (len(unit) and tracklets.dtype.kind not in "iu"):
        raise InputError(f"{len(unit)} embeddings and tracklet_ids {tracklets.shape}; expected one integer per image.")
    ids, first, index = np.unique(tracklets, return_index=True, return_inverse=True)
    sums = np.zeros((len(ids), unit.shape[1]))
    np.add.at(sums, index, unit)
    if method == "mean":
        return FusedTracklets(tracklet_ids=ids.astype(np.int64), vectors=normalize(sums), rows=first)
    similarities = np.einsum("nd,nd->n", unit, sums[index])
    order = np.lexsort((np.arange(len(unit)), -similarities, index))
    rows = order[np.searchsorted(index[order], np.arange(len(ids)))]
    return FusedTracklets(tracklet_ids=ids.astype(np.int64), vectors=unit[rows], rows=rows)
