"""Who is with whom: an unlabelled gallery in groups, each most likely one person, and a sheet of their pictures.

In: unit vectors. Out: a group number for each. Average linkage: two groups become one while the mean similarity of
their pairs is at least the threshold. A threshold that is right for pairs makes too few groups of single links, where
one wrong pair of many joins two people; the mean of all pairs is not so easily wrong. Groups can only join within a
connected component of similar pairs, so that no matrix of all pairs is needed. Knows nothing of stores.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.errors import InputError
from modelscope_reid.gallery.entries import Entry
from modelscope_reid.images import load_image
from modelscope_reid.plots import PAPER, QUIET, pixel_canvas, place, write, write_png
from modelscope_reid.ranking.blocks import row_blocks

MOST_TOGETHER = 20_000
"""The largest component that is looked at pair by pair, in 1.6 GB."""
ROWS, COLUMNS, CELL = 20, 12, (72, 144)
"""How many groups and pictures a sheet shows, and the pixels of a picture (width, height)."""
LEFT, TOP, GAP, CAPTION = 220, 70, 8, 26


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Entries that most likely show one person."""

    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"entries": [entry.to_dict() for entry in self.entries]}


def cluster_vectors(unit: NDArray[np.float32], *, threshold: float) -> NDArray[np.int64]:
    """Return the group (N,) of each unit vector (N, D), numbered from 0 by size, the largest first.

    Raises:
        InputError: a threshold outside -1..1, or one so low that too many vectors hang together.
    """
    if not -1.0 <= threshold <= 1.0:
        raise InputError(f"threshold is {threshold}; expected a cosine similarity, -1 to 1.")
    groups = np.arange(len(unit))
    next_group = len(unit)
    for members in _components(unit, threshold):
        groups[members] = next_group + _average_linkage(unit[members], threshold)
        next_group = int(groups.max()) + 1
    _, groups, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order))
    return numbers[groups]


def _components(unit: NDArray[np.float32], threshold: float) -> Iterable[NDArray[np.int64]]:
    """Yield the rows of each component of two or more that pairs of the threshold or more hold together."""
    from scipy import sparse  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    pairs = [np.empty((2, 0), np.int64)]
    for rows in row_blocks(len(unit), len(unit)):
        first, second = np.nonzero(unit[rows] @ unit[rows.start :].T >= threshold)
        pairs.append(np.stack([first, second]) + rows.start)
    first, second = np.concatenate(pairs, axis=1)
    links = sparse.csr_array((np.ones(len(first), bool), (first, second)), shape=(len(unit), len(unit)))
    component = connected_components(links, directed=False)[1]
    order = np.argsort(component, kind="stable")
    starts = np.flatnonzero(np.diff(component[order], prepend=-1))
    for members in np.split(order, starts[1:]):
        if len(members) > MOST_TOGETHER:
            raise InputError(
                f"at threshold {threshold} {len(members)} images hang together, more than {MOST_TOGETHER}; raise it."
            )
        if len(members) > 1:
            yield members


def _average_linkage(unit: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]

    distances = 1.0 - (unit @ unit.T)[np.triu_indices(len(unit), 1)].astype(np.float64)
    tree = linkage(np.maximum(distances, 0.0), "average")
    return np.asarray(fcluster(tree, 1.0 - threshold, "distance"), np.int64)


def draw_contact_sheet(clusters: Sequence[Cluster], path: Path) -> None:
    """Draw the largest groups, one row each, with how many images and cameras they have; entries need thumbnails.

    Raises:
        InputError: no group, no thumbnail, or `path` cannot be written.
    """
    shown = clusters[:ROWS]
    if not any(entry.thumbnail for cluster in shown for entry in cluster.entries):
        raise InputError("there is no picture to draw; enroll with thumbnails, and cluster a gallery that has images.")
    width, height = CELL
    columns = min(COLUMNS, max(len(cluster) for cluster in shown))
    figure, axes = pixel_canvas(max(640, LEFT + columns * (width + GAP)), TOP + len(shown) * (height + CAPTION))
    title = f"{sum(map(len, clusters))} images in {len(clusters)} groups; the {len(shown)} largest"
    write(axes, 20, 20, title, size=8, ha="left", weight="bold")
    for row, cluster in enumerate(shown):
        y = TOP + row * (height + CAPTION)
        cameras = {entry.camera_id for entry in cluster.entries} - {None}
        persons = sorted({entry.person_id for entry in cluster.entries if entry.person_id is not None})
        said = f"{row + 1}: {len(cluster)} images" + (f"\n{len(cameras)} cameras" if cameras else "")
        write(axes, 20, y + 10, said + ("\n" + ", ".join(persons)[:24] if persons else ""), size=6.5, ha="left")
        for column, entry in enumerate(cluster.entries[:columns]):
            x = LEFT + column * (width + GAP)
            if entry.thumbnail:
                place(axes, _picture(entry.thumbnail), x, y)
            write(axes, x + width / 2, y + height + 2, f"{entry.camera_id or ''}"[:10], size=5, color=QUIET)
    write_png(figure, path)


def _picture(jpeg: bytes) -> NDArray[np.uint8]:
    """Return a thumbnail as (H, W, 3) of a cell's size, in its own proportions on paper."""
    from PIL import Image

    image = load_image(io.BytesIO(jpeg))
    image.thumbnail(CELL)
    cell = Image.new("RGB", CELL, PAPER)
    cell.paste(image, ((CELL[0] - image.width) // 2, (CELL[1] - image.height) // 2))
    return np.asarray(cell)
