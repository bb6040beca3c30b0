"""The folder of a run: begun once, opened again, and what may not have changed meanwhile."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from modelscope_reid.datasets.records import Dataset, Record
from modelscope_reid.errors import ConfigError, InputError, TrainingError
from modelscope_reid.training.recipe import ModelSpec, Recipe
from modelscope_reid.training.run_folder import RunFolder

RECIPE = Recipe(model=ModelSpec(backbone="osnet_x0_25"), seed=5, description="Kurz, 你好")
PEOPLE = {3: 0, 8: 1}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    root = tmp_path / "data"
    root.mkdir()
    for number in range(6):
        (root / f"{number}.jpg").write_bytes(b"x" * (10 + number))
    records = [Record(root / f"{number}.jpg", 3 if number % 2 else 8, number // 2) for number in range(6)]
    return Dataset(name="six", root=root, train=tuple(records[:4]), query=(records[4],), gallery=(records[5],))


@pytest.fixture
def run(tmp_path: Path, dataset: Dataset) -> RunFolder:
    run = RunFolder(tmp_path / "deep" / "run")
    run.start(RECIPE, dataset, PEOPLE)
    return run


def test_what_a_run_was_told_is_written(run: RunFolder, dataset: Dataset) -> None:
    assert run.recipe() == RECIPE
    about = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    assert about["seed"] == 5
    assert about["people"] == {"3": 0, "8": 1}
    assert about["dataset"]["fingerprint"] == dataset.fingerprint
    assert {"torch", "lightning", "open_clip_torch"} <= set(about["versions"])
    with (run.folder / "records.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["split", "path", "person_id", "camera_id", "bytes"]
    assert rows[1] == ["train", "0.jpg", "8", "0", "10"]
    assert rows[-1] == ["gallery", "5.jpg", "3", "2", "15"]
    assert len(rows) == 1 + 6


def test_a_folder_that_holds_a_run_is_refused(run: RunFolder, dataset: Dataset) -> None:
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"holds a run already; go on with --resume {run.folder}, or choose another"):
        RunFolder(run.folder).start(dataclasses.replace(RECIPE, seed=6), dataset, PEOPLE)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_things_is_taken(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).start(RECIPE, dataset, PEOPLE)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_way(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be made: .*choose another --output"):
        RunFolder(tmp_path / "file").start(RECIPE, dataset, PEOPLE)


def test_reopened(run: RunFolder, dataset: Dataset) -> None:
    again = RunFolder.reopen(run.folder)
    assert again.recipe() == RECIPE
    assert again.recipe({"data.workers": 3}).data.workers == 3
    again.check_dataset(dataset)
    with pytest.raises(ConfigError):
        again.recipe({"data.wrokers": 3})


def test_nothing_to_reopen(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run to resume \(recipe.yaml is not there\)"):
        RunFolder.reopen(tmp_path)


def test_a_run_killed_while_it_began_is_begun_anew(tmp_path: Path, dataset: Dataset, monkeypatch: Any) -> None:
    folder = tmp_path / "run"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("modelscope_reid.training.run_folder.write_recipe", killed)
        with pytest.raises(KeyboardInterrupt):
            RunFolder(folder).start(RECIPE, dataset, PEOPLE)
    with pytest.raises(InputError, match="holds no run"):
        RunFolder.reopen(folder)
    RunFolder(folder).start(RECIPE, dataset, PEOPLE)
    assert RunFolder.reopen(folder).recipe() == RECIPE


def test_what_killed_writers_left_is_removed_and_nothing_else(run: RunFolder) -> None:
    run.model.mkdir()
    left = []
    for target in (
        "recipe.yaml",
        "history.csv",
        "checkpoints/last_images.ckpt",
        "stages/images.pt",
        "model/model.safetensors",
    ):
        path = run.folder / target
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # as whole_file makes it
        os.write(handle, b"half")
        os.close(handle)
        left.append(Path(name))
    mine = [".hidden", ".notes.2024.txt", ".~lock.history.csv#", "a.b.c.d.yaml", ".x.y", "model/.cache.v1.old.bin"]
    for name in mine:
        (run.folder / name).write_text("mine")
    (run.folder / ".a.json.folder12").mkdir()
    kept = set(run.folder.rglob("*")) - set(left)
    RunFolder.reopen(run.folder)
    assert set(run.folder.rglob("*")) == kept
    assert {run.folder / name for name in mine} <= kept


def test_a_changed_dataset_is_refused_with_the_difference(run: RunFolder, dataset: Dataset) -> None:
    (dataset.root / "2.jpg").write_bytes(b"y" * 99)
    with pytest.raises(TrainingError) as caught:
        run.check_dataset(dataset)
    message = str(caught.value)
    assert "has changed since the run" in message and "\n" not in message
    assert "1 added or changed (such as train 2.jpg 8 1 99)" in message
    assert "1 removed or as they were (such as train 2.jpg 8 1 12)" in message


def test_added_removed_and_relabelled_images(run: RunFolder, dataset: Dataset) -> None:
    (dataset.root / "new.jpg").write_bytes(b"n")
    more = dataclasses.replace(dataset, train=(*dataset.train, Record(dataset.root / "new.jpg", 3, 0)))
    with pytest.raises(TrainingError, match=r"1 added or changed \(such as train new.jpg 3 0 1\)\. Restore"):
        run.check_dataset(more)
    with pytest.raises(TrainingError, match=r"started: 1 removed or as they were \(such as train 3.jpg 3 1 13\)\. Res"):
        run.check_dataset(dataclasses.replace(dataset, train=dataset.train[:3]))
    relabelled = (dataclasses.replace(dataset.train[0], person_id=3), *dataset.train[1:])
    with pytest.raises(TrainingError, match=r"train 0\.jpg 3 0 10"):
        run.check_dataset(dataclasses.replace(dataset, train=relabelled))


def test_many_changes_are_counted_and_three_named(run: RunFolder, dataset: Dataset) -> None:
    for path in dataset.root.iterdir():
        path.write_bytes(b"")
    with pytest.raises(TrainingError, match="6 added or changed") as caught:
        run.check_dataset(dataset)
    assert str(caught.value).count(".jpg") == 6


def test_order_and_place_of_a_dataset_may_change(run: RunFolder, dataset: Dataset) -> None:
    moved = dataset.root.rename(dataset.root.parent / "elsewhere")

    def there(records: tuple[Record, ...]) -> tuple[Record, ...]:
        return tuple(dataclasses.replace(record, path=moved / record.path.name) for record in reversed(records))

    run.check_dataset(
        dataclasses.replace(
            dataset, root=moved, train=there(dataset.train), query=there(dataset.query), gallery=there(dataset.gallery)
        )
    )


def test_an_image_that_has_gone_while_the_dataset_was_read(run: RunFolder, dataset: Dataset) -> None:
    (dataset.root / "1.jpg").unlink()
    with pytest.raises(InputError, match=r"1\.jpg cannot be read"):
        run.check_dataset(dataset)


def test_a_stage_hands_on_its_weights(run: RunFolder) -> None:
    run.last("images").write_bytes(b"checkpoint")
    run.last("prompts").write_bytes(b"another stage's")
    assert not run.finished("images")
    run.finish("images", {"weight": torch.arange(3.0)})
    assert run.finished("images") and not run.finished("prompts")
    assert not run.last("images").exists() and run.last("prompts").exists()
    handed = RunFolder.reopen(run.folder).handed_on("images")
    assert list(handed) == ["weight"] and torch.equal(handed["weight"], torch.arange(3.0))


def test_what_is_kept_under_a_name(run: RunFolder) -> None:
    assert run.kept("features") is None
    run.keep("features", {"image": torch.ones(2)})
    kept = run.kept("features")
    assert kept is not None and torch.equal(kept["image"], torch.ones(2))


def test_a_full_disk_leaves_the_checkpoint(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.last("images").write_bytes(b"checkpoint")

    def full(state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"images\.pt cannot be written: .*make room, then resume"):
        run.finish("images", {"weight": torch.ones(1)})
    assert run.last("images").read_bytes() == b"checkpoint"
    assert not run.finished("images")
    assert list((run.folder / "stages").iterdir()) == []
