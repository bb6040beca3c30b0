"""What watches training: the loss, the history, measurements, checkpoints, the bar."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from one_number import OneNumber, run

from modelscope_reid.errors import InputError, TrainingError
from modelscope_reid.training.callbacks import Checkpoints, HistoryKeeper, LossGuard, Measurement, ProgressBar
from modelscope_reid.training.history import History, read_history


class StopAt(Callback):
    """Stops the run as a killed process would, before a batch of an epoch (both from 0)."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.place = (epoch, batch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.place:
            raise TrainingError("stopped here")


def checkpoints(folder: Path, every: int = 0) -> Checkpoints:
    return Checkpoints(folder / "last.ckpt", every_batches=every)


def constant(*numbers: float) -> OneNumber:
    return OneNumber(lambda epoch: list(numbers))


@pytest.mark.parametrize(("bad", "word"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(bad: float, word: str, tmp_path: Path) -> None:
    module = OneNumber(lambda epoch: [1.0, 2.0, bad if epoch == 1 else 3.0, 4.0])
    with pytest.raises(TrainingError) as caught:
        run(module, tmp_path, [LossGuard(tmp_path), checkpoints(tmp_path)], epochs=3)
    message = str(caught.value)
    assert "\n" not in message
    assert f"not finite in epoch 2, batch 3 (loss {word}, identity {word})" in message
    assert "Lower the learning rate" in message
    path = tmp_path / "not_finite_rank0.pt"
    assert str(path) in message
    saved = torch.load(path, weights_only=True)
    assert (saved["epoch"], saved["batch"]) == (1, 2)
    assert set(saved["losses"]) == {"loss", "identity"}
    torch.testing.assert_close(saved["data"][0], torch.full((2,), bad), equal_nan=True)
    assert len(module.seen) == 4 + 3
    weight = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["weight"]
    assert torch.isfinite(weight), "the last checkpoint is from before"


def test_finite_losses_pass(tmp_path: Path) -> None:
    run(constant(1.0, -5.0), tmp_path, [LossGuard(tmp_path), checkpoints(tmp_path)])
    assert not list(tmp_path.glob("not_finite*"))


def test_the_history_has_means_rate_and_speed(tmp_path: Path) -> None:
    history = History(tmp_path)
    module = OneNumber(lambda epoch: [0.0, 4.0 * (epoch + 1)])  # the gradient is the number, the rate 0.001
    run(module, tmp_path, [HistoryKeeper(history, "images"), checkpoints(tmp_path)], epochs=2)
    first, second = read_history(tmp_path).rows
    assert (first["stage"], first["epoch"], second["epoch"]) == ("images", 1, 2)
    assert first["loss"] == pytest.approx((0 + 4) / 2)
    # 0 leaves the weight, 4 takes 0.004 from it.
    assert second["loss"] == second["identity"] == pytest.approx((0 + 0.996 * 8) / 2)
    assert first["learning_rate"] == 0.001
    assert first["images_per_second"] == pytest.approx(4 / first["seconds"])
    assert 0 <= first["waiting_share"] <= 1


def test_the_loss_of_accumulated_batches_is_not_divided(tmp_path: Path) -> None:
    history = History(tmp_path)
    run(constant(4.0, 4.0), tmp_path, [HistoryKeeper(history, "images"), checkpoints(tmp_path)], accumulate=2)
    assert history.rows[0]["loss"] == history.rows[0]["identity"] == pytest.approx(4.0)


def test_the_history_keepers_state_goes_there_and_back(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add("images", 1, {"loss": 2.0})
    keeper = HistoryKeeper(history, "images")
    keeper.sums, keeper.images, keeper.batches, keeper.seconds, keeper.waited = {"loss": 6.0}, 8, 2, 4.0, 1.0
    torch.save(keeper.state_dict(), tmp_path / "state")
    history.add("images", 2, {"loss": 9.0})  # after the checkpoint: forgotten
    other = HistoryKeeper(History(tmp_path), "images")
    other.history.add("images", 1, {"loss": 7.0})
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert other.history.rows == [{"stage": "images", "epoch": 1, "loss": 2.0}]
    assert other.state_dict() == {
        "rows": other.history.rows, "sums": {"loss": 6.0}, "images": 8, "batches": 2, "seconds": 4.0, "waited": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("place", [(0, 1), (0, 3), (1, 0), (1, 2), (2, 4)])
def test_a_resumed_run_is_the_run(place: tuple[int, int], tmp_path: Path) -> None:
    """Epochs of different length, checkpoints every second batch: losses, weights, history and best are the same."""

    def plans(epoch: int) -> list[float]:
        return [float(10 * epoch + number) for number in range(4 + epoch)]

    def go(folder: Path, *more: Callback, resume: bool = False) -> tuple[OneNumber, History, Measurement]:
        folder.mkdir(exist_ok=True)
        history = read_history(folder)
        measurement = Measurement(
            lambda module: {"mAP": float(module.weight.detach())},  # type: ignore[arg-type, operator]
            history, "images", every=1, keep_best=lambda module: None,
        )  # fmt: skip
        watchers = [HistoryKeeper(history, "images"), measurement, *more, checkpoints(folder, every=2)]
        path = folder / "last.ckpt"
        module = OneNumber(plans)
        run(module, folder, watchers, epochs=3, checkpoint=path if resume and path.exists() else None)
        return module, history, measurement

    whole, history, measurement = go(tmp_path / "whole")
    with pytest.raises(TrainingError, match="stopped here"):
        go(tmp_path / "stopped", StopAt(*place))
    resumed, again, best = go(tmp_path / "stopped", resume=True)
    assert whole.seen == [(epoch, number) for epoch in range(3) for number in plans(epoch)]
    done = len([one for one in whole.seen if one < (place[0], plans(place[0])[place[1]])])
    # The last checkpoint is after an even batch of the epoch, or at its start.
    start = done - place[1] % 2
    assert resumed.seen == whole.seen[start:]
    assert torch.equal(resumed.weight, whole.weight)
    timed = ("seconds", "images_per_second", "waiting_share")
    for row in (*history.rows, *again.rows):
        assert all(row.pop(name) >= 0 for name in timed)
    assert again.rows == history.rows
    assert best.best == measurement.best


@pytest.mark.parametrize(
    ("every", "epochs", "expected"), [(0, 3, []), (1, 3, [1, 2, 3]), (2, 5, [1, 2, 4, 5]), (9, 1, [1])]
)
def test_when_it_is_measured(every: int, epochs: int, expected: list[int], tmp_path: Path) -> None:
    history, kept = History(tmp_path), []
    figures = {1: 0.3, 2: 0.5, 3: 0.5, 4: 0.4, 5: 0.6}

    def measure(module: LightningModule) -> dict[str, float]:
        return {"mAP": figures[module.current_epoch + 1], "rank1": 1.0}

    watcher = Measurement(
        measure, history, "images", every=every, keep_best=lambda module: kept.append(module.current_epoch + 1)
    )
    run(constant(1.0), tmp_path, [watcher, checkpoints(tmp_path)], epochs=epochs)
    assert history.column("images", "mAP") == (expected, [figures[epoch] for epoch in expected])
    best = [epoch for epoch in expected if all(figures[epoch] > figures[other] for other in expected if other < epoch)]
    assert kept == best
    assert watcher.state_dict() == {"best": max([figures[epoch] for epoch in expected], default=-1.0)}


def test_the_best_so_far_is_kept_over_a_stop(tmp_path: Path) -> None:
    kept: list[int] = []
    watcher = Measurement(
        lambda module: {"mAP": 0.4}, History(tmp_path), "images", every=1, keep_best=lambda module: kept.append(1)
    )
    watcher.load_state_dict({"best": 0.5})
    run(constant(1.0), tmp_path, [watcher, checkpoints(tmp_path)])
    assert kept == []


def test_a_checkpoint_is_written_every_so_many_batches(tmp_path: Path) -> None:
    batches: list[int] = []

    class Watched(Checkpoints):
        def _write(self, trainer: Trainer) -> None:
            super()._write(trainer)
            batches.append(trainer.global_step)

    run(constant(*[1.0] * 7), tmp_path, [Watched(tmp_path / "last.ckpt", every_batches=3)], epochs=2)
    # After batches 3 and 6, and each epoch; 7 batches an epoch.
    assert batches == [3, 6, 7, 10, 13, 14]
    batches.clear()
    run(constant(*[1.0] * 6), tmp_path, [Watched(tmp_path / "last.ckpt", every_batches=3)])
    assert batches == [3, 6], "not twice at the end of the epoch"


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
)
def test_a_full_disk_leaves_the_old_checkpoint(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(constant(1.0), tmp_path, [checkpoints(tmp_path)])
    before = (tmp_path / "last.ckpt").read_bytes()

    def full(trainer: Trainer, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    with pytest.raises(InputError, match=r"last\.ckpt cannot be written: .*make room"):
        run(constant(1.0), tmp_path, [checkpoints(tmp_path)])
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert files(tmp_path) == {"last.ckpt"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_torchs_own_error_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch itself writes, to a device without room."""
    monkeypatch.setattr(Trainer, "save_checkpoint", lambda trainer, path: torch.save({"a": 1}, "/dev/full"))
    with pytest.raises(InputError, match=r"last\.ckpt cannot be written"):
        run(constant(1.0), tmp_path, [checkpoints(tmp_path)])
    assert files(tmp_path) == set()


def test_a_checkpoint_needs_no_room_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own way is by the system's folder for temporary files, where a killed run leaves gigabytes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    run(constant(1.0), tmp_path, [checkpoints(tmp_path)])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1


def test_a_checkpoint_is_readable_by_others_and_alone(tmp_path: Path) -> None:
    run(constant(1.0), tmp_path, [checkpoints(tmp_path)])
    assert (tmp_path / "last.ckpt").stat().st_mode & 0o777 == 0o644
    assert files(tmp_path) == {"last.ckpt"}


def test_the_bar_counts_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("images")
    run(constant(1.0, 2.0, 3.0), tmp_path, [bar, checkpoints(tmp_path)], epochs=2)
    assert (bar.bar.n, bar.bar.total) == (12, 12)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "images" in captured.err and "epoch 2/2" in captured.err


def test_the_bar_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        run(constant(1.0, 2.0, 3.0), tmp_path, [StopAt(1, 1), checkpoints(tmp_path, every=1)], epochs=2)
    bar = ProgressBar("images")
    module = constant(1.0, 2.0, 3.0)
    run(module, tmp_path, [bar, checkpoints(tmp_path)], epochs=2, checkpoint=tmp_path / "last.ckpt")
    assert module.seen == [(1, 2.0), (1, 3.0)]
    assert (bar.bar.initial, bar.bar.n, bar.bar.total) == (8, 12, 12)
