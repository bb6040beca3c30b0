"""The table of epochs: rows, the file, and back."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from modelscope_reid.errors import InputError
from modelscope_reid.training.history import HISTORY_FILE, History, read_history


def test_figures_of_an_epoch_are_one_row(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add("prompts", 1, {"loss": 2.0})
    history.add("images", 1, {"loss": 3.0, "learning_rate": 1e-5})
    history.add("images", 1, {"mAP": 0.5})
    history.add("images", 1, {"loss": 2.5})  # trained again after a stop
    assert history.rows == [
        {"stage": "prompts", "epoch": 1, "loss": 2.0},
        {"stage": "images", "epoch": 1, "loss": 2.5, "learning_rate": 1e-5, "mAP": 0.5},
    ]


def test_stages_and_columns(tmp_path: Path) -> None:
    history = History(tmp_path)
    for epoch in (1, 2, 3):
        history.add("prompts", epoch, {"loss": 10.0 - epoch})
    history.add("images", 1, {"loss": 1.0, "mAP": 0.1})
    history.add("images", 2, {"loss": 0.5})
    history.add("images", 3, {"loss": 0.25, "mAP": 0.3})
    assert history.stages == ["prompts", "images"]
    assert history.column("prompts", "loss") == ([1, 2, 3], [9.0, 8.0, 7.0])
    assert history.column("images", "mAP") == ([1, 3], [0.1, 0.3])
    assert history.column("prompts", "mAP") == ([], [])
    assert History(tmp_path).stages == []


def test_written_and_read_back(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add("prompts", 1, {"loss": 1 / 3})
    history.add("images", 1, {"loss": 1e-7, "mAP": 0.0})
    history.add("images", 2, {"loss": math.inf})
    history.write()
    assert read_history(tmp_path).rows == history.rows
    with (tmp_path / HISTORY_FILE).open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["stage", "epoch", "loss", "mAP"]
    assert lines[1] == ["prompts", "1", str(1 / 3), ""]
    assert [path.name for path in tmp_path.iterdir()] == [HISTORY_FILE]


def test_a_new_run_has_an_empty_history(tmp_path: Path) -> None:
    assert read_history(tmp_path).rows == []


def test_a_history_that_goes_on_keeps_what_it_read(tmp_path: Path) -> None:
    first = History(tmp_path)
    first.add("images", 1, {"loss": 2.0})
    first.write()
    second = read_history(tmp_path)
    second.add("images", 2, {"loss": 1.0, "mAP": 0.5})
    second.write()
    assert read_history(tmp_path).column("images", "loss") == ([1, 2], [2.0, 1.0])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    history = History(tmp_path / "gone")
    history.add("images", 1, {"loss": 2.0})
    with pytest.raises(InputError, match=r"history\.csv cannot be written"):
        history.write()
