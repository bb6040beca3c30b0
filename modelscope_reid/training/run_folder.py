"""The folder of one training run: what it was told, what it has done, and where a stopped run goes on.

In: a recipe, a dataset and the weights of finished stages. Out: files, each written whole or not at all, and the
same back. Knows nothing of what a stage does.

Files: recipe.yaml (every field), run.json (versions, machine, seed, people), records.csv (every image of the dataset
with its labels and size), held_out.csv (the people held out, as a table), history.csv, curves.png, logs/ (TensorBoard),
checkpoints/ (last_<stage>.ckpt; best/, a model folder), stages/ (weights that a finished stage hands on), model/ (the
result), report/ (its evaluation).
"""

from __future__ import annotations

import csv
import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modelscope_reid.datasets.records import SPLITS, Dataset
from modelscope_reid.errors import InputError, TrainingError
from modelscope_reid.evaluation import versions
from modelscope_reid.files import whole_file
from modelscope_reid.training.recipe import Recipe, StageName
from modelscope_reid.training.recipe_files import read_recipe, write_recipe

RECIPE_FILE, RUN_FILE, RECORDS_FILE = "recipe.yaml", "run.json", "records.csv"
HELD_OUT_FILE = "held_out.csv"
RECORD_FIELDS = ("split", "path", "person_id", "camera_id", "bytes")
EXAMPLES = 3
LEFTOVER = re.compile(r"\..+\.(yaml|json|csv|png|ckpt|pt|npz|html|md|safetensors)\.[a-z0-9_]{8}")
"""A temporary name, as `whole_file` gives it, of a kind of file that a run writes."""

Row = tuple[str, ...]


class RunFolder:
    """Paths and files of the run in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.best = self.checkpoints / "best"
        self.model = folder / "model"
        self.report = folder / "report"
        self.logs = folder / "logs"

    def start(self, recipe: Recipe, dataset: Dataset, people: Mapping[int, int]) -> None:
        """Make the folder of a new run.

        Raises:
            InputError: it holds a run already, or cannot be written.
        """
        folder = self.folder
        if (folder / RECIPE_FILE).exists():
            raise InputError(f"{folder} holds a run already; go on with --resume {folder}, or choose another --output.")
        self._make_folders()
        _write_rows(_rows(dataset, _root(dataset)), folder / RECORDS_FILE)
        about = {
            "command": sys.argv,
            "seed": recipe.seed,
            "versions": {
                **versions(),
                "lightning": _version("lightning"),
                "open_clip_torch": _version("open_clip_torch"),
            },
            "machine": {"processor": platform.processor() or platform.machine(), "system": platform.platform()},
            "threads": torch.get_num_threads(),
            "dataset": dataset.to_dict(),
            "people": {str(person): label for person, label in people.items()},
        }
        with whole_file(folder / RUN_FILE) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        write_recipe(recipe, folder / RECIPE_FILE)  # last: a folder with a recipe is a run

    @classmethod
    def reopen(cls, folder: Path) -> RunFolder:
        """Open the folder of a run that was started before.

        Raises:
            InputError: there is none.
        """
        run = cls(folder)
        if not (folder / RECIPE_FILE).exists():
            raise InputError(f"{folder} holds no run to resume ({RECIPE_FILE} is not there); give a run's --output.")
        run._make_folders()
        for leftover in folder.rglob(".*.*"):  # what a killed process was writing
            if LEFTOVER.fullmatch(leftover.name) and leftover.is_file():
                leftover.unlink()
        return run

    def write_held_out(self, dataset: Dataset) -> None:
        """Write the people held out of training as a table, which `evaluate --dataset table` reads."""
        rows = [(split, str(Path(path).absolute()), *rest) for split, path, *rest in _rows(dataset, Path())]
        _write_rows([row for row in rows if row[0] != "train"], self.folder / HELD_OUT_FILE)

    def _make_folders(self) -> None:
        for folder in (self.checkpoints, self.folder / "stages"):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder} cannot be made: {error.strerror}; choose another --output.") from error

    def recipe(self, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """Read the run's recipe."""
        return read_recipe(self.folder / RECIPE_FILE, overrides)

    def check_dataset(self, dataset: Dataset) -> None:
        """Raise `TrainingError`, with the difference, where the dataset is not the one the run was started on."""
        with (self.folder / RECORDS_FILE).open(newline="", encoding="utf-8") as file:
            before = {tuple(row) for row in csv.reader(file)} - {RECORD_FIELDS}
        now = set(_rows(dataset, _root(dataset)))
        if before == now:
            return
        parts = [
            f"{len(rows):,} {word} (such as {', '.join(' '.join(row) for row in sorted(rows)[:EXAMPLES])})"
            for word, rows in (("added or changed", now - before), ("removed or as they were", before - now))
            if rows
        ]
        raise TrainingError(
            f"{dataset.root} has changed since the run in {self.folder} was started: {'; '.join(parts)}. "
            "Restore it, or start a new run."
        )

    def finished(self, stage: StageName) -> bool:
        """Tell whether a stage has handed on its weights."""
        return self._stage(stage).exists()

    def finish(self, stage: StageName, state: Mapping[str, Any]) -> None:
        """Keep what a finished stage hands on; its last checkpoint is no longer needed."""
        self.keep(stage, state)
        self.last(stage).unlink(missing_ok=True)

    def handed_on(self, stage: StageName) -> dict[str, Any]:
        """Return what a finished stage handed on."""
        state = self.kept(stage)
        assert state is not None  # `finished` was asked
        return state

    def keep(self, name: str, state: Mapping[str, Any]) -> None:
        """Write tensors under a name in stages/.

        Raises:
            InputError: the disk is full.
        """
        with whole_file(self._stage(name)) as temporary:
            try:
                torch.save(dict(state), temporary)
            except RuntimeError as error:
                raise InputError(f"{self._stage(name)} cannot be written: {error}; make room, then resume.") from error

    def kept(self, name: str) -> dict[str, Any] | None:
        """Return what was kept under a name, None where nothing was."""
        if not self._stage(name).exists():
            return None
        state: dict[str, Any] = torch.load(self._stage(name), map_location="cpu", weights_only=True)
        return state

    def last(self, stage: StageName) -> Path:
        """Return the path of a stage's last checkpoint."""
        return self.checkpoints / f"last_{stage}.ckpt"

    def _stage(self, stage: str) -> Path:
        return self.folder / "stages" / f"{stage}.pt"


def _root(dataset: Dataset) -> Path:
    return dataset.root if dataset.root.is_dir() else dataset.root.parent


def _rows(dataset: Dataset, root: Path) -> list[Row]:
    """Return a row per record, its path relative to `root` where it lies in there."""
    rows: list[Row] = []
    for split in SPLITS:
        for record in dataset.split(split):
            path = record.path.relative_to(root) if record.path.is_relative_to(root) else record.path
            try:
                size = record.path.stat().st_size
            except OSError as error:
                raise InputError(f"{record.path} cannot be read: {error.strerror}; restore it.") from error
            rows.append((split, path.as_posix(), str(record.person_id), str(record.camera_id), str(size)))
    return rows


def _write_rows(rows: Sequence[Row], path: Path) -> None:
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(RECORD_FIELDS)
        writer.writerows(rows)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
