"""Devices, precisions, processes and interruptions of one stage."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from one_number import OneNumber, run

from modelscope_reid.errors import ConfigError, InputError
from modelscope_reid.training.callbacks import Checkpoints
from modelscope_reid.training.loop import processes, run_stage, training_device
from modelscope_reid.training.stage_specs import OptimizerSpec

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")


def module(*numbers: float) -> OneNumber:
    return OneNumber(lambda epoch: list(numbers or (1.0, 2.0)))


class At(Callback):
    """Calls a function at the start of the second batch."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.function(trainer)


@NO_GPU
def test_the_device_without_a_gpu() -> None:
    assert training_device(None) == torch.device("cpu")
    assert training_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_with_a_gpu() -> None:
    assert training_device(None).type == "cuda"
    assert training_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    "device", ["gpu", "tpu:0", "", "meta", "cuda:99", pytest.param("cuda", marks=NO_GPU), pytest.param("mps")]
)
def test_devices_that_cannot_be_used(device: str) -> None:
    if device == "":
        assert training_device(device) == training_device(None)
        return
    with pytest.raises(InputError, match=rf"^device '{device}' .*; use 'cpu', or 'cuda' on a GPU\.$") as caught:
        training_device(device)
    assert "\n" not in str(caught.value)


def test_processes_are_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert processes() == (3, 8)


def test_fp16_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision fp16 needs a GPU; on a CPU use bf16 or fp32"):
        run_stage(
            module(),
            epochs=1,
            optimizer=OptimizerSpec(),
            precision="fp16",
            device=torch.device("cpu"),
            callbacks=[],
            logs=tmp_path / "logs",
            checkpoint=None,
        )
    assert list(tmp_path.iterdir()) == []


def test_epochs_steps_and_files(tmp_path: Path) -> None:
    trained = run(module(1.0, 2.0, 3.0), tmp_path, [Checkpoint()], epochs=2)
    assert trained.seen == [(epoch, number) for epoch in (0, 1) for number in (1.0, 2.0, 3.0)]
    assert trained.weight.item() == pytest.approx(1.0 - 2 * 0.001 * 6)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    assert {path.name.split(".")[0] for path in (tmp_path / "logs").iterdir()} == {"events", "hparams"}


def test_accumulated_and_clipped(tmp_path: Path) -> None:
    accumulated = run(module(1.0, 3.0), tmp_path, [Checkpoint()], accumulate=2)
    assert accumulated.weight.item() == pytest.approx(1.0 - 0.001 * (1 + 3) / 2)
    clipped = run(module(100.0), tmp_path, [Checkpoint()], clip_gradient=5.0)
    assert clipped.weight.item() == pytest.approx(1.0 - 0.001 * 5, abs=1e-6)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, also where a shell started the tests in its background and so with the signal ignored."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
def test_interrupted(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    path = tmp_path / "last.ckpt"
    with pytest.raises(KeyboardInterrupt):
        run(
            module(),
            tmp_path,
            [At(lambda trainer: signal.raise_signal(signal.SIGINT)), Checkpoints(path, every_batches=1)],
        )
    assert signal.getsignal(signal.SIGINT) is before, "a second Ctrl-C must work"
    resumed = run(module(), tmp_path, [Checkpoints(path)], checkpoint=path)
    assert resumed.seen == [(0, 2.0)]


def test_an_exit_that_somebody_asked_for_is_one(tmp_path: Path) -> None:
    def leave(trainer: Trainer) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        run(module(), tmp_path, [At(leave), Checkpoint()])
    assert caught.value.code == 3


def test_lightnings_advice_is_kept_from_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lightning.pytorch")
    level, filters = logger.level, list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(module(), tmp_path, [Checkpoint()])
    assert caplog.records == []
    assert (logger.level, warnings.filters) == (level, filters)
