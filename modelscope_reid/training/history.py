"""What happened, epoch by epoch: a table, its file and its picture.

In: figures by name for one epoch of one stage. Out: history.csv, and curves.png. Knows nothing of what runs.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelscope_reid.files import whole_file

HISTORY_FILE, CURVES_FILE = "history.csv", "curves.png"


class History:
    """Rows of one epoch each, {"stage", "epoch", figures…}, in the order they came."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []

    def add(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Add figures to the row of an epoch, counted from 1."""
        for row in self.rows:
            if (row["stage"], row["epoch"]) == (stage, epoch):
                row.update(figures)
                return
        self.rows.append({"stage": stage, "epoch": epoch, **figures})

    def write(self) -> None:
        """Write history.csv, whole or not at all."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with whole_file(self.folder / HISTORY_FILE) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def column(self, stage: str, name: str) -> tuple[list[int], list[float]]:
        """Return the epochs of a stage that have a figure, and the figure."""
        rows = [row for row in self.rows if row["stage"] == stage and name in row]
        return [row["epoch"] for row in rows], [row[name] for row in rows]

    @property
    def stages(self) -> list[str]:
        """The stages that there are rows of, in order."""
        return list(dict.fromkeys(row["stage"] for row in self.rows))


def read_history(folder: Path) -> History:
    """Read history.csv, where there is one."""
    history = History(folder)
    path = folder / HISTORY_FILE
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                figures = {
                    name: float(value) for name, value in row.items() if value and name not in ("stage", "epoch")
                }
                history.add(row["stage"], int(row["epoch"]), figures)
    return history
