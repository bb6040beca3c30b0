"""The entries of an embedded gallery in memory, column by column, for searching: vectors and what filters ask for.

Rows are only ever appended; a deleted one stays as zeros, marked as gone. A `View` of the columns goes on to be right
for whoever holds it while others append. Knows nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelscope_reid.gallery.entries import Filters

UNKNOWN = -1
"""The code of a person or a camera that nobody named."""

Codes = dict[str | None, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows to append: `ids` (N,) int64 ascending, `vectors` (N, D) float32, names, and times (NaN: not known)."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    persons: tuple[str | None, ...]
    cameras: tuple[str | None, ...]
    timestamps: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> Rows:
        """Return the rows from `start` up to `stop`."""
        rows = slice(start, stop)
        return Rows(
            ids=self.ids[rows],
            vectors=self.vectors[rows],
            persons=self.persons[rows],
            cameras=self.cameras[rows],
            timestamps=self.timestamps[rows],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values of the labels."""
        return {"ids": self.ids.tolist(), "persons": list(self.persons), "cameras": list(self.cameras)}


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """The columns as they stood at one moment, all of one length; `alive` is False where a row was deleted."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    alive: NDArray[np.bool_]
    persons: NDArray[np.int32]
    cameras: NDArray[np.int32]
    timestamps: NDArray[np.float64]
    person_codes: Codes
    camera_codes: Codes

    def __len__(self) -> int:
        return len(self.ids)

    def passing(self, filters: Filters) -> NDArray[np.bool_]:
        """Return which rows (N,) pass."""
        mask = self.alive.copy()
        for camera in filters.exclude_cameras:
            if camera in self.camera_codes:
                mask &= self.cameras != self.camera_codes[camera]
        if filters.cameras:
            mask &= _any_of(self.cameras, filters.cameras, self.camera_codes)
        if filters.persons:
            mask &= _any_of(self.persons, filters.persons, self.person_codes)
        if filters.labelled:
            mask &= self.persons != UNKNOWN
        if filters.since is not None:  # NaN, a time not known, passes neither comparison
            mask &= self.timestamps >= filters.since
        if filters.until is not None:
            mask &= self.timestamps < filters.until
        return mask

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values of the sizes."""
        return {"rows": len(self), "alive": int(self.alive.sum())}


def _any_of(column: NDArray[np.int32], names: tuple[str, ...], codes: Codes) -> NDArray[np.bool_]:
    wanted = [codes[name] for name in names if name in codes]
    if len(wanted) == 1:
        return np.equal(column, wanted[0])
    return np.isin(column, wanted)


class Columns:
    """The columns and the room to append to them. One thread at a time may append or erase."""

    def __init__(self, dimension: int, *, room: int = 0) -> None:
        self._count = 0
        self._person_codes: Codes = {None: UNKNOWN}
        self._camera_codes: Codes = {None: UNKNOWN}
        self._arrays: dict[str, NDArray[Any]] = {
            "ids": np.zeros(room, np.int64),
            "vectors": np.zeros((room, dimension), np.float32),
            "alive": np.zeros(room, np.bool_),
            "persons": np.full(room, UNKNOWN, np.int32),
            "cameras": np.full(room, UNKNOWN, np.int32),
            "timestamps": np.full(room, np.nan, np.float64),
        }

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Rows) -> None:
        """Append rows behind all others."""
        start = self._count
        self.reserve(rows.ids, visible=False)
        self.put(slice(start, start + len(rows)), rows)
        self._count += len(rows)

    def reserve(self, ids: NDArray[np.int64], *, visible: bool = True) -> None:
        """Append rows that are gone, for `put` to fill."""
        self._make_room(self._count + len(ids))
        self._arrays["ids"][self._count : self._count + len(ids)] = ids
        self._count += len(ids) if visible else 0

    def put(self, places: NDArray[np.int64] | slice, rows: Rows) -> None:
        """Fill the rows at `places`; they are there from now on."""
        values: dict[str, Any] = {
            "vectors": rows.vectors,
            "persons": _coded(rows.persons, self._person_codes),
            "cameras": _coded(rows.cameras, self._camera_codes),
            "timestamps": rows.timestamps,
            "alive": True,
        }
        for name, column in values.items():
            self._arrays[name][places] = column

    def erase(self, rows: NDArray[np.int64]) -> None:
        """Overwrite rows by zeros, labels included; they pass no filter from now on."""
        for name, value in (("alive", False), ("vectors", 0.0), ("persons", UNKNOWN), ("cameras", UNKNOWN)):
            self._arrays[name][rows] = value
        self._arrays["timestamps"][rows] = np.nan

    def view(self) -> View:
        """Return the columns as they stand now."""
        columns = {name: array[: self._count] for name, array in self._arrays.items()}
        return View(**columns, person_codes=self._person_codes, camera_codes=self._camera_codes)

    def _make_room(self, wanted: int) -> None:
        """Move to larger arrays where these are full; whoever holds a view keeps the old ones."""
        if wanted <= len(self._arrays["ids"]):
            return
        room = max(wanted, 2 * self._count, 1024)
        for name, old in self._arrays.items():
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[: self._count] = old[: self._count]
            self._arrays[name] = new


def _coded(names: tuple[str | None, ...], codes: Codes) -> list[int]:
    """Return the code of each name; new names get the next ones."""
    for name in dict.fromkeys(names):
        codes.setdefault(name, len(codes) - 1)  # None has a code of its own, below 0
    return [codes[name] for name in names]
