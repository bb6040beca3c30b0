"""What watches a stage while Lightning runs it: the loss, the history, measurements, checkpoints, progress.

In: Lightning's events. Out: files in the run folder, a bar on stderr, or a `TrainingError`. Knows nothing of what the
losses are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from tqdm.auto import tqdm

from modelscope_reid.errors import InputError, TrainingError
from modelscope_reid.files import whole_file
from modelscope_reid.training.history import History

Losses = Mapping[str, Tensor]


def _values(trainer: Trainer, outputs: Losses) -> dict[str, float]:
    """Return the losses of one batch as numbers; Lightning has divided the sum by the batches of one step."""
    values = {name: float(value) for name, value in outputs.items()}
    return {**values, "loss": values["loss"] * trainer.accumulate_grad_batches}


class LossGuard(Callback):
    """Stops at the first loss that is not finite, with the batch saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Raise `TrainingError` where the loss is NaN or infinite."""
        if bool(torch.isfinite(outputs["loss"])):
            return
        path = self.folder / f"not_finite_rank{trainer.global_rank}.pt"
        losses = {name: float(value) for name, value in outputs.items()}
        where = {"epoch": trainer.current_epoch, "batch": batch_idx}
        with whole_file(path) as temporary:
            torch.save({**where, "losses": losses, "data": tuple(batch)}, temporary)
        found = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise TrainingError(
            f"the loss is not finite in epoch {where['epoch'] + 1}, batch {batch_idx + 1} ({found}); that batch is "
            f"in {path}. Lower the learning rate or lengthen the warm-up, or train in fp32, and start again."
        )


class HistoryKeeper(Callback):
    """Adds each epoch's mean losses, rate, speed and share of waiting to the history; travels in checkpoints."""

    def __init__(self, history: History, stage: str) -> None:
        self.history, self.stage = history, stage
        self.sums: dict[str, float] = {}
        self.images = 0
        self.batches = 0
        self.seconds = 0.0
        self.waited = 0.0
        self._mark = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self.sums, self.images, self.batches, self.seconds, self.waited = {}, 0, 0, 0.0, 0.0
        self._mark = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the time since the last batch as waiting for data."""
        now = time.perf_counter()
        if self._mark:
            self.waited += now - self._mark
            self.seconds += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up the losses and the time."""
        values = _values(trainer, outputs)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.batches += 1
        self.images += len(batch[0]) * trainer.world_size
        now = time.perf_counter()
        self.seconds += now - self._mark
        self._mark = now
        if trainer.logger and batch_idx % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            logged = {f"{self.stage}/{name}": value for name, value in values.items()}
            trainer.logger.log_metrics(logged, step=trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's row."""
        means = {name: total / max(self.batches, 1) for name, total in self.sums.items()}
        row = {
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            **means,
            "images_per_second": self.images / max(self.seconds, 1e-9),
            "seconds": self.seconds,
            "waiting_share": self.waited / max(self.seconds, 1e-9),
        }
        self.history.add(self.stage, trainer.current_epoch + 1, row)
        if trainer.is_global_zero:
            self.history.write()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the sums of an epoch that has begun."""
        begun = {"sums": self.sums, "images": self.images, "batches": self.batches}
        return {"rows": self.history.rows, **begun, "seconds": self.seconds, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the rows and sums of a checkpoint."""
        self.history.rows = list(state_dict["rows"])
        self.sums = dict(state_dict["sums"])
        self.images, self.batches = state_dict["images"], state_dict["batches"]
        self.seconds, self.waited = state_dict["seconds"], state_dict["waited"]


class Measurement(Callback):
    """Measures the model every few epochs; `measure(module)` returns figures by name, mAP among them."""

    def __init__(
        self,
        measure: Callable[[LightningModule], dict[str, float]],
        history: History,
        stage: str,
        *,
        every: int,
        keep_best: Callable[[LightningModule], None],
    ) -> None:
        self.measure, self.history, self.stage, self.every = measure, history, stage, every
        self.keep_best = keep_best
        self.best = -1.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure on the first process, while the others wait; keep the model where it is the best so far."""
        epoch = trainer.current_epoch + 1
        if not self.every or not (epoch % self.every == 0 or epoch in (1, trainer.max_epochs)):
            return
        if trainer.is_global_zero:
            figures = self.measure(pl_module)
            self.history.add(self.stage, epoch, figures)
            self.history.write()
            if trainer.logger:
                values = {f"{self.stage}/{name}": value for name, value in figures.items()}
                trainer.logger.log_metrics(values, step=trainer.global_step)
            if figures["mAP"] > self.best:
                self.best = figures["mAP"]
                self.keep_best(pl_module)
        trainer.strategy.barrier("measured")

    def state_dict(self) -> dict[str, Any]:
        """Return the best mAP so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best mAP of a checkpoint."""
        self.best = state_dict["best"]


class Checkpoints(Checkpoint):
    """Writes the last state after each epoch, and every so many batches: to a temporary name, then renamed."""

    def __init__(self, path: Path, *, every_batches: int = 0) -> None:
        self.path, self.every_batches = path, every_batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write where enough batches have passed; the last of an epoch is left to the epoch's end.

        Never between batches whose gradients are added up: a checkpoint holds no gradients.
        """
        number = batch_idx + 1
        due = self.every_batches and number % self.every_batches == 0
        if due and number % trainer.accumulate_grad_batches == 0 and number < trainer.num_training_batches:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        with whole_file(self.path) if trainer.is_global_zero else nullcontext(self.path) as temporary:
            try:
                trainer.save_checkpoint(temporary)
            except RuntimeError as error:  # torch's for a full disk
                raise InputError(f"{self.path} cannot be written: {error}; make room, then resume.") from error


class ProgressBar(Callback):
    """One bar for the whole stage on stderr: loss, images a second, time left."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar: Any = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar by one batch's images."""
        if not trainer.is_global_zero:
            return
        images = len(batch[0]) * trainer.world_size
        total = int(trainer.num_training_batches) * int(trainer.max_epochs or 0) * images
        if self.bar is None:
            seen = (trainer.current_epoch * int(trainer.num_training_batches) + batch_idx) * images
            self.bar = tqdm(total=total, initial=seen, desc=self.stage, unit="img", mininterval=1.0, smoothing=0.05)
        self.bar.total = total
        self.bar.set_postfix_str(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, loss {_values(trainer, outputs)['loss']:.3f}",
            refresh=False,
        )
        self.bar.update(images)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
