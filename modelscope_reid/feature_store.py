"""Embeddings of a dataset on disk, written while they are computed, and resumed where a run was stopped.

In: an embedder and labelled images. Out: `LabelledFeatures`: vectors (N, D) with person, camera, path and split of
each. A run that was killed, even by SIGKILL, goes on after the last whole batch; the vectors are the same as those of
one run. Knows nothing of rankings.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps
from tqdm import tqdm

from modelscope_reid.config import UNKNOWN_CAMERA
from modelscope_reid.datasets.records import Dataset, Record, camera_labels
from modelscope_reid.embedder import Embedder
from modelscope_reid.errors import InputError
from modelscope_reid.files import whole_file
from modelscope_reid.images import load_image
from modelscope_reid.ranking.expansion import fuse_views
from modelscope_reid.ranking.labelled import LabelledEmbeddings

logger = logging.getLogger(__name__)

ROWS_FILE = "rows.float32"
STATE_FILE = "rows.json"
FIELDS = ("embeddings", "person_ids", "camera_ids", "is_query", "paths")
"""What a features file (.npz) holds: (N, D) float32, (N,) int64 twice, (N,) bool, (N,) text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledFeatures:
    """The embeddings of queries and gallery in one table; `paths` (N,), `is_query` (N,) bool.

    Raises:
        InputError: lengths that differ.
    """

    embeddings: NDArray[np.float32]
    person_ids: NDArray[np.int64]
    camera_ids: NDArray[np.int64]
    is_query: NDArray[np.bool_]
    paths: NDArray[np.str_]

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in FIELDS}
        if self.embeddings.ndim != 2 or len(set(lengths.values())) != 1:
            raise InputError(f"features have shape {self.embeddings.shape} and lengths {lengths}; expected one length.")

    @cached_property
    def query(self) -> LabelledEmbeddings:
        """The queries."""
        return self._part(self.is_query)

    @cached_property
    def gallery(self) -> LabelledEmbeddings:
        """The gallery."""
        return self._part(~self.is_query)

    def _part(self, rows: NDArray[np.bool_]) -> LabelledEmbeddings:
        return LabelledEmbeddings(
            vectors=self.embeddings[rows], person_ids=self.person_ids[rows], camera_ids=self.camera_ids[rows]
        )

    def save(self, path: str | Path) -> None:
        """Write the table as .npz, whole or not at all."""
        with whole_file(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in FIELDS})

    @classmethod
    def load(cls, path: str | Path) -> LabelledFeatures:
        """Read a table that `save` or any other program wrote.

        Raises:
            InputError: no such file, no .npz, or a column is missing (it names the columns).
        """
        try:
            with np.load(path, allow_pickle=False) as table:
                missing = [name for name in FIELDS if name not in table.files]
                if missing:
                    raise InputError(f"{path} lacks {', '.join(missing)}; expected the arrays {', '.join(FIELDS)}.")
                return cls(
                    embeddings=np.asarray(table["embeddings"], np.float32),
                    person_ids=np.asarray(table["person_ids"], np.int64),
                    camera_ids=np.asarray(table["camera_ids"], np.int64),
                    is_query=np.asarray(table["is_query"], bool),
                    paths=np.asarray(table["paths"], np.str_),
                )
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist; pass a file that `evaluate` wrote.") from error
        except (OSError, ValueError, EOFError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is no intact .npz file: {error}.") from error


def embed_dataset(
    embedder: Embedder, dataset: Dataset, folder: Path | None = None, *, flip: bool = False, progress: bool = False
) -> LabelledFeatures:
    """Embed queries and gallery of `dataset`, in `folder` so that a stopped run can go on, or in memory without one.

    `flip` averages each image's embedding with that of its mirror image. A camera-aware model is told the cameras,
    numbered in order of their ids as training numbers them, where the dataset has as many cameras as the model.

    Raises:
        InputError: no query or no gallery, or a folder that holds the rows of another model or dataset.
        ImageError: an image that cannot be read.
    """
    dataset.require("query", "gallery")
    records = (*dataset.query, *dataset.gallery)
    store = None
    if folder is not None:
        state = {
            "dataset": dataset.fingerprint,
            "model": embedder.fingerprint,
            "precision": embedder.runtime.precision,
            "flip": flip,
            "rows": len(records),
            "dim": embedder.embedding_dim,
        }
        store = _RowStore(folder, state)
    cameras = _model_cameras(embedder, dataset)
    done = store.rows() if store else np.empty((0, embedder.embedding_dim), np.float32)
    batches = [done]
    step = 4 * embedder.batch_size
    for start in tqdm(range(len(done), len(records), step), unit="batch", disable=not progress):
        batch = slice(start, start + step)
        vectors = _embed_records(embedder, records[batch], cameras[batch], flip=flip)
        if store:
            store.append(vectors)
        batches.append(vectors)
    return LabelledFeatures(
        embeddings=np.concatenate(batches),
        person_ids=np.array([record.person_id for record in records], np.int64),
        camera_ids=np.array([record.camera_id for record in records], np.int64),
        is_query=np.arange(len(records)) < len(dataset.query),
        paths=np.array([str(record.path) for record in records], np.str_),
    )


def _model_cameras(embedder: Embedder, dataset: Dataset) -> list[int]:
    """Return the row of the model's camera embedding for each query and gallery image; unknown where none fits."""
    records = (*dataset.query, *dataset.gallery)
    known = getattr(embedder.config, "cameras", 0)
    labels = camera_labels((*dataset.train, *records))
    if known == len(labels):
        return [labels[record.camera_id] for record in records]
    if known:
        logger.warning(
            "the model knows %d cameras and %s has %d: embedding without cameras", known, dataset.name, len(labels)
        )
    return [UNKNOWN_CAMERA] * len(records)


def _embed_records(
    embedder: Embedder, records: Sequence[Record], cameras: Sequence[int], *, flip: bool
) -> NDArray[np.float32]:
    """Embed images by path, or by path and mirrored."""
    if not flip:
        return embedder.embed([record.path for record in records], camera_ids=cameras)
    images = [load_image(record.path, limits=embedder.limits) for record in records]
    mirrored = [ImageOps.mirror(image) for image in images]
    return fuse_views(embedder.embed(images, camera_ids=cameras), embedder.embed(mirrored, camera_ids=cameras))


class _RowStore:
    """Rows of float32 in one growing file, beside what they are rows of."""

    def __init__(self, folder: Path, state: dict[str, Any]) -> None:
        self.path = folder / ROWS_FILE
        self.dim = int(state["dim"])
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / STATE_FILE
        if known.exists() and json.loads(known.read_text(encoding="utf-8")) != state:
            raise InputError(
                f"{folder} holds the embeddings of another model, dataset or setting; choose another output folder, "
                f"or delete {self.path.name} and {known.name} in it."
            )
        if not known.exists():
            self.path.unlink(missing_ok=True)
            with whole_file(known) as temporary:
                temporary.write_text(json.dumps(state), encoding="utf-8")

    def rows(self) -> NDArray[np.float32]:
        """Return the whole rows on disk, and cut off a last one that was not written to its end."""
        if not self.path.exists():
            return np.empty((0, self.dim), np.float32)
        width = 4 * self.dim
        count = self.path.stat().st_size // width
        with self.path.open("r+b") as file:
            file.truncate(count * width)
            return np.frombuffer(file.read(), np.float32).reshape(count, self.dim)

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Write rows, on the disk before this returns."""
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(vectors, np.float32).tobytes())
            file.flush()
            os.fsync(file.fileno())
