"""One stage under Lightning: devices, precision, processes, logs, checkpoints.

In: a Lightning module and how long to train it. Out: the module, trained. Knows nothing of recipes' meaning.

Several processes are torchrun's (`torchrun --nproc-per-node 8 -m modelscope_reid train …`); without it there is one.
"""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from modelscope_reid.errors import ConfigError, InputError
from modelscope_reid.training.recipe import Precision
from modelscope_reid.training.stage_specs import OptimizerSpec

PRECISIONS: dict[Precision, str] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def processes() -> tuple[int, int]:
    """Return this process's number and how many there are, as torchrun says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def training_device(device: str | None) -> torch.device:
    """Return the device to train on: `device`, or the first GPU, or the CPU.

    Raises:
        InputError: this machine or this torch does not have it.
    """
    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(wanted)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {wanted!r} cannot be used here ({str(error).splitlines()[0]}); use 'cpu', or 'cuda' on a GPU."
        ) from error
    if found.type not in ("cpu", "cuda"):
        raise InputError(f"device {wanted!r} is not one that training runs on; use 'cpu', or 'cuda' on a GPU.")
    return found


def run_stage(
    module: LightningModule,
    *,
    epochs: int,
    optimizer: OptimizerSpec,
    precision: Precision,
    device: torch.device,
    callbacks: Sequence[Callback],
    logs: Path,
    checkpoint: Path | None,
) -> None:
    """Train `module` for `epochs`, from `checkpoint` on where there is one.

    Raises:
        ConfigError: a precision that the device does not have.
        KeyboardInterrupt: interrupted; the last checkpoint stands.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; on a CPU use bf16 or fp32.")
    count = processes()[1]
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    with _quiet():
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" and count == 1 else local,
            num_nodes=count // local,
            strategy="ddp" if count > 1 else "auto",
            sync_batchnorm=count > 1 and device.type == "cuda",
            precision=PRECISIONS[precision],  # type: ignore[arg-type]  # Lightning's list of literals
            max_epochs=epochs,
            accumulate_grad_batches=optimizer.accumulate,
            gradient_clip_val=optimizer.clip_gradient or None,
            logger=TensorBoardLogger(logs.parent, name=logs.name, version=""),
            callbacks=list(callbacks),
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            plugins=[_DirectFiles()],
        )
        with _interruptible(trainer):
            trainer.fit(module, ckpt_path=checkpoint)


class _DirectFiles(TorchCheckpointIO):
    """Writes a checkpoint where it is told; Lightning's own makes two copies in memory and one in the system's /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it; callbacks.py renames it when it is whole."""
        torch.save(checkpoint, path)


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt: Lightning makes it an exit, and leaves the signal ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not trainer.interrupted or error.code != 1:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice to itself: what it says is of our making, or said better by us."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.*|.*srun.*|.*num_workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
